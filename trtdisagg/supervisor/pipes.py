"""What comes from a child through descriptors: lines of its pipes, and its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

_MAX_LINE_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024

_Wait = Callable[[int], Awaitable[None]]


def pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose reading end, ours, does not block."""
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    os.set_blocking(read, False)
    return read, write


async def lines(fd: int, wait: _Wait = anyio.wait_readable) -> AsyncIterator[bytes]:
    """Lines with their ends from a pipe that does not block; one that is too long comes in pieces.

    :param wait: called with the pipe before each look at it.
    """
    rest = b""
    while chunk := await _read(fd, wait):
        *ended, rest = (rest + chunk).split(b"\n")
        for line in ended:
            yield line + b"\n"
        if len(rest) >= _MAX_LINE_BYTES:
            yield rest + b"\n"
            rest = b""
    if rest:
        yield rest + b"\n"


async def _read(fd: int, wait: _Wait) -> bytes:
    while True:
        await wait(fd)
        with contextlib.suppress(BlockingIOError):
            return os.read(fd, _READ_BYTES)


async def until_ended(pid: int) -> None:
    """Wait for the end of a child that nobody has reaped."""
    pidfd = os.pidfd_open(pid)
    try:
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)
