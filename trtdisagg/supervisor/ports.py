"""Finds out before anything starts whether an address can be listened on, and who has it if not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

import anyio

from trtdisagg.errors import StartupError
from trtdisagg.net import holder

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


def _addresses(host: str, port: int, what: str) -> list[Any]:
    try:
        return list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)))
    except socket.gaierror as e:
        raise StartupError(f"{what} cannot listen on {host}: {e.strerror}") from e
