"""Opening the port that clients connect to; a port that is taken is an error that says by whom."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from trtdisagg.errors import StartupError
from trtdisagg.net import holder
from trtdisagg.proxy.http_server import BACKLOG


def open_sockets(host: str, port: int, *, stuck_timeout_s: float) -> list[socket.socket]:
    """Listen on each address of a host.

    :param port: 0: any free one, the same on each address.
    :param stuck_timeout_s: a client that takes nothing for this long is cut off by the kernel.
    :raises StartupError: when there is none to listen on.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as e:
        raise StartupError(f"cannot listen on {host}: {e.strerror or e}") from e
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            taken = sockets[0].getsockname()[1] if sockets else port
            sockets += _try_listen(family, (str(address[0]), taken, *address[2:]), stuck_timeout_s)
    except OSError as e:
        for sock in sockets:
            sock.close()
        raise StartupError(_explain(host, port, e)) from e
    if not sockets:
        raise StartupError(f"cannot listen on {host}: no address of it is on this machine")
    return sockets


def take_sockets(fds: Sequence[int], *, stuck_timeout_s: float) -> list[socket.socket]:
    """Take over inherited sockets that listen already.

    :raises StartupError: when one is something else.
    """
    sockets = []
    for fd in fds:
        try:
            sock = socket.socket(fileno=fd)
            sockets.append(sock)
            sock.set_inheritable(False)
            _cut_off_stuck(sock, stuck_timeout_s)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as e:
            raise StartupError(f"listen_fds: descriptor {fd} is no TCP socket: {e.strerror or e}") from e
        if not listens:
            raise StartupError(f"listen_fds: descriptor {fd} is no socket that listens")
    return sockets


def _try_listen(family: int, address: tuple[object, ...], stuck_timeout_s: float) -> list[socket.socket]:
    """Listen on one address; nothing, when this machine does not have it (`::1` in /etc/hosts without IPv6)."""
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _cut_off_stuck(sock, stuck_timeout_s)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as e:
        if sock is not None:
            sock.close()
        if e.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return []
        raise
    return [sock]


def _cut_off_stuck(sock: socket.socket, timeout_s: float) -> None:
    """Have the kernel cut off a client that takes nothing for so long; accepted connections inherit it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"cannot listen on {host}:{port}: {error.strerror or error}"
    return f"cannot listen on {host}:{port}: the port is in use by {holder(port)}"
