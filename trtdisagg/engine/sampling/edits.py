"""What a request wants changed in its logits before a token is chosen, in plain numpy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from trtdisagg.engine.interfaces import Bits
from trtdisagg.engine.sampling.row import History, Ids, Row

Floats = npt.NDArray[np.float32]


def edit(logits: Floats, row: Row) -> Floats:
    """
    :param logits: float32 [vocab]; left as they are.
    :return: the logits that a token is chosen by.
    """
    edited = logits.copy()
    _forbid(edited, row)
    for token, bias in row.sampling.logit_bias.items():
        if 0 <= token < len(edited):
            edited[token] += np.float32(bias)
    if penalizes(row):
        _penalize(edited, row)
    return edited


def penalizes(row: Row) -> bool:
    """Whether it matters what the sequence's tokens are."""
    s = row.sampling
    return s.repetition_penalty != 1 or s.presence_penalty != 0 or s.frequency_penalty != 0


def history(row: Row) -> tuple[Ids, Ids]:
    """The ids in the row's tokens, each once, and how often each is in the output."""
    return (row.history or History()).follow(row.tokens, row.num_prompt)


def banned(row: Row) -> Iterator[int]:
    """Tokens that may not come, beside those that the mask forbids."""
    yield from row.banned_ids
    yield from (word[-1] for word in row.sampling.bad_words if word and _ends_with(row.tokens, word[:-1]))


def allowed(mask: Bits, vocab: int) -> npt.NDArray[np.bool_]:
    """The mask's bits, one for each token; none of those behind its end."""
    bits = np.unpackbits(mask.astype("<i4").view(np.uint8), bitorder="little")[:vocab]
    return np.pad(bits, (0, vocab - len(bits))).astype(np.bool_)


def within(ids: Collection[int], vocab: int) -> list[int]:
    return [i for i in ids if 0 <= i < vocab]


def _ends_with(tokens: Sequence[int], end: list[int]) -> bool:
    return not end or list(tokens[-len(end) :]) == end


def _forbid(logits: Floats, row: Row) -> None:
    if row.mask is not None:
        logits[~allowed(row.mask, len(logits))] = -np.inf
    logits[within(list(banned(row)), len(logits))] = -np.inf


def _penalize(logits: Floats, row: Row) -> None:
    sampling = row.sampling
    ids, counts = history(row)
    known = (ids >= 0) & (ids < len(logits))
    ids, counts = ids[known], counts[known]
    values, repetition = logits[ids], np.float32(sampling.repetition_penalty)
    values = np.where(values > 0, values / repetition, values * repetition)
    taken = sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * counts
    logits[ids] = values - taken.astype(np.float32)
