"""In-flight batching: which sequences are active, which blocks they have, and what each step computes of them.

Pure: no tensors, no threads, no clock. A sequence waits until there is room for it, in the order of priority and
arrival; it begins behind what others have computed of its tokens, and takes blocks as its tokens come.

    add -> waiting -> admitted -> fetching -> fetched -> running -> end
              ^              \\------------------------^  |
              +------------------ preempted -------------+
"""

from __future__ import annotations

from itertools import chain

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.pieces import Pieces
from trtdisagg.engine.plan import Plan, Reading
from trtdisagg.engine.policies import Share, context_policy, generation_policy
from trtdisagg.engine.queue import Queue
from trtdisagg.engine.sequence import Sequence, State
from trtdisagg.engine.step import Chunk, Step
from trtdisagg.engine.tables import Tables


class Scheduler:
    """The queue and the active sequences.

    :param limits: bounds of a batch.
    :param blocks: where KV blocks come from.
    """

    def __init__(self, limits: Limits, blocks: BlockManager) -> None:
        self._limits = limits
        self.blocks = blocks
        self.tables = Tables(limits, blocks)
        self.waiting = Queue()
        self.context: list[Sequence] = []
        """Running, in the context phase; in the order of admission."""
        self.generating: list[Sequence] = []
        """Running, behind it."""
        self.fetching: set[Sequence] = set()
        """Quarantined ones too: whoever a fetch may write for."""
        self.pieces = Pieces(self.tables, self.waiting, self.fetching)
        """Of prompts whose requests are still to come."""
        self.num_held_blocks = 0
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        if sequence.ticket is not None and self.pieces.has_beginning_of(sequence):
            self.waiting.delay(sequence)  # lest what is on its way already be fetched twice
        else:
            self.waiting.add(sequence)

    @property
    def num_running(self) -> int:
        return len(self.context) + len(self.generating)

    @property
    def num_active(self) -> int:
        """Choices that run or will as soon as their prompt is computed."""
        return self.num_running + len(self.fetching) + sum(len(s.siblings) for s in self.context)

    @property
    def num_tokens(self) -> int:
        """Of all who have blocks here or wait for some."""
        active = chain(self.waiting, self.context, self.generating, self.fetching)
        return sum(len(s.tokens) for s in active) + self.num_held_blocks * self._limits.tokens_per_block

    @property
    def num_quarantined_blocks(self) -> int:
        return sum(len(s.blocks) for s in self.fetching if s.state is State.QUARANTINED)

    @property
    def has_work(self) -> bool:
        """Whether a step has something to compute, or somebody to admit first."""
        return bool(self.context or self.generating) or self._can_admit()

    # --- steps --------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Admit who fits, and share the next step's tokens out."""
        self._grow()
        admitted = self._admit()
        generating = generation_policy(self.generating, self.context, self._limits)
        shares = list(context_policy(self.context, self._limits.max_num_tokens - len(generating), self._limits))
        chunks = [Chunk([s.tokens[-1]], s.num_computed, s.blocks, 1, s.dp_rank) for s in generating]
        sampled, readings = generating.copy(), []
        rows = list(range(len(chunks)))
        num_rows = len(chunks)
        for share in shares:
            chunk = _chunk(share)
            chunks.append(chunk)
            if share.sequence.readings is not None:
                readings.append(Reading(share.sequence, num_rows, chunk))
            num_rows += chunk.num_logits
            if chunk.start + share.num_tokens == len(share.sequence.tokens):
                drawing = [share.sequence, *share.sequence.siblings]
                sampled += drawing
                rows += [num_rows - 1] * len(drawing)
        if not chunks:
            self.tables.copied()  # whoever wanted them is gone
        return Plan(
            step=Step(chunks, self.tables.copies.copy()),
            sequences=generating + [s.sequence for s in shares],
            num_generating=len(generating),
            num_context_tokens=sum(s.num_tokens for s in shares),
            sampled=sampled,
            rows=rows,
            readings=readings,
            admitted=admitted,
        )

    def computed(self, plan: Plan) -> None:
        """A step was computed: go on behind it."""
        self.tables.copied()
        for sequence in plan.sequences[: plan.num_generating]:
            sequence.num_computed += 1
            self.tables.filled(sequence)
        context = zip(plan.sequences[plan.num_generating :], plan.step.chunks[plan.num_generating :], strict=True)
        for sequence, chunk in context:
            sequence.num_computed += len(chunk.tokens)
            self.tables.filled(sequence)
            if not sequence.in_context:
                self.context.remove(sequence)
                self.generating.append(sequence)
                self._bear(sequence)

    def ahead(self, drawing: list[Sequence]) -> list[tuple[int, Sequence, Chunk]]:
        """What those who draw a token now will compute next, if nobody comes and nobody ends: one token each.

        :return: who of `drawing` goes on, with chunks that lack that token; empty: the next step cannot be told.
        """
        going_on = [(i, s) for i, s in enumerate(drawing) if s.state is State.RUNNING and not s.is_at_last]
        if self.context or self.waiting or self.tables.copies or len(self.generating) > len(drawing):
            return []
        for _, sequence in going_on:
            if self.tables.is_full(sequence, num_more=1):
                if not self.tables.can_grow(sequence):
                    return []
                self.tables.grow(sequence)
        return [(i, s, Chunk([], len(s.tokens), s.blocks, 1, s.dp_rank)) for i, s in going_on]

    def _bear(self, leader: Sequence) -> None:
        """Its prompt is computed: its siblings go on from there by themselves."""
        siblings, leader.siblings = leader.siblings, []
        for sibling in siblings:
            sibling.leader = None
            if self.tables.fork(leader, sibling):
                self._run(sibling)
            else:
                self._wait(sibling)
        self.tables.reserve(leader)

    # --- admission and preemption -------------------------------------------------------------------------------------

    def _admit(self) -> list[Sequence]:
        """Give blocks to as many as there is room for, from the head of the queue."""
        admitted = []
        while self._can_admit():
            sequence = self.waiting.pop()
            self.tables.open(sequence)
            if self.tables.wants_more(sequence, sequence.num_computed):
                sequence.state = State.FETCHING
                self.fetching.add(sequence)
            else:
                self._run(sequence)
            admitted.append(sequence)
        return admitted

    def _can_admit(self) -> bool:
        if (head := self.waiting.head) is None:
            return False
        if self.num_active + 1 + len(head.siblings) > self._limits.max_active:
            return False
        return self.tables.can_open(head, self.num_running)

    def _grow(self) -> None:
        """See that everybody who generates has a block for the next token: the others make room for the first."""
        for sequence in [s for s in self.generating if self.tables.is_full(s)]:
            while sequence.state is State.RUNNING and not self.tables.can_grow(sequence):
                self._preempt(max(chain(self.context, self.generating), key=_rank))
            if sequence.state is State.RUNNING:
                self.tables.grow(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self.tables.close(sequence)
        if sequence.readings is not None:
            sequence.readings.start_over()
        self._wait(sequence)
        self.num_preemptions += 1

    def _wait(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        self.waiting.add(sequence)

    def _run(self, sequence: Sequence) -> None:
        sequence.state = State.RUNNING
        (self.context if sequence.in_context else self.generating).append(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """Run no more."""
        (self.context if sequence in self.context else self.generating).remove(sequence)

    # --- endings ------------------------------------------------------------------------------------------------------

    def fetched(self, sequence: Sequence, num_tokens: int) -> None:
        """A fetch is over, and the KV of this many tokens is here; 0: it failed, what is missing is computed here."""
        self.fetching.remove(sequence)
        sequence.ticket = None
        if sequence.state is State.QUARANTINED:
            self._finish(sequence)
            return
        # The last known token is always computed: its logits are the next one's.
        sequence.num_computed = max(sequence.num_computed, min(num_tokens, len(sequence.tokens) - 1))
        self.tables.filled(sequence)
        self._run(sequence)

    def hold(self, sequence: Sequence) -> None:
        """Stop running it, but keep its blocks until `end`."""
        self._leave(sequence)
        sequence.state = State.HELD
        self.num_held_blocks += len(sequence.blocks)

    def end(self, sequence: Sequence) -> None:
        """Take it out, wherever it is. Its blocks are free at once, unless a fetch may still write to them.

        The last unborn sibling ends before its leader.
        """
        assert not sequence.siblings, f"request {sequence.id} leaves unborn choices"
        if sequence.state is State.FETCHING:
            sequence.state = State.QUARANTINED
            return
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.RUNNING:
            self._leave(sequence)
        elif sequence.state is State.HELD:
            self.num_held_blocks -= len(sequence.blocks)
        elif sequence.leader is not None:
            sequence.leader.siblings.remove(sequence)
            self.tables.reserve(sequence.leader)
        self._finish(sequence)

    def _finish(self, sequence: Sequence) -> None:
        assert sequence.state is not State.FINISHED, f"request {sequence.id} ends twice"
        sequence.state = State.FINISHED
        self.tables.close(sequence)

    def check_integrity(self, sequences: list[Sequence]) -> None:
        """Assert that each sequence is where its state says, and that no block is lost.

        :param sequences: all that there are.
        """
        running = {s for s in sequences if s.state is State.RUNNING}
        assert running == {*self.context, *self.generating}, "running sequences are lost"
        assert len(running) == self.num_running, "a sequence runs twice"
        assert self.fetching == {s for s in sequences if s.state in (State.FETCHING, State.QUARANTINED)}
        self.pieces.check_integrity(sequences)
        assert len(self.waiting) == sum(s.state is State.WAITING for s in sequences), "waiting sequences are lost"
        for sequence in sequences:
            assert all(s.state is State.UNBORN and s.leader is sequence for s in sequence.siblings)
        self.tables.check_integrity(sequences)


def _chunk(share: Share) -> Chunk:
    sequence, start, end = share.sequence, share.sequence.num_computed, share.sequence.num_computed + share.num_tokens
    num_logits = int(end == len(sequence.tokens)) if sequence.readings is None else share.num_tokens
    if sequence.is_awaited:
        num_logits = max(num_logits, 1)
    return Chunk(sequence.tokens[start:end], start, sequence.blocks, num_logits, sequence.dp_rank)


def _rank(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.rank
