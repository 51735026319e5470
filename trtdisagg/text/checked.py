"""Values of a request that were left as plain JSON, made into what they should be, or refused by their path."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from trtdisagg.errors import RequestError

_Kind = TypeVar("_Kind")

_PATH = re.compile(r" - at `(?:key in )?\$(.*)`$")


def checked(value: Any, kind: type[_Kind], *, param: str) -> _Kind:
    """
    :param value: made of dicts, lists and plain values.
    :param param: where in the request it stands.
    :raises RequestError: naming the field that is wrong, and why.
    """
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as e:
        path = param + (match[1] if (match := _PATH.search(str(e))) else "")
        raise RequestError(f"Wrong value for `{path}`: {_PATH.sub('', str(e))}", param=path) from None
