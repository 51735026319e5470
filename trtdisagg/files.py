"""Files that others see whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file in place of what may be there.

    :param mode: less what the umask takes; by default only its owner may read it.
    """
    new = path.with_name(f".{path.name}.{os.urandom(4).hex()}")  # one that nobody else writes, or has put there
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        new.rename(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
