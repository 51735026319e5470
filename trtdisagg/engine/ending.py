"""How an engine process ends: what signals mean, and what a drain waits for."""

from __future__ import annotations

import asyncio
import logging
import signal

from trtdisagg.engine.http.service import Service

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.05
SAY_EVERY_S = 1.0


class Signals:
    """First drain, then end. Before there is anything to drain, the first signal ends.

    :param serving: cancelled in order to end.
    """

    def __init__(self, service: Service, serving: asyncio.Task[None]) -> None:
        self.cut_short = False
        self.number = 0
        self._service = service
        self._serving = serving
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)

    def _asked_to_end(self, number: int) -> None:
        self.number = number
        if self._service.is_open and not self._service.is_draining:
            self._service.drain()
        else:
            self.cut_short = True
            if left := self._service.unfinished:
                log.warning("cut short: %s", left)
            self._service.delivery.cut_short()
            self._serving.cancel()


async def drained(service: Service) -> None:
    """Wait until a drain was asked for and is over, saying now and then what is left."""
    loop = asyncio.get_running_loop()
    said, say_at = None, 0.0
    while not service.is_draining or (left := service.unfinished):
        if service.is_draining and left != said and loop.time() >= say_at:
            log.info("draining; waits for: %s", left)
            said, say_at = left, loop.time() + SAY_EVERY_S
        await asyncio.sleep(DRAIN_POLL_S)
    log.info("drained")
