"""The socket an engine listens on: opened before anything is loaded, so that a port that is taken is known at once."""

from __future__ import annotations

import errno
import ipaddress
import socket

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.net import BACKLOG, address_towards, holder, is_loopback


def open_socket(host: str, port: int, *, has_secret: bool) -> socket.socket:
    """Listen on `host`.

    :param port: 0: any free one.
    :raises ConfigError: when others could reach it and there is no secret.
    :raises StartupError: when the port is taken or the host is not here.
    """
    family, address = resolve(host, port)
    if not has_secret and not is_loopback(address[0]):
        raise ConfigError(
            f"others can reach {host}, and there is no secret: name a `secret_file`, or an address of this host alone"
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        why = f"the port is in use by {holder(port)}" if e.errno == errno.EADDRINUSE else e.strerror
        raise StartupError(f"cannot listen on {host}:{port}: {why}") from e
    return listener


def reachable(host: str) -> str:
    """The address that others can use of a server that listens on `host`.

    Listening on all addresses, it is the one that this machine uses to reach others.
    """
    address = ipaddress.ip_address(resolve(host)[1][0])
    if not address.is_unspecified:
        return host
    try:
        return address_towards("192.0.2.1" if address.version == 4 else "2001:db8::1")
    except OSError as e:
        raise StartupError(f"no address of this machine can be reached by others: {e.strerror or e}") from e


def resolve(host: str, port: int = 0) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The address to listen on.

    :raises StartupError: when nobody knows the host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as e:
        raise StartupError(f"cannot listen on {host}: {e.strerror or e}") from e
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))
