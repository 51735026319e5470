"""Tokens for all rows of a step, by the fastest means there are: csrc, or its definition in numpy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trtdisagg.cache.native import extension
from trtdisagg.engine.request import TokenLogprob
from trtdisagg.engine.sampling.native import NativeSampler
from trtdisagg.engine.sampling.reference import ReferenceSampler
from trtdisagg.engine.sampling.row import Row, Sampled


class Sampler:
    """
    :param workers: threads of the extension; None: the caller's alone.
    """

    def __init__(self, workers: object = None) -> None:
        csrc = extension()
        self._means = NativeSampler(csrc, workers or csrc.Workers(1)) if csrc else ReferenceSampler()

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        """Choose a token for each row.

        :param logits: float32 [len(rows), vocab]; left as they are.
        """
        assert logits.shape[0] == len(rows), f"{logits.shape[0]} rows of logits for {len(rows)} sequences"
        return self._means.sample(logits.cpu().contiguous(), rows)

    def token_logprobs(self, logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
        """How probable each token was in its row, and the `num_top` most probable ones; fewer when fewer are possible.

        A token that is not possible has -infinity; all are NaN in a row that is not numbers.

        :param logits: float32 [len(token_ids), vocab]
        """
        assert logits.shape[0] == len(token_ids), f"{logits.shape[0]} rows of logits for {len(token_ids)} tokens"
        return self._means.token_logprobs(logits.cpu().contiguous(), token_ids, num_top)


def sample(logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """`Sampler.sample`, on the caller's thread."""
    return Sampler().sample(logits, rows)


def token_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
    """`Sampler.token_logprobs`, on the caller's thread."""
    return Sampler().token_logprobs(logits, token_ids, num_top)
