"""Outputs on their way from the thread that makes them to the one that awaits them."""

from __future__ import annotations

import threading

from trtdisagg.engine.request import Output


class Responses:
    """Outputs that wait to be taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._outputs: list[Output] = []

    def put(self, outputs: list[Output]) -> None:
        with self._changed:
            self._outputs += outputs
            self._changed.notify_all()

    def take(self, request_id: int | None, timeout_s: float) -> list[Output]:
        def wanted(output: Output) -> bool:
            return request_id is None or output.request_id == request_id

        with self._changed:
            self._changed.wait_for(lambda: any(map(wanted, self._outputs)), timeout_s)
            taken = [o for o in self._outputs if wanted(o)]
            self._outputs = [o for o in self._outputs if not wanted(o)]
        return taken
