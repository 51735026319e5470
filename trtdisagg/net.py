"""Addresses, as both halves need them: how one is written, who can reach it, who has its port, and to listen on it."""

from __future__ import annotations

import errno
import ipaddress
import socket

from trtdisagg.errors import StartupError

BACKLOG = 1024
"""Clients that wait to be accepted."""
_DISCARD = 9
"""Any port."""


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[::1]:port` -> host, port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach what listens on an address.

    A name counts as reachable by others, but for `localhost`: where it leads is not looked up.
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def holder(port: int) -> str:
    """Which process listens on a port, in words."""
    import psutil  # only when something is wrong

    try:
        listeners = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        listeners = []
    pid = next((c.pid for c in listeners if c.laddr[1:] == (port,) and c.pid is not None), None)
    if pid is None:
        return "a process of another user"
    try:
        process = psutil.Process(pid)
        return f"pid {pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    except psutil.Error:
        return f"pid {pid}"


def address_towards(other: str) -> str:
    """Our address on the way to another.

    :raises OSError: there is no way.
    """
    with socket.socket(_family(other), socket.SOCK_DGRAM) as probe:
        probe.connect((other, _DISCARD))  # sends nothing: the kernel only chooses an address
        return str(probe.getsockname()[0])


def listen_anywhere(host: str) -> socket.socket:
    """Listen on any free port of a host.

    :raises OSError: it is none of ours.
    """
    address = str(socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][4][0])
    return socket.create_server((address, 0), family=_family(address))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_sockets(host: str, port: int, *, stuck_timeout_s: float, who: str | None = None) -> list[socket.socket]:
    """Listen on each address of a host.

    :param port: 0: any free one, the same on each address.
    :param stuck_timeout_s: a client that takes nothing for this long is cut off by the kernel.
    :param who: wants it, for the message.
    :raises StartupError: when there is none to listen on; the message names the process that has the port.
    """
    cannot = f"{who} cannot" if who else "cannot"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as e:
        raise StartupError(f"{cannot} listen on {host}: {e.strerror or e}") from e
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            taken = sockets[0].getsockname()[1] if sockets else port
            sockets += _try_listen(family, (str(address[0]), taken, *address[2:]), stuck_timeout_s)
    except OSError as e:
        for sock in sockets:
            sock.close()
        raise StartupError(f"{cannot} {_explain(host, port, e)}") from e
    if not sockets:
        raise StartupError(f"{cannot} listen on {host}: no address of it is on this machine")
    return sockets


def cut_off_stuck(sock: socket.socket, timeout_s: float) -> None:
    """Have the kernel cut off a client that takes nothing for so long; accepted connections inherit it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout_s * 1000))


def _try_listen(family: int, address: tuple[object, ...], stuck_timeout_s: float) -> list[socket.socket]:
    """Listen on one address; nothing, when this machine does not have it (`::1` in /etc/hosts without IPv6)."""
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        cut_off_stuck(sock, stuck_timeout_s)
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


def _explain(host: str, port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"listen on {host}:{port}: {error.strerror or error}"
    return f"listen on {host}:{port}: the port is in use by {holder(port)}"
