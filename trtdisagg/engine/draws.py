"""Who draws a token after a step, how, and from which row of its logits."""

from __future__ import annotations

from typing import NamedTuple

from trtdisagg.engine.plan import Plan
from trtdisagg.engine.sampling import Row
from trtdisagg.engine.sequence import Sequence


class Draws(NamedTuple):
    sequences: list[Sequence]
    rows: list[Row]
    """How each of them draws."""
    indices: list[int]
    """Which row of the step's logits each draws from."""
    failed: list[tuple[Sequence, Exception]]
    """Those whose guide could not say what may come next, and what it raised."""


def draws_of(plan: Plan) -> Draws:
    draws = Draws([], [], [], [])
    for sequence, index in zip(plan.sampled, plan.rows, strict=True):
        try:
            row = _row(sequence)
        except Exception as e:  # noqa: BLE001 - whatever a guide raises
            draws.failed.append((sequence, e))
            continue
        draws.sequences.append(sequence)
        draws.rows.append(row)
        draws.indices.append(index)
    return draws


def _row(sequence: Sequence) -> Row:
    return Row(
        sequence.request.sampling,
        position=len(sequence.tokens),
        choice=sequence.choice,
        banned_ids=sequence.banned_ids,
        tokens=sequence.tokens,
        num_prompt=sequence.num_prompt,
        mask=None if sequence.guide is None else sequence.guide.mask(),
        history=sequence.history,
    )
