"""Tokens for all rows of a step, by the fastest means there are: csrc for logits on a CPU, otherwise torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trtdisagg.cache.native import extension
from trtdisagg.engine.request import TokenLogprob
from trtdisagg.engine.sampling.native import NativeSampler
from trtdisagg.engine.sampling.row import Row, Sampled
from trtdisagg.engine.sampling.torch_sampler import Drawn, TorchSampler


class Sampler:
    """
    :param workers: threads of the extension; None: the caller's alone.
    """

    def __init__(self, workers: object = None) -> None:
        csrc = extension()
        self._torch = TorchSampler()
        self._native = NativeSampler(csrc, workers or csrc.Workers(1)) if csrc else None

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        """Choose a token for each row.

        :param logits: float32 [len(rows), vocab]; left as they are.
        """
        assert logits.shape[0] == len(rows), f"{logits.shape[0]} rows of logits for {len(rows)} sequences"
        return self._means(logits).sample(logits.contiguous(), rows)

    def draw(self, logits: Tensor, rows: Sequence[Row]) -> Drawn:
        """As `sample`, with tokens that may still be on their way."""
        return self._torch.draw(logits.contiguous(), rows)

    def token_logprobs(self, logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
        """How probable each token was in its row, and the `num_top` most probable ones; fewer when fewer are possible.

        A token that is not possible has -infinity; all are NaN in a row that is not numbers.

        :param logits: float32 [len(token_ids), vocab]
        """
        assert logits.shape[0] == len(token_ids), f"{logits.shape[0]} rows of logits for {len(token_ids)} tokens"
        return self._means(logits).token_logprobs(logits.contiguous(), token_ids, num_top)

    def _means(self, logits: Tensor) -> NativeSampler | TorchSampler:
        return self._native if self._native and logits.device.type == "cpu" else self._torch


def sample(logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """`Sampler.sample`, on the caller's thread."""
    return Sampler().sample(logits, rows)


def token_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
    """`Sampler.token_logprobs`, on the caller's thread."""
    return Sampler().token_logprobs(logits, token_ids, num_top)
