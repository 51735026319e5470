"""The C++ extension, or None where the install had no compiler; then plain torch does the same work, slower."""

from __future__ import annotations

import functools
import importlib
import logging
from types import ModuleType

_log = logging.getLogger(__name__)


@functools.cache
def extension() -> ModuleType | None:
    """`trtdisagg._csrc`; where it is missing, None, and one line in the log says so."""
    try:
        return importlib.import_module("trtdisagg._csrc")
    except ImportError as e:
        _log.warning("the C++ extension is missing (%s): plain torch runs in its place, slower", e)
        return None
