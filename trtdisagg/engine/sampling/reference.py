"""The definition of a sample, row by row in plain numpy. What is fast (csrc, and torch on a device) must give the same.

So that all do, on any machine, what decides between tokens is rounded alike everywhere: e^x is one polynomial in
float32 whose steps are each rounded, and sums of probabilities are sums of multiples of 2^-34, hence exact in float64
in any order. Only logarithms of the noise may differ, by a unit in the last of 53 bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trtdisagg.engine.request import SamplingParams, TokenLogprob
from trtdisagg.engine.sampling.edits import Floats, edit
from trtdisagg.engine.sampling.noise import exponential, hash_ids, make_key
from trtdisagg.engine.sampling.row import Row, Sampled

_TINY = float(np.finfo(np.float32).tiny)
NOT_SAMPLED = Sampled(None, None)


class ReferenceSampler:
    """Where there is no C++ extension."""

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        return [sample_row(values, row) for values, row in zip(logits.numpy(force=True), rows, strict=True)]

    def token_logprobs(self, logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
        values = logits.numpy(force=True)
        return [token_logprob(row, token, num_top) for row, token in zip(values, token_ids, strict=True)]


def sample_row(logits: Floats, row: Row) -> Sampled:
    """
    :param logits: float32 [vocab]
    """
    if not np.isfinite(logits.max()):  # NaN, where there is one
        return NOT_SAMPLED
    edited = edit(logits, row)
    top = int(edited.argmax())
    if not np.isfinite(edited[top]):
        return NOT_SAMPLED
    token = _draw(edited, top, row) if inverse_temperature(row.sampling) else top
    num_top = row.sampling.num_logprobs
    return Sampled(token, None if num_top is None else token_logprob(logits, token, num_top))


def token_logprob(logits: Floats, token: int, num_top: int) -> TokenLogprob:
    """The log probability of a token and of the most probable ones; of equals the lower id is first."""
    exact = logits.astype(np.float64)
    if not np.isfinite(exact.max()):
        return TokenLogprob(token, math.nan)
    logprobs = exact - exact.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    best = [int(i) for i in np.argsort(-logprobs, kind="stable")[:num_top] if logprobs[i] > -np.inf]
    return TokenLogprob(token, float(logprobs[token]), [(i, float(logprobs[i])) for i in best])


def inverse_temperature(sampling: SamplingParams) -> float:
    """What logits are multiplied by, a float32; 0: greedy, as temperatures are that would divide by 0 in float32."""
    return float(np.float32(max(1 / sampling.temperature, _TINY))) if sampling.temperature >= _TINY else 0.0


def weights(scaled: Floats) -> Floats:
    """e^x for x <= 0, to within 2 units in the last place; 0 below -87.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to the 7th power.
    """
    f = np.float32
    x = np.maximum(scaled, f(-87))
    magic = f(1.5 * 2**23)  # adding it rounds to an integer
    n = (x * f(1.44269504088896341) + magic) - magic
    r = (x - n * f(0.693359375)) + n * f(2.12194440e-4)
    p = np.full_like(x, f(1 / 5040))
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
        p = p * r + f(coefficient)
    power = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return np.where(scaled >= f(-87), p * power, f(0))


def masses(scaled: Floats) -> npt.NDArray[np.float64]:
    """Weights rounded to multiples of 2^-34."""
    magic = 1.5 * 2.0**18
    return (weights(scaled).astype(np.float64) + magic) - magic


def _draw(logits: Floats, top: int, row: Row) -> int:
    """Draw a token by its probability. With E = -log(1 - u), Gumbel noise is -log E."""
    with np.errstate(over="ignore"):  # a tiny temperature: all but the top become -inf, as they should
        scaled = (logits - logits[top]) * np.float32(inverse_temperature(row.sampling))
    ids = np.flatnonzero(scaled >= _least(scaled, row.sampling))
    noise = -np.log(exponential(hash_ids(ids, make_key(row.sampling.seed, row.choice, row.position))))
    return int(ids[(scaled[ids] + noise).argmax()])


def _least(scaled: Floats, sampling: SamplingParams) -> np.float32:
    """The least of what top_k, then top_p, then min_p leave. Tokens as probable as the last one kept are kept too."""
    k = sampling.top_k
    least = np.partition(scaled, -k)[-k] if 0 < k < len(scaled) else np.float32(-np.inf)
    if sampling.top_p < 1:
        least = _nucleus(scaled[scaled >= least], sampling.top_p)
    return max(least, np.float32(least_by_min_p(sampling.min_p)))


def least_by_min_p(min_p: float) -> float:
    """What `min_p` leaves of scaled logits, the greatest of which is 0; a float32."""
    return float(np.float32(min(math.log(min_p), 0))) if min_p > 0 else -math.inf


def _nucleus(scaled: Floats, top_p: float) -> np.float32:
    """The least of the smallest set of tokens that has this share of the whole."""
    descending = np.sort(scaled)[::-1]
    reached = np.cumsum(masses(descending))
    return np.float32(descending[np.searchsorted(reached, top_p * reached[-1])])
