"""Carries the autoscaler's decisions out, one at each interval; of one that fails people are told, and it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from trtdisagg.config.schema import AutoscaleConfig
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.control import ClusterStatus, ScaleRequest, SwitchRequest
from trtdisagg.supervisor.autoscale import Decision, Memory, decide
from trtdisagg.supervisor.events import Event, Noticed
from trtdisagg.supervisor.operations import Operations


class Autoscaler:
    """
    :param status: how the cluster is.
    :param config: what is wanted now; it changes when the file is applied anew.
    :ivar line: the last decision; None: it is off.
    """

    def __init__(
        self,
        status: Callable[[], ClusterStatus],
        config: Callable[[], AutoscaleConfig],
        operations: Operations,
        on_event: Callable[[Event], None],
    ) -> None:
        self.line: str | None = None
        self._status = status
        self._config = config
        self._operations = operations
        self._on_event = on_event
        self._memory = Memory()

    async def run(self) -> None:
        """Decide again and again, until cancelled."""
        while True:
            await anyio.sleep(self._config().interval_s)
            if self._config().enabled:
                await self._step()
            else:
                self.line, self._memory = None, Memory()

    async def _step(self) -> None:
        config = self._config()
        decision, self._memory = decide(self._status(), config, self._memory, time.monotonic())
        before, self.line = self.line, f"dry run: {decision.line}" if config.dry_run else decision.line
        if decision.verb == "keep":
            return
        if not config.dry_run:
            self._say(self.line)
            await self._try(decision)
        elif self.line != before:
            self._say(self.line)

    async def _try(self, decision: Decision) -> None:
        """The pause begins when it is done: new servers may load for long."""
        try:
            await self._carry_out(decision)
        except TrtdisaggError as e:
            self.line = f"{decision.line}; failed: {e}"
            self._say(self.line)
        self._memory = self._memory.changed(time.monotonic())

    async def _carry_out(self, decision: Decision) -> None:
        assert decision.role is not None
        if decision.verb == "move":
            assert decision.server is not None
            await self._operations.switch(SwitchRequest(name=decision.server, role=decision.role))
        else:
            await self._operations.scale(ScaleRequest(counts={decision.role: decision.count}))

    def _say(self, line: str) -> None:
        self._on_event(Noticed(at=time.monotonic(), text=f"autoscale: {line}"))
