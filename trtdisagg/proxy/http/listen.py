"""Taking over the sockets that an agent keeps for its proxies."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from trtdisagg.errors import StartupError
from trtdisagg.net import cut_off_stuck


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
            cut_off_stuck(sock, stuck_timeout_s)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as e:
            raise StartupError(f"listen_fds: descriptor {fd} is no TCP socket: {e.strerror or e}") from e
        if not listens:
            raise StartupError(f"listen_fds: descriptor {fd} is no socket that listens")
    return sockets
