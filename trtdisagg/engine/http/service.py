"""Whether this server takes requests: not before its engine is there, while it drains, or when its engine is stuck."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from trtdisagg.engine.http.canary import canary
from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.intake import Intake
from trtdisagg.engine.http.job import Job
from trtdisagg.engine.http.metrics import Metrics
from trtdisagg.engine.http.perf import PerfRing
from trtdisagg.engine.http.running import Engine, Running, running
from trtdisagg.engine.progress import Progress, Pulse
from trtdisagg.errors import RequestError, UnavailableError
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.kv_events import KvEvent
from trtdisagg.protocol.spec import EngineSpec, Role
from trtdisagg.protocol.stats import Stats
from trtdisagg.text.tokenizer import Tokenizer

BODY_TIMEOUT_S = 60.0
BLOCKED_S = 1.0
"""An event loop that has not turned for so long is held up by something."""


class Service:
    """
    :param delivery: where the engine will deliver its outputs.
    :param body_timeout_s: from the head of a request to the end of its body.
    """

    def __init__(self, spec: EngineSpec, delivery: Delivery, body_timeout_s: float = BODY_TIMEOUT_S) -> None:
        self.spec = spec
        self.delivery = delivery
        self.body_timeout_s = body_timeout_s
        self.role: Role = spec.role
        """The one it has now. Both legs are served in each: it says what this server is asked for."""
        self.metrics = Metrics(model=spec.model, server=spec.name)
        self.perf = PerfRing(spec.perf_metrics_max_requests)
        self.num_requests = 0
        """That are being answered now."""
        self.turns = Progress()
        """Of the event loop."""
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
    def unfinished(self) -> str | None:
        """What a drain waits for: requests being answered, and blocks that are held for another server."""
        stats = self.stats()
        num_in_engine = stats.num_running + stats.num_waiting
        counts = {
            "requests being answered": self.num_requests,
            "requests in the engine": num_in_engine,
            "blocks held for generation servers": stats.num_held_blocks,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or None

    # --- from any thread --------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        stats = self._open[0].stats() if self._open else Stats(num_blocks=self.spec.num_blocks_of_all)
        return msgspec.structs.replace(
            stats,
            first_token_counts=self.metrics.first_token.counts,
            per_token_counts=self.metrics.per_token.counts,
        )

    def engine_pulse(self) -> Pulse:
        return self._open[0].pulse() if self._open else Pulse(0, is_working=False)

    def http_pulse(self) -> Pulse:
        """The event loop turns all the time; when it does not, it is at something."""
        return Pulse(self.turns.num_ticks, is_working=self.turns.silence_s > BLOCKED_S)

    def release(self, ticket: Ticket) -> None:
        """Nobody will come for what this ticket names. In the event loop."""
        if self._open:
            self._open[0].release(ticket)

    def take_kv_events(self) -> list[KvEvent]:
        """
        :raises RequestError: when none are made.
        """
        if not self.spec.event_buffer_max_size:
            raise RequestError(
                "No events are made; set `kv_cache_config.event_buffer_max_size`", param="event_buffer_max_size"
            )
        return self._open[0].take_kv_events() if self._open else []

    @property
    def engine(self) -> Engine:
        """
        :raises UnavailableError: before there is one.
        """
        if self._open is None:
            raise UnavailableError("The server is starting; ask again later")
        return self._open[0]

    @property
    def tokenizer(self) -> Tokenizer:
        assert self._open is not None
        return self._open[1]

    # --- in the event loop ------------------------------------------------------------------------------------------

    def health(self) -> str | None:
        """None when it serves, otherwise why not."""
        if self._open is None:
            return "The server is starting"
        if self.is_draining:
            return "The server is draining"
        return self._open[0].health()

    async def canary(self) -> None:
        """Generate one token.

        :raises UnavailableError: when that does not work, saying why.
        """
        reason = self.health()
        if reason or not self._open:
            raise UnavailableError(f"{reason}; ask again later")
        engine, tokenizer, _ = self._open
        await canary(engine, tokenizer, self.delivery)

    @contextlib.contextmanager
    def admitted(self) -> Iterator[Intake]:
        """For as long as a request is answered.

        :raises UnavailableError: when this server takes none.
        """
        self.turns.tick()  # one turn of the loop may begin a thousand requests
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
        """A job and its answers; see `running`."""
        assert self._open is not None
        engine, tokenizer, _ = self._open
        self.turns.tick()
        interval = self.spec.stream_interval
        with running(job, tokenizer, engine, self.delivery, stream_interval=interval) as running_job:
            yield running_job
