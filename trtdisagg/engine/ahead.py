"""The next step, launched before the tokens of this one are known: for a device that computes while the host goes on.

    device   | step n | draw | step n+1         | draw | ...
    host     launch n, draw, launch n+1 | read n's tokens, tell, schedule | n+1 is there: draw, launch n+2 | read ...

What is launched is a guess: that all go on and nobody comes. If the scheduler then plans exactly that, its logits are
used; otherwise they are dropped and the step is computed as planned. Nothing is undone, because a guess writes only to
the block that its token will be written to, and what is launched later on the device is computed later.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple, Protocol

from torch import Tensor

from trtdisagg.engine.plan import Plan
from trtdisagg.engine.rows import pick_rows
from trtdisagg.engine.sequence import Sequence, State
from trtdisagg.engine.step import Chunk


class AheadRunner(Protocol):
    """Computes while its caller goes on."""

    def run_ahead(self, chunks: Items[Chunk], tokens: Tensor) -> Tensor:
        """Launch a step of one token each.

        :param chunks: without tokens, each with a row of logits.
        :param tokens: int64 [len(chunks)] on the device; negative: any, nobody will look at that row.
        :return: float32 [len(chunks), vocab] on the device
        """

    def wait(self) -> None:
        """Until all that was launched is computed."""


class Guess(NamedTuple):
    """A sequence's place in the step that was launched, and where its token's KV was written."""

    row: int
    start: int
    num_blocks: int
    last_block: int


class Ahead:
    """At most one step that was launched before it was planned."""

    def __init__(self, runner: AheadRunner) -> None:
        self._runner = runner
        self._guesses: dict[Sequence, Guess] = {}
        self._logits: Tensor | None = None
        self.is_late = False
        """Something was launched behind the last tokens that were read: it may still write."""
        self.num_used = 0
        """Steps that had been guessed."""

    def launch(self, going_on: Items[tuple[int, Sequence, Chunk]], tokens: Tensor) -> None:
        """Before the tokens are read: after that nothing else is still computed.

        :param going_on: rows of `tokens`, whose they are, and what they will compute next.
        :param tokens: drawn on the device.
        """
        self._logits = None
        self.is_late = bool(going_on)
        self._guesses.clear()
        if not going_on:
            return
        self._guesses = {s: _guess(i, chunk) for i, (_, s, chunk) in enumerate(going_on)}
        rows = [row for row, _, _ in going_on]
        self._logits = self._runner.run_ahead([chunk for _, _, chunk in going_on], pick_rows(tokens, rows))

    def settle(self) -> None:
        """Before blocks are given to somebody: those of who has ended meanwhile may still be written to."""
        if self.is_late and any(s.state is not State.RUNNING for s in self._guesses):
            self._runner.wait()
            self.is_late = False

    def take(self, plan: Plan) -> Tensor | None:
        """The logits of this plan, if it is what was launched."""
        logits, self._logits = self._logits, None
        if logits is None or plan.step.copies or plan.num_generating < len(plan.sequences):
            return None
        guesses = [self._guesses.get(s) for s in plan.sequences]
        planned = [_guess(g.row if g else 0, c) for g, c in zip(guesses, plan.step.chunks, strict=True)]
        if guesses != planned:
            return None
        self.num_used += 1
        return pick_rows(logits, [guess.row for guess in planned])


def _guess(row: int, chunk: Chunk) -> Guess:
    return Guess(row, chunk.start, len(chunk.blocks), chunk.blocks[-1])
