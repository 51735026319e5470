"""Files that are read again when they change: API keys, the certificate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from trtdisagg.errors import TrtdisaggError

LOOK_S = 1.0

logger = logging.getLogger(__name__)


class Watched(NamedTuple):
    what: str
    """For the log."""
    paths: tuple[Path, ...]
    reload: Callable[[], None]
    """Raises a TrtdisaggError where they cannot be used; then all is as it was."""


async def watch(files: Sequence[Watched], look_s: float = LOOK_S) -> None:
    """Have what has changed read again, for ever. What cannot be used is said once for each change."""
    seen = [_state(each.paths) for each in files]
    while True:
        await asyncio.sleep(look_s)
        for i, each in enumerate(files):
            if (state := _state(each.paths)) == seen[i]:
                continue
            seen[i] = state
            try:
                each.reload()
            except TrtdisaggError as e:
                logger.warning("%s stay as they were: %s", each.what, e)
            else:
                logger.info("%s were read again", each.what)


def _state(paths: tuple[Path, ...]) -> list[tuple[int, ...]]:
    return [_of(path) for path in paths]


def _of(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode
