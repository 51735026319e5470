"""What the scheduler asks of the runner for one step: which tokens of which requests to compute, and where their KV is.

The scheduler knows no tensors, the runner knows no requests; this is all they share.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Chunk(msgspec.Struct, frozen=True, array_like=True):
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
    dp_rank: int = 0
    """With attention data parallelism: the ranks of which tp_rank have the blocks, and compute it."""


class Copy(NamedTuple):
    """A block to copy whole before anything is computed: two sequences shared it, and one of them goes on writing."""

    source: int
    target: int
    dp_rank: int = 0
    """As of a chunk: both are blocks of this one's."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """The work of one step. Logits come back as `num_logits` rows for each chunk, in order.

    Other ranks of the server are sent it as it is: msgpack, fields by position.
    """

    chunks: list[Chunk]
    copies: list[Copy] = []

    @property
    def num_tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks)
