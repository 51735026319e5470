"""The sockets that clients come through. The agent's own, so that clients wait while no proxy accepts."""

from __future__ import annotations

import contextlib

from trtdisagg.net import open_sockets
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.supervisor.state import PROXY


class Door:
    """Listens where the proxy shall be; a proxy that is started inherits what is open then.

    :ivar fds: the sockets.
    """

    def __init__(self) -> None:
        self.fds: list[int] = []
        self._address: tuple[str, int] | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def move(self, spec: ProxySpec) -> None:
        """Listen where a spec says; where that is elsewhere than before, nobody new comes in at the old place.

        :raises StartupError: when it cannot be had; then all is as before.
        """
        if (spec.host, spec.port) == self._address:
            return
        sockets = open_sockets(spec.host, spec.port, stuck_timeout_s=spec.idle_timeout_s, who=PROXY)
        self._open.close()
        for sock in sockets:
            self._open.enter_context(sock)
        self._address = spec.host, spec.port
        self.fds = [sock.fileno() for sock in sockets]
