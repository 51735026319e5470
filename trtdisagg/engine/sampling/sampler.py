"""Tokens for all rows of a step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trtdisagg.engine.request import TokenLogprob
from trtdisagg.engine.sampling.reference import sample_row, token_logprob
from trtdisagg.engine.sampling.row import Row, Sampled


def sample(logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
    """Choose a token for each row.

    :param logits: float32 [len(rows), vocab]; left as they are.
    """
    assert logits.shape[0] == len(rows), f"{logits.shape[0]} rows of logits for {len(rows)} sequences"
    return [sample_row(values, row) for values, row in zip(logits.numpy(force=True), rows, strict=True)]


def token_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
    """How probable each token was in its row, and the `num_top` most probable ones; fewer when fewer are possible.

    A token that is not possible has -infinity; all are NaN in a row that is not numbers.

    :param logits: float32 [len(token_ids), vocab]
    """
    assert logits.shape[0] == len(token_ids), f"{logits.shape[0]} rows of logits for {len(token_ids)} tokens"
    values = logits.numpy(force=True)
    return [token_logprob(row, token, num_top) for row, token in zip(values, token_ids, strict=True)]
