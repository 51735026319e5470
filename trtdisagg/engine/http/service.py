"""Whether this server takes requests: not before its engine is there, while it drains, or when its engine hangs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.intake import Intake, Job
from trtdisagg.engine.http.metrics import Metrics
from trtdisagg.engine.http.running import Engine, Running, running
from trtdisagg.errors import UnavailableError
from trtdisagg.protocol.spec import EngineSpec, Stats
from trtdisagg.text.tokenizer import Tokenizer


class Service:
    """
    :param delivery: where the engine will deliver its outputs.
    """

    def __init__(self, spec: EngineSpec, delivery: Delivery) -> None:
        self.spec = spec
        self.delivery = delivery
        self.metrics = Metrics(model=spec.model, server=spec.name)
        self.num_requests = 0
        """That are being answered now."""
        self._open: tuple[Engine, Tokenizer, Intake] | None = None
        self.is_draining = False

    def open(self, engine: Engine, tokenizer: Tokenizer, secret: bytes) -> None:
        """The engine can serve: requests are taken from now on."""
        self._open = (engine, tokenizer, Intake(self.spec, tokenizer, secret))

    def drain(self) -> None:
        """Take no new requests."""
        self.is_draining = True

    @property
    def is_open(self) -> bool:
        """There is an engine."""
        return self._open is not None

    @property
    def is_drained(self) -> bool:
        """Nothing is being answered, and no blocks are held for another server."""
        stats = self.stats()
        return not (self.num_requests or stats.num_running or stats.num_waiting or stats.num_held_blocks)

    def stats(self) -> Stats:
        return self._open[0].stats() if self._open else Stats(num_blocks=self.spec.num_blocks)

    def health(self) -> str | None:
        """None when it serves, otherwise why not."""
        if self._open is None:
            return "The server is starting"
        if self.is_draining:
            return "The server is draining"
        return self._open[0].health()

    @contextlib.contextmanager
    def admitted(self) -> Iterator[Intake]:
        """For as long as a request is answered.

        :raises UnavailableError: when this server takes none.
        """
        reason = self.health()
        if reason or not self._open:
            raise UnavailableError(f"{reason}; ask again later")
        self.num_requests += 1
        try:
            yield self._open[2]
        finally:
            self.num_requests -= 1

    @contextlib.contextmanager
    def running(self, job: Job) -> Iterator[Running]:
        """Have the engine work on a job; see `running`."""
        assert self._open is not None
        engine, tokenizer, _ = self._open
        with running(job, tokenizer, engine, self.delivery) as running_job:
            yield running_job
