"""One rank's part of a step, and how what the ranks computed becomes one: the same for everything that computes.

Three ways to divide, which go together as `protocol.parallel` has them:

    layers      hidden states [tokens, width] are passed on from stage to stage
    heads       each rank's `o` and MLP give a part of a sum; each has logits of a part of the vocabulary
    requests    each rank computes its own chunks; experts, which are divided all the same, see the rows of all ranks

A step is the same on all ranks, so each knows how many rows the others have. Nothing is said where there is nothing to
say: without rows no call is made, on any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.step import Chunk, Copy, Step
from trtdisagg.protocol.parallel import ONE_RANK


class OwnStep(NamedTuple):
    """What of a step one rank computes."""

    chunks: Sequence[Chunk]
    copies: Sequence[Copy]
    num_tokens: list[int]
    """Of each rank that divides the requests."""
    num_logits: list[int]
    """Likewise."""


class Division:
    """
    :param ranks: None: there are no others.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = ranks
        self._parallel = parallel = ranks.parallel if ranks else ONE_RANK
        rank = ranks.rank if ranks else 0
        self._tp_rank = parallel.tp_rank(rank)
        self._dp_rank = self._tp_rank if parallel.attention_dp else 0
        self._is_rank_0 = rank == 0
        self.is_first = parallel.pp_rank(rank) == 0
        self.is_last = parallel.pp_rank(rank) == parallel.pp_size - 1
        self._divides_heads = parallel.attention_tp_size > 1
        self._divides_requests = parallel.dp_size > 1
        self._divides_experts = parallel.tp_size > 1

    def own(self, step: Step) -> OwnStep:
        """
        :return: the chunks, in order, and the copies that are this rank's.
        """
        dp_size, mine = self._parallel.dp_size, self._dp_rank
        num_tokens, num_logits = [0] * dp_size, [0] * dp_size
        for chunk in step.chunks:
            num_tokens[chunk.dp_rank] += len(chunk.tokens)
            num_logits[chunk.dp_rank] += chunk.num_logits
        if dp_size == 1:
            return OwnStep(step.chunks, step.copies, num_tokens, num_logits)
        chunks = [chunk for chunk in step.chunks if chunk.dp_rank == mine]
        return OwnStep(chunks, [copy for copy in step.copies if copy.dp_rank == mine], num_tokens, num_logits)

    def place(self, num_rows: Sequence[int]) -> tuple[int, int]:
        """
        :param num_rows: of each rank that divides the requests.
        :return: where our own begin among them, and how many they are together.
        """
        return sum(num_rows[: self._dp_rank]), sum(num_rows)

    # --- between stages -----------------------------------------------------------------------------------------------

    def take_over(self, x: Tensor) -> Tensor:
        """Fill x, [own tokens, width], with what the stage before gives."""
        assert self._ranks is not None
        if len(x):
            self._ranks.take_over(x)
        return x

    # --- within a stage -----------------------------------------------------------------------------------------------

    def add_up(self, x: Tensor) -> Tensor:
        """What ranks that divide the heads each have a part of: x becomes the sum."""
        if self._divides_heads and len(x):
            assert self._ranks is not None
            self._ranks.add_up(x)
        return x

    def mix(self, x: Tensor, num_rows: Sequence[int], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What all experts give for each row.

        :param x: [own rows, width], what they are given.
        :param num_rows: of each rank that divides the requests.
        :param compute: what this rank's experts give for any rows, another tensor.
        """
        start, num_all = self.place(num_rows)
        if not self._divides_experts or num_all == 0:
            return compute(x)
        assert self._ranks is not None
        out = compute(self._ranks.gather(x, list(num_rows)) if self._divides_requests else x)
        self._ranks.add_up(out)
        return out[start : start + len(x)]

    # --- at the end ---------------------------------------------------------------------------------------------------

    def finish(self, out: Tensor, step: Step, vocab_size: int) -> Tensor:
        """Pass on what this stage gives; from the last one logits reach rank 0.

        :param out: contiguous; in the last stage float32 [own rows, own part of the vocabulary], in the others hidden
            states, [own tokens, width].
        :return: float32 [sum of `num_logits`, vocab_size] in the order of the chunks; on other ranks no rows.
        """
        if self._ranks is None:
            return out
        if not self.is_last and len(out):
            self._ranks.pass_on(out)
        num_rows = sum(c.num_logits for c in step.chunks)
        if num_rows and self.is_last:
            logits = self._together(out, step, vocab_size)
            if self._is_rank_0:
                return logits
            if self._tp_rank == 0:
                self._ranks.to_first(logits.contiguous())
        elif num_rows and self._is_rank_0:
            logits = torch.empty(num_rows, vocab_size, device=out.device)
            self._ranks.to_first(logits)
            return logits
        return torch.empty(0, vocab_size, device=out.device)

    def _together(self, own: Tensor, step: Step, vocab_size: int) -> Tensor:
        """Of all ranks of a stage: their columns, or their rows."""
        assert self._ranks is not None
        if self._divides_heads:
            widths = [len(self._parallel.columns(r, vocab_size)) for r in range(self._parallel.tp_size)]
            sizes = [len(own) * width for width in widths]
            parts = self._ranks.gather(own.view(-1, 1), sizes).split(sizes)
            return torch.cat([part.view(len(own), -1) for part in parts], dim=1)
        if self._divides_requests:
            return self._ranks.gather(own, self.own(step).num_logits)[_rows_in_order(step.chunks)]
        return own


def _rows_in_order(chunks: Sequence[Chunk]) -> list[int]:
    """Of logits that lie dp rank by dp rank: which rows the chunks have, in their order.

    >>> _rows_in_order([Chunk([1], 0, [0], 1, dp_rank=1), Chunk([1, 2], 0, [0], 2, dp_rank=0)])
    [2, 0, 1]
    """
    by_rank = sorted(range(len(chunks)), key=lambda i: chunks[i].dp_rank)
    starts, row = [0] * len(chunks), 0
    for i in by_rank:
        starts[i], row = row, row + chunks[i].num_logits
    return [start + i for start, chunk in zip(starts, chunks, strict=True) for i in range(chunk.num_logits)]
