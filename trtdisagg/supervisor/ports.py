"""Finds out before anything starts whether an address can be listened on, and who has it if not."""

from __future__ import annotations

import errno
import os
import socket

from trtdisagg.errors import StartupError
from trtdisagg.net import holder


def check_free(host: str, port: int, what: str) -> None:
    """Try an address.

    :param what: who wants it, for the message.
    :raises StartupError: when it cannot be had; the message names the process that has it.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as e:
        raise StartupError(f"{what} cannot listen on {host}: {e.strerror}") from e
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as e:
            raise StartupError(f"{what} cannot listen on {host}:{port}: {_why(e, port)}") from e


def _why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use by {holder(port)}"
    return os.strerror(error.errno or 0)
