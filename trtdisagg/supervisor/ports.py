"""Finds out before anything starts whether an address can be listened on, and who has it if not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import anyio

from trtdisagg.errors import StartupError
from trtdisagg.net import holder

_BACKLOG = 4096
_STUCK_TIMEOUT_S = 120.0
_FREE_TIMEOUT_S = 5.0
_LOOK_AGAIN_S = 0.1


def check_free(host: str, port: int, what: str) -> None:
    """Try an address.

    :param what: who wants it, for the message.
    :raises StartupError: when it cannot be had; the message names the process that has it.
    """
    for family, kind, protocol, _, address in _addresses(host, port, what):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as e:
            raise StartupError(f"{what} cannot listen on {host}:{port}: {_why(e, port)}") from e


async def until_free(host: str, port: int, what: str) -> None:
    """Wait until the port of a server that has ended can be had again: its connections may be closing still. One that
    stays taken is for the server to complain about."""
    with anyio.move_on_after(_FREE_TIMEOUT_S):
        while True:
            with contextlib.suppress(StartupError):
                return check_free(host, port, what)
            await anyio.sleep(_LOOK_AGAIN_S)


def _why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use by {holder(port)}"
    return os.strerror(error.errno or 0)


@contextlib.contextmanager
def listening(host: str, port: int, what: str) -> Iterator[list[socket.socket]]:
    """Sockets that listen on an address as long as the block runs, for children to accept on: clients that come while
    none does wait in the kernel.

    :param port: 0: any that is free.
    :param what: who wants it, for the message.
    :raises StartupError: when it cannot be had; the message names the process that has it.
    """
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(sock) for sock in _open(host, port, what)]


def _open(host: str, port: int, what: str) -> Iterator[socket.socket]:
    check_free(host, port, what)
    for family, _, _, _, address in _addresses(host, port, what):
        with contextlib.suppress(_NotHereError):
            sock = _listen(family, address[0], port)
            port = sock.getsockname()[1]
            yield sock


class _NotHereError(OSError):
    """An address that this machine does not have: `::1` in /etc/hosts without IPv6."""


def _listen(family: int, address: str, port: int) -> socket.socket:
    try:
        sock = socket.create_server((address, port), family=family, backlog=_BACKLOG)
    except OSError as e:
        if e.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NotHereError from e
        raise
    # A client that takes nothing for so long is cut off by the kernel; accepted connections inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_STUCK_TIMEOUT_S * 1000))
    return sock


def _addresses(host: str, port: int, what: str) -> list[Any]:
    try:
        return list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)))
    except socket.gaierror as e:
        raise StartupError(f"{what} cannot listen on {host}: {e.strerror}") from e
