"""A service manager's ear: the socket that a service is told of in `NOTIFY_SOCKET`."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
from helpers.cluster import runtime_directory


class Ear:
    """
    :ivar address: value of `NOTIFY_SOCKET`.
    :ivar heard: every line so far, in order.
    """

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.address = address
        self.heard: list[str] = []
        self._sock = sock

    def until(self, start: str, timeout_s: float = 60) -> str:
        """The next line that begins so."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                lines = self._sock.recv(65536).decode().split("\n")
            except TimeoutError:
                raise AssertionError(f"no {start}; heard: {self.heard}") from None
            self.heard += lines
            for line in lines:
                if line.startswith(start):
                    return line

    async def hear(self, start: str, timeout_s: float = 60) -> str:
        """The same for a test whose loop has to go on."""
        return await anyio.to_thread.run_sync(self.until, start, timeout_s)

    def rest(self) -> list[str]:
        """Take what is there already; returns all that was heard."""
        self._sock.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard += self._sock.recv(65536).decode().split("\n")
        return self.heard


@contextlib.contextmanager
def listening(directory: Path, name: str = "notify") -> Iterator[Ear]:
    """:param name: of the socket; with @ in front, one in the kernel's own space."""
    address = name if name.startswith("@") else str(runtime_directory(directory) / name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0", 1))
        yield Ear(sock, address)
