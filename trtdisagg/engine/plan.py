"""A step with the names of those whose it is: what the scheduler gives the loop, which gives the step to the runner."""

from __future__ import annotations

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
    """Whose chunks it is made of: first those who generate, then those in their context phase."""
    num_generating: int
    num_context_tokens: int
    sampled: list[Sequence]
    """Those that get a token."""
    rows: list[int]
    """Which row of the logits each of `sampled` draws from."""
    readings: list[Reading]
    admitted: list[Sequence]
    """Running since now, or fetching."""
