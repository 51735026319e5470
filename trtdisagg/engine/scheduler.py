"""In-flight batching: which requests are active, and what each step computes of them.

Pure: no tensors, no threads, no clock. A request waits until there is room for it, in order of arrival; it is admitted
only when all blocks it can ever need are free, so that whatever runs also ends (TensorRT-LLM's guaranteed_no_evict).

    add -> waiting -> admit -> fetching -> fetched -> running -> end
                          \\--------------------------^
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.engine.limits import Limits, num_kv_tokens
from trtdisagg.engine.policies import Share, context_policy, generation_policy
from trtdisagg.engine.sequence import Sequence, State
from trtdisagg.engine.step import Chunk, Step


class Plan(NamedTuple):
    """A step, and whose chunks it is made of."""

    step: Step
    sequences: list[Sequence]
    num_context_tokens: int

    @property
    def sampled(self) -> list[Sequence]:
        """Those that get a token: one for each row of logits, in order."""
        return [s for s, c in zip(self.sequences, self.step.chunks, strict=True) if c.num_logits]


class Scheduler:
    """The queue, the active sequences, and their blocks.

    :param limits: bounds of a batch.
    :param blocks: where KV blocks come from.
    """

    def __init__(self, limits: Limits, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._max_active = min(limits.max_batch_size, limits.max_num_tokens)
        self._max_num_tokens = limits.max_num_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.fetching: set[Sequence] = set()
        """Quarantined ones too: whoever a fetch may write for."""

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Give blocks to as many as there is room for, from the head of the queue.

        :return: those admitted: running, or fetching when their KV is to be had elsewhere.
        """
        admitted = []
        while self.waiting and self._has_room(self.waiting[0]):
            sequence = self.waiting.popleft()
            sequence.blocks = self._blocks.allocate(num_kv_tokens(sequence.request))
            if sequence.ticket is None:
                self._run(sequence)
            else:
                sequence.state = State.FETCHING
                self.fetching.add(sequence)
            admitted.append(sequence)
        return admitted

    @property
    def has_work(self) -> bool:
        """Whether a step has something to compute, or somebody to admit first."""
        return bool(self.running) or bool(self.waiting and self._has_room(self.waiting[0]))

    def _has_room(self, sequence: Sequence) -> bool:
        num_active = len(self.running) + len(self.fetching)
        return num_active < self._max_active and self._blocks.can_allocate(num_kv_tokens(sequence.request))

    def fetched(self, sequence: Sequence, num_tokens: int) -> None:
        """A fetch is over and brought the KV of this many tokens; 0: it failed, all is computed here."""
        self.fetching.remove(sequence)
        if sequence.state is State.QUARANTINED:
            self._finish(sequence)
            return
        # The last known token is always computed: its logits are the next one's.
        sequence.num_computed = min(num_tokens, len(sequence.tokens) - 1)
        self._run(sequence)

    def schedule(self) -> Plan:
        """Share the next step's tokens out."""
        generation = list(generation_policy(self.running, self._max_num_tokens))
        context = list(context_policy(self.running, self._max_num_tokens - len(generation)))
        shares = generation + context
        return Plan(
            step=Step([_chunk(s) for s in shares]),
            sequences=[s.sequence for s in shares],
            num_context_tokens=sum(s.num_tokens for s in context),
        )

    def postprocess(self, plan: Plan, tokens: list[int | None]) -> None:
        """Take in what a step computed.

        :param tokens: the token sampled for each of `plan.sampled`; None where there was none to sample.
        """
        for sequence, chunk in zip(plan.sequences, plan.step.chunks, strict=True):
            sequence.num_computed += len(chunk.tokens)
        for sequence, token in zip(plan.sampled, tokens, strict=True):
            if token is not None:
                sequence.tokens.append(token)

    def hold(self, sequence: Sequence) -> None:
        """Stop running it, but keep its blocks until `end`."""
        self.running.remove(sequence)
        sequence.state = State.HELD

    def end(self, sequence: Sequence) -> None:
        """Take it out, wherever it is. Its blocks are free at once, unless a fetch may still write to them."""
        if sequence.state is State.FETCHING:
            sequence.state = State.QUARANTINED
            return
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.RUNNING:
            self.running.remove(sequence)
        self._finish(sequence)

    def _run(self, sequence: Sequence) -> None:
        sequence.state = State.RUNNING
        self.running.append(sequence)

    def _finish(self, sequence: Sequence) -> None:
        assert sequence.state is not State.FINISHED, f"request {sequence.id} ends twice"
        sequence.state = State.FINISHED
        self._blocks.free(sequence.blocks)
        sequence.blocks = []


def _chunk(share: Share) -> Chunk:
    sequence, start, end = share.sequence, share.sequence.num_computed, share.sequence.num_computed + share.num_tokens
    return Chunk(sequence.tokens[start:end], start, sequence.blocks, num_logits=int(end == len(sequence.tokens)))
