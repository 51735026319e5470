"""Names all fields of a body that its type does not have, each with the one that was most likely meant.

msgspec stops at the first. This looks at a body that was refused, so it may take its time, but not any time: what is
said of a body is bounded, whatever its size.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from typing import Any

import msgspec

MAX_NAMED = 10
MAX_BODY_BYTES = 256 * 1024
"""Of a larger body nothing but what msgspec says is said."""
MAX_CHARS = 64
"""Of a name: of a longer one the beginning is shown, and nothing is compared with it."""


def name_unknown(body: bytes, kind: type[msgspec.Struct]) -> list[str]:
    """Say each unknown field: its path, and what may have been meant.

    :returns: the first `MAX_NAMED`, and that there are more; nothing of a body that cannot be read to its end.
    """
    if len(body) > MAX_BODY_BYTES:
        return []
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    found = list(itertools.islice(_in(value, msgspec.inspect.type_info(kind), ""), MAX_NAMED + 1))
    return [*found[:MAX_NAMED], "others"] if len(found) > MAX_NAMED else found


def _in(value: Any, kind: msgspec.inspect.Type, path: str) -> Iterator[str]:
    match kind:
        case msgspec.inspect.StructType() if isinstance(value, dict):
            yield from _in_struct(value, kind, path)
        case msgspec.inspect.ListType() if isinstance(value, list):
            for i, item in enumerate(value):
                yield from _in(item, kind.item_type, f"{path}[{i}]")
        case msgspec.inspect.UnionType():
            for inner in kind.types:
                yield from _in(value, inner, path)


def _in_struct(value: dict[str, Any], kind: msgspec.inspect.StructType, path: str) -> Iterator[str]:
    known = {field.encode_name: field.type for field in kind.fields}
    for name, inner in value.items():
        at = f"{path}.{name}" if path else name
        if name in known:
            yield from _in(inner, known[name], at)
        elif kind.forbid_unknown_fields and name != kind.tag_field:
            yield _say(name, f"{path}.{name[:MAX_CHARS]}" if path else name[:MAX_CHARS], list(known))


def _say(name: str, shown: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6) if len(name) <= MAX_CHARS else []
    return f"`{shown}`" + (f" (did you mean `{near[0]}`?)" if near else "")
