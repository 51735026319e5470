"""Lines of JSON that a child says on its stdout to whoever started it; what they mean is in `probe` and `bench`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

import msgspec


@contextlib.contextmanager
def own_stdout() -> Iterator[BinaryIO]:
    """Stdout for us alone: what libraries (UCX, for one) write there goes to stderr from now on."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        yield out


def write_line(out: BinaryIO, message: object) -> None:
    out.write(msgspec.json.encode(message) + b"\n")
    out.flush()
