"""Carries the autoscaler's decisions out, one for each model at each interval; of one that fails people are told, and
it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from trtdisagg.config.supervisor_keys import AutoscaleConfig
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.control import ClusterStatus, ScaleRequest, SwitchRequest
from trtdisagg.supervisor.autoscale import Decision, Memory, by_model, decide
from trtdisagg.supervisor.events import Event, Noticed
from trtdisagg.supervisor.operations import Operations
from trtdisagg.supervisor.server_name import ServerName


class Autoscaler:
    """
    :param status: how the cluster is.
    :param config: what is wanted now; it changes when the file is applied anew.
    :ivar line: the last decisions; None: it is off.
    """

    def __init__(
        self,
        status: Callable[[], ClusterStatus],
        config: Callable[[], AutoscaleConfig],
        operations: Operations,
        on_event: Callable[[Event], None],
    ) -> None:
        self._lines: dict[str, str] = {}
        self._status = status
        self._config = config
        self._operations = operations
        self._on_event = on_event
        self._memories: dict[str, Memory] = {}
        """By model, as the names of its servers have it; as the lines."""

    @property
    def line(self) -> str | None:
        return "; ".join(f"{model}: {line}" if model else line for model, line in self._lines.items()) or None

    async def run(self) -> None:
        """Decide again and again, until cancelled."""
        while True:
            await anyio.sleep(self._config().interval_s)
            if self._config().enabled:
                models = by_model(self._status())
                self._lines = {model: self._lines.get(model, "") for model in models}
                for model in models:
                    await self._step(model)
            else:
                self._lines, self._memories = {}, {}

    async def _step(self, model: str) -> None:
        """Decide for one model; what is done for it takes from what the next may have, so that one looks anew."""
        config, status = self._config(), by_model(self._status()).get(model)
        if status is None:
            return  # its last server has gone meanwhile
        memory = self._memories.get(model, Memory())
        decision, self._memories[model] = decide(status, config, memory, time.monotonic())
        line = f"dry run: {decision.line}" if config.dry_run else decision.line
        before, self._lines[model] = self._lines[model], line
        if decision.verb == "keep":
            return
        if not config.dry_run:
            self._say(model, line)
            await self._try(model, decision)
        elif line != before:
            self._say(model, line)

    async def _try(self, model: str, decision: Decision) -> None:
        """The pause begins when it is done: new servers may load for long."""
        try:
            await self._carry_out(model, decision)
        except TrtdisaggError as e:
            self._lines[model] = f"{decision.line}; failed: {e}"
            self._say(model, self._lines[model])
        self._memories[model] = self._memories[model].changed(time.monotonic())

    async def _carry_out(self, model: str, decision: Decision) -> None:
        assert decision.role is not None
        if decision.verb == "move":
            assert decision.server is not None
            await self._operations.switch(SwitchRequest(name=decision.server, role=decision.role))
        else:
            group = ServerName(model, decision.role, 0).group
            await self._operations.scale(ScaleRequest(counts={group: decision.count}))

    def _say(self, model: str, line: str) -> None:
        text = f"autoscale {model}: {line}" if model else f"autoscale: {line}"
        self._on_event(Noticed(at=time.monotonic(), text=text))
