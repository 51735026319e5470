"""What becomes of each request: from its arrival over the handover to its last output.

It owns sequences, scheduler and blocks, and asks the handover to hold, claim and fetch; it computes nothing and knows
no threads. What the caller is to be told piles up as outputs until `take_outputs`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial

import msgspec

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.engine.interfaces import Handover
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.messages import Fetched, Message, Released
from trtdisagg.engine.request import Output, Request
from trtdisagg.engine.scheduler import Plan, Scheduler
from trtdisagg.engine.sequence import Sequence, State
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.spec import Stats

log = logging.getLogger(__name__)


class Counters(msgspec.Struct):
    """What only grows; the names are those of `Stats`."""

    num_steps_total: int = 0
    num_requests_total: int = 0
    num_failed_total: int = 0
    num_prompt_tokens_total: int = 0
    num_generation_tokens_total: int = 0
    num_transfers_total: int = 0
    num_transfer_failures_total: int = 0


class Lifecycle:
    """All requests of one engine.

    :param post: puts a message into the engine's inbox; given to the handover for its callbacks.
    """

    def __init__(
        self, limits: Limits, eos_token_ids: frozenset[int], handover: Handover | None, post: Callable[[Message], None]
    ) -> None:
        self.counters = Counters()
        self._eos_token_ids = frozenset(t for t in eos_token_ids if 0 <= t < limits.vocab_size)
        self._handover = handover
        self._post = post
        self._limits = limits
        self._sequences: dict[int, Sequence] = {}
        """All that own blocks or wait for some."""
        self._outputs: list[Output] = []
        self._start_over()

    def _start_over(self) -> None:
        self._blocks = BlockManager(self._limits.num_blocks, self._limits.tokens_per_block)
        self._scheduler = Scheduler(self._limits, self._blocks)
        self._sequences.clear()

    # --- from outside ------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        self.counters.num_requests_total += 1
        if request.id in self._sequences:
            self.refuse(request, f"The blocks of an earlier request with id {request.id} are still in use")
            return
        sequence = Sequence(request, self._stop_ids(request), self._claim(request))
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)
        if reason := sequence.finish_reason:  # it came with all of its tokens
            self._end(sequence, reason)

    def refuse(self, request: Request, error: str) -> None:
        """End a request that has not begun."""
        self.counters.num_failed_total += 1
        self._outputs.append(Output(request_id=request.id, finish_reason="error", error=error))

    def cancel(self, request_id: int) -> None:
        """Nobody wants the rest of it; of blocks that are held, nobody has the ticket."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        if sequence.is_active:
            self._end(sequence, "cancelled")
        elif sequence.state is State.HELD:
            assert self._handover is not None
            assert sequence.offer is not None
            self._handover.withdraw(sequence.offer)

    def cancel_all(self) -> None:
        for sequence in list(self._sequences.values()):
            self.cancel(sequence.id)

    def fetched(self, request_id: int, error: str | None) -> None:
        """A fetch is over; without its KV the request goes on all the same, and computes it here."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return  # given up since
        self.counters.num_transfers_total += 1
        if error is not None and sequence.is_active:
            self.counters.num_transfer_failures_total += 1
            log.warning("request %d: its KV could not be fetched and is computed here: %s", request_id, error)
        assert sequence.ticket is not None
        self._scheduler.fetched(sequence, 0 if error is not None else sequence.ticket.num_tokens)
        self._forget_finished(sequence)

    def released(self, request_id: int) -> None:
        """Blocks that were held are free."""
        sequence = self._sequences.get(request_id)
        if sequence is None or sequence.state is not State.HELD:
            log.error("request %d: blocks were released that are not held", request_id)
            return
        self._scheduler.end(sequence)
        self._forget_finished(sequence)

    # --- steps -------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Admit who fits, start fetches, and say what the next step computes."""
        for sequence in self._scheduler.admit():
            if sequence.state is State.FETCHING:
                self._fetch(sequence)
        return self._scheduler.schedule()

    def postprocess(self, plan: Plan, tokens: list[int | None]) -> None:
        self.counters.num_steps_total += 1
        self.counters.num_prompt_tokens_total += plan.num_context_tokens
        self.counters.num_generation_tokens_total += len(tokens)
        self._scheduler.postprocess(plan, tokens)
        for sequence, token in zip(plan.sampled, tokens, strict=True):
            self._advance(sequence, token)

    def fail(self, plan: Plan, error: str) -> None:
        """The step could not be computed: its requests end, the others go on."""
        for sequence in plan.sequences:
            self._end(sequence, "error", error=error)

    def abandon(self, error: str) -> None:
        """End everything and forget it, blocks and all, without a look at what state it is in."""
        for sequence in self._sequences.values():
            if not sequence.is_active:
                continue
            self.refuse(sequence.request, error)
            with contextlib.suppress(Exception):  # what broke us may be the handover; the lease ends by itself
                self._forget_claim(sequence)
        self._start_over()

    def take_outputs(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs

    @property
    def is_fetching(self) -> bool:
        """Whether somebody may write into blocks."""
        return bool(self._scheduler.fetching)

    @property
    def has_work(self) -> bool:
        """Whether something could be computed now, rather than after a transfer, or the end of a lease."""
        return self._scheduler.has_work

    def stats(self) -> Stats:
        return Stats(
            num_running=len(self._scheduler.running) + len(self._scheduler.fetching),
            num_waiting=len(self._scheduler.waiting),
            num_blocks=self._blocks.num_blocks,
            num_used_blocks=self._blocks.num_used,
            num_held_blocks=sum(len(s.blocks) for s in self._sequences.values() if s.state is State.HELD),
            **msgspec.structs.asdict(self.counters),
        )

    def check_integrity(self) -> None:
        """Assert that each block is free or belongs to exactly the sequences that are here."""
        self._blocks.check_integrity([s.blocks for s in self._sequences.values()])

    # --- inside ------------------------------------------------------------------------------------------------------

    def _stop_ids(self, request: Request) -> frozenset[int]:
        stop_ids = request.sampling.stop_token_ids
        return stop_ids if request.sampling.ignore_eos else stop_ids | self._eos_token_ids

    def _advance(self, sequence: Sequence, token: int | None) -> None:
        """Tell what became of a sequence that got a token, or got none because its logits are not numbers."""
        if token is None:
            self._end(sequence, "error", error="The model computed no finite logits for this request")
        elif reason := sequence.finish_reason:
            self._end(sequence, reason, [token])
        elif sequence.request.type == "context_only":
            self._hold(sequence, token)
        else:
            self._outputs.append(Output(request_id=sequence.id, new_token_ids=[token]))

    def _end(
        self, sequence: Sequence, reason: FinishReason, tokens: list[int] | None = None, error: str | None = None
    ) -> None:
        self._forget_claim(sequence)
        self._scheduler.end(sequence)
        self._forget_finished(sequence)
        self.counters.num_failed_total += reason == "error"
        self._outputs.append(
            Output(
                request_id=sequence.id,
                new_token_ids=tokens or [],
                finish_reason=reason,
                stop_token_id=sequence.tokens[-1] if reason == "stop" else None,
                error=error,
            )
        )

    def _forget_finished(self, sequence: Sequence) -> None:
        if sequence.state is State.FINISHED:
            del self._sequences[sequence.id]

    def _claim(self, request: Request) -> Ticket | None:
        """Keep the KV that the request's ticket names alive.

        :return: the ticket, when what it names can be used.
        """
        if request.ticket is None:
            return None
        assert self._handover is not None, "a ticket without a handover was let in"
        self._handover.claim(request.id, request.ticket)
        num_tokens, num_known = request.ticket.num_tokens, len(request.prompt_token_ids) + len(request.output_token_ids)
        if 0 < num_tokens <= num_known:
            return request.ticket
        log.warning("request %d: the ticket is for %d tokens, %d are known", request.id, num_tokens, num_known)
        self._handover.forget(request.id)
        return None

    def _forget_claim(self, sequence: Sequence) -> None:
        if sequence.ticket is not None and sequence.state in (State.WAITING, State.FETCHING):
            assert self._handover is not None
            self._handover.forget(sequence.id)

    def _fetch(self, sequence: Sequence) -> None:
        assert self._handover is not None
        assert sequence.ticket is not None
        blocks = sequence.blocks[: self._blocks.num_blocks_for(sequence.ticket.num_tokens)]
        self._handover.fetch(sequence.id, blocks, lambda error: self._post(Fetched(sequence.id, error)))

    def _hold(self, sequence: Sequence, token: int) -> None:
        """The context phase is over: offer the blocks, and keep them until they are released."""
        assert self._handover is not None
        released = partial(self._post, Released(sequence.id))
        try:
            ticket = sequence.offer = self._handover.hold(sequence.id, sequence.blocks, sequence.num_computed, released)
        except TrtdisaggError as e:
            self._end(sequence, "error", error=f"The KV could not be offered for handover: {e}")
            return
        self._scheduler.hold(sequence)
        self._outputs.append(
            Output(request_id=sequence.id, new_token_ids=[token], finish_reason="not_finished", ticket=ticket)
        )
