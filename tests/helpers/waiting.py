"""Waiting for what comes soon on any machine, however busy."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 90.0
"""Longer than what is waited for takes anywhere, and shorter than a test may take: a wait that fails says for what."""
_LOOK_AGAIN_S = 0.01


def until(
    is_so: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S, instead: Callable[[], object] = str
) -> None:
    """Wait for what nothing tells about.

    :param instead: called for what is so when the deadline has passed.
    """
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what} {instead()}"
        time.sleep(_LOOK_AGAIN_S)
