"""The sockets that clients come through. The agent's own, so that clients wait while no proxy accepts."""

from __future__ import annotations

import contextlib

from trtdisagg.protocol.spec import ProxySpec
from trtdisagg.supervisor import ports
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
        with contextlib.ExitStack() as opening:
            sockets = opening.enter_context(ports.listening(spec.host, spec.port, PROXY))
            self._open.close()
            self._open = opening.pop_all()
        self._address = spec.host, spec.port
        self.fds = [sock.fileno() for sock in sockets]
