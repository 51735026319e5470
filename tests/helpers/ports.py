"""Ports for tests."""

from __future__ import annotations

import fcntl
import os
import random
import socket
from pathlib import Path

_OUTGOING = range(*map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()))
"""The kernel gives these to connections that go out, which may come in between."""
_PORTS = [port for port in range(10_000, 60_000) if port not in _OUTGOING] or range(10_000, 30_000)
_LOCKS = os.open(
    f"/tmp/trtdisagg-test-ports-{os.geteuid()}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
)
"""A file of all test runs on this machine, of which a process has locked a byte for each of its ports."""
_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback address that nobody listens on, and that no other call gets while this process runs."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if port not in _given and _is_ours(port):
            _given.add(port)
            return port
    raise AssertionError(f"none of {len(_PORTS)} ports is free")


def _is_ours(port: int) -> bool:
    try:
        fcntl.lockf(_LOCKS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:  # another test run has it, or somebody listens
        return False
    return True
