"""Where the ranks of a server on several nodes meet: a socket that is bound before rank 0 starts, which inherits it."""

from __future__ import annotations

import socket

from trtdisagg.net import BACKLOG, join_address


class MeetingPoint:
    """Of one incarnation of a server.

    :ivar address: host:port; None: rank 0 has not been started.
    """

    def __init__(self) -> None:
        self.address: str | None = None
        self._socket: socket.socket | None = None

    def bind(self, host: str) -> int:
        """Listen on this node.

        :returns: the descriptor, which is ours until `close`.
        :raises OSError: when it is not this node's address.
        """
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind(address)
        self._socket.listen(BACKLOG)
        bound = self._socket.getsockname()
        self.address = join_address(str(bound[0]), int(bound[1]))
        return self._socket.fileno()

    def found(self, address: str) -> None:
        """Rank 0 is on another node, whose agent has bound it."""
        self.address = address

    def close(self) -> None:
        """Rank 0 has its own, or has not been started."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
