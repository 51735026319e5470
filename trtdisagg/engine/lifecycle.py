"""What becomes of each request: from its arrival over the handover to its last output.

It owns sequences, schedulers and blocks; it computes nothing and knows no threads, and a clock only for records. What
the caller is to be told piles up as `outputs`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from collections.abc import Sequence as Items

from torch import Tensor

from trtdisagg.cache.events import BlockEvents
from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.choices import give_place, make_choices
from trtdisagg.engine.counters import Counters, stats_of
from trtdisagg.engine.deadlines import Deadlines
from trtdisagg.engine.exchange import Exchange
from trtdisagg.engine.interfaces import Guide, Handover
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.messages import Message
from trtdisagg.engine.outputs import Outputs, are_numbers, gain_of
from trtdisagg.engine.plan import Plan
from trtdisagg.engine.prefetches import Prefetches
from trtdisagg.engine.record import Record
from trtdisagg.engine.request import Output, Request
from trtdisagg.engine.sampling import Sampled
from trtdisagg.engine.schedulers import Schedulers
from trtdisagg.engine.sequence import Sequence, State
from trtdisagg.engine.step import Chunk
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.stats import Stats

log = logging.getLogger(__name__)


class Lifecycle:
    """All requests of one engine.

    :param post: puts a message into the engine's inbox; given to the handover for its callbacks.
    :param clock: for records of requests, in seconds.
    """

    def __init__(
        self,
        limits: Limits,
        eos_token_ids: frozenset[int],
        handover: Handover | None,
        post: Callable[[Message], None],
        clock: Callable[[], float],
    ) -> None:
        self.counters = Counters()
        self.outputs = Outputs(self.counters)
        self.events = BlockEvents(limits.event_buffer_max_size)
        self._eos_token_ids = frozenset(t for t in eos_token_ids if 0 <= t < limits.vocab_size)
        self._exchange = Exchange(handover, post, limits.tokens_per_block)
        self._limits = limits
        self._clock = clock
        if limits.enable_block_reuse and limits.overlap_transfers:
            self._exchange.follow()
        self._requests: dict[int, list[Sequence]] = {}
        """The choices of each that own blocks or wait for some."""
        self._start_over()

    def _start_over(self) -> None:
        self._schedulers = Schedulers(self._limits, self.events)
        self.prefetches = Prefetches(self._exchange, self._schedulers, self._limits.tokens_per_block)
        self._deadlines = Deadlines()
        self._requests.clear()

    # --- from outside ------------------------------------------------------------------------------------------------

    def add(self, request: Request, guides: list[Guide], arrived_s: float) -> None:
        """
        :param guides: one for each choice, or none.
        """
        self.counters.num_requests_total += 1
        if request.id in self._requests:
            self.outputs.refused(request, f"The blocks of an earlier request with id {request.id} are still in use")
            return
        leader, *_ = choices = make_choices(request, guides, self._eos_token_ids, self.counters.num_requests_total)
        record = Record(self._clock, arrived_s)
        for choice in choices:
            choice.record = record
        leader.ticket = self._exchange.claim(request)
        leader.is_announced = (
            self._limits.pipelined_transfers and request.type == "context_only" and request.reader is not None
        )
        is_awaited = leader.is_announced or self._exchange.must_await(request)
        for choice in choices:
            choice.is_awaited = is_awaited
        self._requests[request.id] = choices
        if request.timeout_s is not None:
            self._deadlines.add(request.id, arrived_s + request.timeout_s)
        self._schedulers.add(leader)
        if reason := leader.finish_reason:  # it came with all of its tokens
            self._end_all(request.id, reason)

    def cancel(self, request_id: int, choice: int | None = None) -> None:
        """Nobody wants the rest of it; of blocks that are held, nobody has the ticket."""
        if choice is None:
            self._end_all(request_id, "cancelled")
        for sequence in self._requests.get(request_id, []).copy():
            if sequence.state is State.HELD:
                self._exchange.withdraw(sequence)
            elif sequence.choice == choice and sequence.is_active:
                self._end(sequence, "cancelled")

    def cancel_all(self) -> None:
        for request_id in list(self._requests):
            self.cancel(request_id)

    def expire(self, now_s: float) -> None:
        """End the requests whose deadline has passed."""
        for request_id in self._deadlines.take(now_s):
            self._end_all(request_id, "timeout")

    @property
    def next_deadline_s(self) -> float:
        return self._deadlines.next_s

    def fetched(self, request_id: int, error: str | None, transfer: Transfer | None = None) -> None:
        """A fetch is over; without its KV the request goes on all the same, and computes it here."""
        if request_id not in self._requests:
            return  # given up since
        [sequence] = self._requests[request_id]
        self.counters.num_transfers_total += 1
        if error is not None and sequence.is_active:
            self.counters.num_transfer_failures_total += 1
            log.warning("request %d: its KV could not be fetched and is computed here: %s", request_id, error)
        if sequence.record is not None:
            sequence.record.transfer = transfer
            sequence.record.scheduled(self.counters.num_steps_total)
        assert sequence.ticket is not None
        self._schedulers.fetched(sequence, 0 if error is not None else sequence.ticket.num_tokens)
        self._forget_finished(sequence)

    def released(self, request_id: int) -> None:
        """Blocks that were held are free."""
        held = [s for s in self._requests.get(request_id, ()) if s.state is State.HELD]
        if not held:
            log.error("request %d: blocks were released that are not held", request_id)
        for sequence in held:
            self._schedulers.end(sequence)
            self._forget_finished(sequence)

    # --- steps -------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Say what the next step computes, and start fetches for those who were admitted."""
        plan = self._schedulers.schedule()
        self._exchange.retract_preempted()
        for sequence in plan.admitted:
            if sequence.record is not None:
                self._admitted(sequence, sequence.record)
            if sequence.state is State.FETCHING:
                self._exchange.fetch(sequence)
            else:  # what it could fetch is here already
                self._exchange.forget(sequence)
                sequence.ticket = None
        return plan

    def computed(self, plan: Plan, logits: Tensor) -> None:
        """A step was computed; its tokens are not drawn yet."""
        self.counters.num_steps_total += 1
        self.counters.num_prompt_tokens_total += plan.num_context_tokens
        for sequence, row, chunk in plan.readings:
            assert sequence.readings is not None
            sequence.readings.take(logits[row : row + chunk.num_logits], chunk.start)
        self._schedulers.computed()
        if not plan.sampled and any(s.is_awaited for s in plan.sequences):
            logits[:1, :1].tolist()  # waits for the device
        self._exchange.announce([s for s in plan.sequences if s.is_announced and s.in_context], logits)

    def advance(self, sequences: Items[Sequence], sampled: Items[Sampled], logits: Tensor) -> None:
        """Take in what was drawn, and tell.

        :param logits: [len(sequences), vocab], what it was drawn from.
        """
        self.counters.num_generation_tokens_total += len(sampled)
        for i, (sequence, (token, logprob)) in enumerate(zip(sequences, sampled, strict=True)):
            if token is None:
                self._end_without_token(sequence, logits[i])
                continue
            sequence.tokens.append(token)
            if sequence.record is not None:
                sequence.record.token(len(sequence.blocks), self.counters.num_steps_total)
            try:
                if sequence.guide is not None:
                    sequence.guide.accept(token)
            except Exception as e:  # noqa: BLE001 - whatever a guide raises
                self.guide_failed(sequence, e)
                continue
            self._tell(sequence, gain_of(sequence, token, logprob, logits, i))

    def ahead(self, drawing: list[Sequence]) -> list[tuple[int, Sequence, Chunk]]:
        """See `Scheduler.ahead`."""
        return self._schedulers.ahead(drawing)

    def fail(self, plan: Plan, error: str) -> None:
        """The step could not be computed: its requests end, the others go on."""
        for request_id in {s.id for s in plan.sequences}:
            self._end_all(request_id, "error", error)

    def guide_failed(self, sequence: Sequence, error: Exception) -> None:
        """What a guide raises ends the choice that it guides, and no other."""
        log.error("request %d: the guide failed", sequence.id, exc_info=error)
        self._end(sequence, "error", error=f"The guide of this request failed: {type(error).__name__}: {error}")

    def abandon(self, error: str) -> None:
        """End everything and forget it, blocks and all, without a look at what state it is in."""
        for sequence in [s for choices in self._requests.values() for s in choices]:
            with contextlib.suppress(Exception):  # what broke us may be the handover
                self._exchange.retract(sequence)
            if not sequence.is_active:
                continue
            self.outputs.ended(sequence, "error", error=error)
            with contextlib.suppress(Exception):  # the lease ends by itself
                self._exchange.forget(sequence)
        self._start_over()

    @property
    def is_fetching(self) -> bool:
        """Whether somebody may write into blocks."""
        return self._schedulers.is_fetching

    @property
    def has_work(self) -> bool:
        """Whether something could be computed now, rather than after a transfer, or the end of a lease."""
        return self._schedulers.has_work

    def stats(self) -> Stats:
        return stats_of(self.counters, self._schedulers.each)

    def check_integrity(self) -> None:
        """Assert that each block is free or belongs to exactly the sequences that are here."""
        sequences = [s for choices in self._requests.values() for s in choices]
        self._schedulers.check_integrity(sequences + self.prefetches.pieces)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _admitted(self, sequence: Sequence, record: Record) -> None:
        num_prompt_blocks = -(-sequence.num_prompt // self._limits.tokens_per_block)
        record.admitted(len(sequence.blocks), sequence.num_published, num_prompt_blocks)
        if sequence.state is State.RUNNING:
            record.scheduled(self.counters.num_steps_total)

    def _tell(self, sequence: Sequence, gain: Output) -> None:
        """Say what a sequence got, and end or hold it where that was the last."""
        if reason := sequence.finish_reason:
            self._end(sequence, reason, gain)
        elif sequence.request.type == "context_only":
            self._hold(sequence, gain)
        else:
            self.outputs.gained(gain)

    def _hold(self, sequence: Sequence, gain: Output) -> None:
        """The context phase is over: offer the blocks, and keep them until they are released."""
        try:
            ticket = self._exchange.hold(sequence)
        except TrtdisaggError as e:
            self._end(sequence, "error", error=f"The KV could not be offered for handover: {e}")
            return
        self._schedulers.hold(sequence)
        self._deadlines.discard(sequence.id)
        self.outputs.held(gain, ticket)

    def _end_without_token(self, sequence: Sequence, logits: Tensor) -> None:
        is_own_fault = are_numbers(logits)
        if is_own_fault:
            error = "No token may come next: what is banned and what the guide does not allow are all there are"
        else:
            error = "The model computed no finite logits for this request"
            self._schedulers.distrust()
        self._end(sequence, "error", error=error, is_own_fault=is_own_fault)

    def _end_all(self, request_id: int, reason: FinishReason, error: str | None = None) -> None:
        """End those choices that have not ended; the unborn before the one they wait for."""
        for sequence in reversed(self._requests.get(request_id, []).copy()):
            if sequence.is_active:
                self._end(sequence, reason, error=error)

    def _end(
        self,
        sequence: Sequence,
        reason: FinishReason,
        gain: Output | None = None,
        error: str | None = None,
        *,
        is_own_fault: bool = False,
    ) -> None:
        if sequence.siblings:
            sequence = give_place(sequence)
        self._exchange.forget(sequence)
        self._schedulers.end(sequence)
        self.outputs.ended(sequence, reason, gain, error, is_own_fault=is_own_fault)
        self._forget_finished(sequence)

    def _forget_finished(self, sequence: Sequence) -> None:
        if sequence.state is not State.FINISHED:
            return
        self._exchange.retract(sequence)
        choices = self._requests[sequence.id]
        choices.remove(sequence)
        if not choices:
            del self._requests[sequence.id]
            self._deadlines.discard(sequence.id)
