"""A step with the names of those whose it is: what the scheduler gives the loop, which gives the step to the runner."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

from trtdisagg.engine.sequence import Sequence
from trtdisagg.engine.step import Chunk, Step


class Reading(NamedTuple):
    """Rows of logits that somebody wants to see who does not draw from them."""

    sequence: Sequence
    row: int
    """The first one."""
    chunk: Chunk


class Plan(NamedTuple):
    """A step, and whose it is."""

    step: Step
    sequences: list[Sequence]
    """Whose chunks it is made of: in each dp rank first those who generate, then those in their context phase."""
    num_generating: int
    num_context_tokens: int
    sampled: list[Sequence]
    """Those that get a token."""
    rows: list[int]
    """Which row of the logits each of `sampled` draws from."""
    readings: list[Reading]
    admitted: list[Sequence]
    """Running since now, or fetching."""


NOTHING = Plan(Step([]), [], 0, 0, [], [], [], [])


def merged(plans: Items[Plan]) -> Plan:
    """One step of what each dp rank computes, in their order: so rows of logits lie as ranks put theirs together."""
    if len(plans) == 1:
        return plans[0]
    whole = Plan(Step([], []), [], 0, 0, [], [], [], [])
    num_rows = num_generating = num_context_tokens = 0
    for plan in plans:
        whole.step.chunks.extend(plan.step.chunks)
        whole.step.copies.extend(plan.step.copies)
        whole.sequences.extend(plan.sequences)
        whole.sampled.extend(plan.sampled)
        whole.rows.extend(num_rows + row for row in plan.rows)
        whole.readings.extend(reading._replace(row=num_rows + reading.row) for reading in plan.readings)
        whole.admitted.extend(plan.admitted)
        num_rows += sum(chunk.num_logits for chunk in plan.step.chunks)
        num_generating += plan.num_generating
        num_context_tokens += plan.num_context_tokens
    return whole._replace(num_generating=num_generating, num_context_tokens=num_context_tokens)
