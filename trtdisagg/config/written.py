"""A cluster file that was read, written again: what was given beside it is in it, and it may lie anywhere.

Knows which keys are paths: those that end in `_file`, and the few in `_whole`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import yaml

from trtdisagg.config.load import Loaded

_DROPPED = "extra_llm_api_options"
"""A worker's file, which is part of its section by now."""
_NO_FILE = ("off", "stderr")


def written(loaded: Loaded, comment: str = "") -> str:
    """
    :param comment: the first lines, without `#`.
    :returns: YAML that means the same from any directory; keys at their defaults are left out.
    """
    tree = _tree(loaded.cluster, loaded.path.parent)
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _tree(struct: msgspec.Struct, directory: Path) -> dict[str, Any]:
    found = {}
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if value != _default(field) and field.name != _DROPPED:
            found[field.name] = _plain(field.name, value, directory)
    return found


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _plain(key: str, value: Any, directory: Path) -> Any:
    if isinstance(value, msgspec.Struct):
        return _tree(value, directory)
    if isinstance(value, list):
        return [_plain("", item, directory) for item in value]
    return _whole(key, value, directory) if isinstance(value, str) else value


def _whole(key: str, value: str, directory: Path) -> str:
    """Absolute, if it is a path; a model only where there is something."""
    here = os.path.abspath(directory / Path(value).expanduser())
    if key == "model":
        is_path = ("/" in value or value.endswith(".gguf")) and os.path.exists(here)
    else:
        is_path = key.endswith("_file") or (key == "access_log" and value not in _NO_FILE)
    return here if is_path else value
