"""The engine loop: three verbs, schedule, run, postprocess.

Single writer: one thread owns all state. Everything from outside comes as a message through `inbox`, which the loop
drains before each step and waits on when there is nothing to compute. What a step did leaves as one list of outputs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from torch import Tensor

from trtdisagg.engine.ahead import Ahead, AheadRunner
from trtdisagg.engine.draws import Draws, draws_of
from trtdisagg.engine.interfaces import EngineBrokenError, Handover, Runner
from trtdisagg.engine.lifecycle import Lifecycle
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.messages import (
    Add,
    Announced,
    Broken,
    Cancel,
    Fetched,
    Listen,
    Message,
    Prefetched,
    Released,
    Retracted,
    Shutdown,
)
from trtdisagg.engine.plan import Plan
from trtdisagg.engine.progress import Progress
from trtdisagg.engine.request import Output
from trtdisagg.engine.rows import pick_rows
from trtdisagg.engine.sampling import Sampled, Sampler
from trtdisagg.protocol.kv_events import KvEvent

log = logging.getLogger(__name__)

IDLE_S = 1.0
"""An idle loop checks itself so much later."""
MAX_FAILED_STEPS = 3
"""So many in a row, and the engine is broken."""


class EngineCore:
    """The loop over lifecycle and runner.

    :param deliver: takes the outputs of a step; called from the loop's thread.
    :param progress: ticked by the loop, and by a runner that has the same, within its steps.
    :param sampler: with the runner's threads; None: one without threads of its own.
    :param ahead: the runner, where it computes while the loop goes on: steps are launched before they are planned.
    :param clock: for the deadlines of requests, in seconds.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        limits: Limits,
        eos_token_ids: frozenset[int],
        handover: Handover | None,
        deliver: Callable[[list[Output]], None],
        progress: Progress | None = None,
        sampler: Sampler | None = None,
        ahead: AheadRunner | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self.broken: str | None = None
        """Why the engine can serve no more; every request then ends with an error."""
        self._runner = runner
        self._sampler = sampler or Sampler()
        self.ahead = None if ahead is None else Ahead(ahead)
        self._deliver = deliver
        self._clock = clock
        self._lifecycle = Lifecycle(limits, eos_token_ids, handover, self.inbox.put, clock)
        self._num_failed_steps = 0
        self._end_by: float | None = None
        self.stats = self._lifecycle.stats()
        """As of the last round."""
        self.progress = progress or Progress()
        self._is_waiting = True
        """For messages, because there is nothing to compute."""
        self._has_work = False
        """As of the last round: if it did not compute, it should have."""

    @property
    def is_working(self) -> bool:
        """Whether there is something to compute, or the loop is at something; from any thread."""
        return not self._is_waiting or self._has_work

    def run(self) -> None:
        """Serve until a Shutdown message."""
        is_busy, is_checked = False, True
        while not self._has_ended():
            try:
                has_news = self.receive(timeout_s=0 if is_busy else self._patience_s())
                if not (is_busy or has_news or is_checked):  # idle for a while: nobody waits for this
                    self.check_integrity()
                    is_checked = True
                is_busy = self.step()
                is_checked = is_checked and not is_busy
            except Exception as e:  # the loop outlives its own faults, to say so
                log.exception("the engine loop failed")
                self._break(_describe(e))
                is_busy = False

    def receive(self, timeout_s: float) -> bool:
        """Handle all messages that are there; wait for the first of them.

        :return: whether there were any.
        """
        has_news = False
        with contextlib.suppress(Empty):
            message = self._wait(timeout_s) if timeout_s else self.inbox.get_nowait()
            has_news = True
            while True:
                self._handle(message)
                self.progress.tick()
                message = self.inbox.get_nowait()
        return has_news

    def _patience_s(self) -> float:
        """How long to wait for messages: until a deadline, at most."""
        return max(0.0, min(IDLE_S, self._lifecycle.next_deadline_s - self._clock()))

    def _wait(self, timeout_s: float) -> Message:
        self._is_waiting = True
        try:
            return self.inbox.get(timeout=timeout_s)
        finally:
            if not self._has_work:
                self.progress.tick()  # first, lest the time with nothing to do be held against it
            self._is_waiting = False

    def step(self) -> bool:
        """Compute one step and deliver its outputs.

        :return: whether there was anything to compute, or is.
        """
        self._lifecycle.expire(self._clock())
        if self.ahead is not None:
            self.ahead.settle()
        plan = self._lifecycle.schedule()
        if plan.sequences:
            self._compute(plan)
            self.progress.tick()
        self._publish()
        return bool(plan.sequences) or self._has_work

    def take_kv_events(self) -> list[KvEvent]:
        """What happened to blocks since the last time; from any thread."""
        return self._lifecycle.events.take()

    def check_integrity(self) -> None:
        self._lifecycle.check_integrity()

    def _compute(self, plan: Plan) -> None:
        try:
            logits = self._ahead_of(plan)
            logits = self._runner.run(plan.step) if logits is None else logits
            num_rows = sum(chunk.num_logits for chunk in plan.step.chunks)
            assert len(logits) == num_rows, f"{len(logits)} rows of logits came, {num_rows} were asked for"
        except EngineBrokenError as e:
            self._break(str(e))
            return
        except Exception as e:  # whatever a model raises ends these requests, not the server
            log.exception("a step with %d sequences failed", len(plan.sequences))
            self._fail(plan, e)
            return
        self._lifecycle.computed(plan, logits)
        draws = draws_of(plan)
        for sequence, error in draws.failed:
            self._lifecycle.guide_failed(sequence, error)
        try:
            logits = pick_rows(logits, draws.indices)
            sampled = self._sample(logits, draws)
        except Exception as e:  # and whatever becomes of its logits
            log.exception("%d tokens could not be drawn", len(draws.rows))
            self._fail(plan, e)
            return
        self._num_failed_steps = 0
        self._lifecycle.advance(draws.sequences, sampled, logits)

    def _ahead_of(self, plan: Plan) -> Tensor | None:
        return None if self.ahead is None else self.ahead.take(plan)

    def _sample(self, logits: Tensor, draws: Draws) -> list[Sampled]:
        if self.ahead is None:
            return self._sampler.sample(logits, draws.rows)
        drawn = self._sampler.draw(logits, draws.rows)
        self.ahead.launch(self._lifecycle.ahead(draws.sequences), drawn.tokens)
        return drawn.read()

    def _fail(self, plan: Plan, error: Exception) -> None:
        self._lifecycle.fail(plan, f"The engine failed to compute this request: {_describe(error)}")
        self._num_failed_steps += 1
        if self._num_failed_steps >= MAX_FAILED_STEPS:
            self._break(f"{self._num_failed_steps} steps in a row failed, the last with {_describe(error)}")

    def _publish(self) -> None:
        self.stats = self._lifecycle.stats()
        self._has_work = self._lifecycle.has_work
        self._lifecycle.events.tell()
        if outputs := self._lifecycle.outputs.take():
            try:
                self._deliver(outputs)
            except Exception:  # the fault of whoever takes them, and no reason to stop serving the others
                log.exception("outputs of %d requests could not be delivered", len(outputs))

    def _break(self, reason: str) -> None:
        """Compute nothing any more: all requests end, and those to come."""
        self.broken = self.broken or reason
        log.critical("the engine is broken: %s", reason)
        self._lifecycle.abandon(f"The engine is broken: {reason}")
        self._publish()

    def _handle(self, message: Message) -> None:
        match message:
            case Add(request=request) if self.broken:
                self._lifecycle.outputs.refused(request, f"The engine is broken: {self.broken}")
            case Add(request=request, guides=guides, arrived_s=arrived_s):
                self._lifecycle.add(request, guides, self._clock() if arrived_s is None else arrived_s)
            case Cancel(request_id=request_id, choice=choice):
                self._lifecycle.cancel(request_id, choice)
            case Fetched(request_id=request_id, error=error, transfer=transfer):
                self._lifecycle.fetched(request_id, error, transfer)
            case Released(request_id=request_id):
                self._lifecycle.released(request_id)
            case Listen(listener=listener, is_over=is_over):
                events = self._lifecycle.events
                events.forget(listener) if is_over else events.listen(listener)
            case Broken(reason=reason):
                self._break(reason)
            case Announced() | Retracted() | Prefetched():
                self._prefetch(message)
            case Shutdown(timeout_s=timeout_s):
                self._lifecycle.cancel_all()
                self._end_by = time.monotonic() + timeout_s

    def _prefetch(self, message: Announced | Retracted | Prefetched) -> None:
        if isinstance(message, Announced) and (self.broken or self._end_by is not None):
            return
        if self.ahead is not None:
            self.ahead.settle()  # a piece may get blocks
        self._lifecycle.prefetches.take(message)

    def _has_ended(self) -> bool:
        if self._end_by is None:
            return False
        return not self._lifecycle.is_fetching or time.monotonic() > self._end_by


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
