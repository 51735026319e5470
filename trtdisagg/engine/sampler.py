"""From logits to tokens: a pure function of (seed, choice, position, logits), whoever else is in the batch.

A sample is the argmax of logits / temperature + Gumbel noise (Gumbel 1954; it has the distribution of the softmax).
The noise of a token is a hash of (seed, choice, position, token id), not the state of a generator: so any server that
has the tokens continues where another stopped, and small differences in logits rarely change what is drawn.

Rows are worked on one by one in numpy: a row fits the processor's cache, and numpy's argmax, sort and integer
arithmetic on it are several times faster than torch's on a CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trtdisagg.engine.request import SamplingParams

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.intp]
Bits = npt.NDArray[np.uint32]

_MASK64 = (1 << 64) - 1
_LEAST_TEMPERATURE = float(np.finfo(np.float32).tiny)
"""Below this it is greedy: what rounds to 0 in float32 would divide 0 by 0."""


class Row(NamedTuple):
    """How the token for one row of logits is chosen."""

    sampling: SamplingParams
    position: int
    """Index of the token to come, in prompt and output together."""
    banned_ids: Collection[int] = ()
    choice: int = 0
    """Which of several answers to one prompt this is."""


def sample(logits: Floats, rows: Sequence[Row]) -> list[int | None]:
    """Choose a token for each row.

    :param logits: float32 [len(rows), vocab].
    :return: token ids; None for a row without a finite maximum: there are NaNs in it, or every token is banned.
    """
    assert logits.shape[0] == len(rows), f"{logits.shape[0]} rows of logits for {len(rows)} sequences"
    return [_sample_row(values, row) for values, row in zip(logits, rows, strict=True)]


def _sample_row(logits: Floats, row: Row) -> int | None:
    if row.banned_ids:
        logits = logits.copy()
        logits[list(row.banned_ids)] = -np.inf
    top = int(logits.argmax())  # the first NaN, where there is one
    if not np.isfinite(logits[top]):
        return None
    if row.sampling.temperature < _LEAST_TEMPERATURE:
        return top
    return _draw(logits, top, row)


def _draw(logits: Floats, top: int, row: Row) -> int:
    """Draw a token by its probability.

    With E = -log(1 - u) the argmax of logit / temperature + Gumbel noise is the argmin of E / weight. Since u <= E, a
    token can only win where u <= weight * E[top]: the logarithms are taken for the few that can.
    """
    with np.errstate(over="ignore", divide="ignore"):  # a tiny temperature: all but the top become -inf, as they should
        scaled = (logits - logits[top]) / np.float32(row.sampling.temperature)
    weights = np.exp(scaled)
    ids = _candidates(weights, row.sampling)
    key = _key(row.sampling.seed, row.choice, row.position)
    bound = _exponential(_hash(np.array([top]), key))[0] * (1 + 1e-5)
    bits = _hash(ids, key)
    can_win = np.flatnonzero(bits.astype(np.float32) * np.float32(2**-32) <= weights[ids] * np.float32(bound))
    ids = ids[can_win]
    scores = scaled[ids] - np.log(_exponential(bits[can_win]))
    return int(ids[scores.argmax()])


def _candidates(weights: Floats, sampling: SamplingParams) -> Ids:
    """The tokens left by top_k and then top_p, ascending. Tokens as probable as the last one kept are kept too.

    :param weights: probabilities up to a common factor, the greatest 1.
    """
    k = sampling.top_k
    least = np.partition(weights, -k)[-k] if 0 < k < len(weights) else np.float32(0)
    ids = np.flatnonzero(weights >= least)
    if sampling.top_p < 1:
        kept = weights[ids]
        ids = ids[kept >= _nucleus(kept, sampling.top_p)]
    return ids


def _nucleus(weights: Floats, top_p: float) -> np.float32:
    """The least weight of the smallest set of tokens that has this share of the whole."""
    wanted = top_p * weights.sum(dtype=np.float64)
    head = weights[weights > 1e-3]  # what is sought is most often in here, and this is much shorter to sort
    if head.sum(dtype=np.float64) <= wanted:
        head = weights
    descending = np.sort(head)[::-1]
    last = np.searchsorted(np.cumsum(descending, dtype=np.float64), wanted)
    return np.float32(descending[min(last, len(descending) - 1)])


def _exponential(bits: Bits) -> npt.NDArray[np.float64]:
    """Exponentially distributed numbers, never 0 and never infinite."""
    u = (bits.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log1p(-u)


def _hash(ids: Ids, key: int) -> Bits:
    """32 random bits per token id: the finalizer of MurmurHash3, keyed at its entry and in the middle."""
    z = ids.astype(np.uint32)
    z *= np.uint32(0x9E3779B9)
    z += np.uint32(key & 0xFFFFFFFF)
    z ^= z >> np.uint32(16)
    z *= np.uint32(0x85EBCA6B)
    z ^= np.uint32(key >> 32)
    z ^= z >> np.uint32(13)
    z *= np.uint32(0xC2B2AE35)
    z ^= z >> np.uint32(16)
    return z


def _key(*parts: int) -> int:
    """64 bits from the numbers, by SplitMix64 (Steele, Lea and Flood 2014)."""
    key = 0
    for part in parts:
        key = ((key ^ part) + 0x9E3779B97F4A7C15) & _MASK64
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _MASK64
        key ^= key >> 31
    return key
