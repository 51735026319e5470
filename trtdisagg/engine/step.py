"""What the scheduler asks of the runner for one step: which tokens of which requests to compute, and where their KV is.

The scheduler knows no tensors, the runner knows no requests; this is all they share.
"""

from __future__ import annotations

import msgspec


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive tokens of one request, computed in one step: a whole prompt, a piece of one, or one new token.

    positions   0 ............ start ............ start + len(tokens)
                | KV in blocks | computed in this step
    """

    tokens: list[int]
    start: int
    """Position of `tokens[0]`; KV of all positions before it is already in `blocks`."""
    blocks: list[int]
    """Block table: position p lies in block `blocks[p // tokens_per_block]`; covers at least start + len(tokens)."""
    num_logits: int
    """So many of the last tokens need logits: none for all but the last piece of a prompt, one to go on with, all where
    the prompt's own probabilities are asked for."""


class Step(msgspec.Struct, frozen=True):
    """The work of one step. Logits come back as `num_logits` rows for each chunk, in order."""

    chunks: list[Chunk]
    copies: list[tuple[int, int]] = []
    """Blocks to copy whole before anything is computed, (from, to): two sequences shared one, and one of them goes on
    writing."""

    @property
    def num_tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks)
