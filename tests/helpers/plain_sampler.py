"""The sampler again, row by row in numpy with a sort and a logarithm for every token: slow, and easy to follow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trtdisagg.engine.interfaces import Bits
from trtdisagg.engine.request import TokenLogprob
from trtdisagg.engine.sampling.key import make_key
from trtdisagg.engine.sampling.row import Row, Sampled

Floats = npt.NDArray[np.float32]
Hash = npt.NDArray[np.uint32]

NOT_SAMPLED = Sampled(None, None)


class PlainSampler:
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
    token = _draw(edited, top, row) if row.inverse_temperature else top
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
        scaled = (logits - logits[top]) * np.float32(row.inverse_temperature)
    ids = np.flatnonzero(scaled >= _least(scaled, row))
    noise = -np.log(exponential(hash_ids(ids, make_key(row.sampling.seed, row.choice, row.position))))
    return int(ids[(scaled[ids] + noise).argmax()])


def _least(scaled: Floats, row: Row) -> np.float32:
    """The least of what top_k, then top_p, then min_p leave. Tokens as probable as the last one kept are kept too."""
    k, top_p = row.sampling.top_k, row.sampling.top_p
    least = np.partition(scaled, -k)[-k] if 0 < k < len(scaled) else np.float32(-np.inf)
    if top_p < 1:
        least = _nucleus(scaled[scaled >= least], top_p)
    return max(least, np.float32(row.min_scaled))


def _nucleus(scaled: Floats, top_p: float) -> np.float32:
    """The least of the smallest set of tokens that has this share of the whole."""
    descending = np.sort(scaled)[::-1]
    reached = np.cumsum(masses(descending))
    return np.float32(descending[np.searchsorted(reached, top_p * reached[-1])])


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
    if row.penalizes:
        _penalize(edited, row)
    return edited


def allowed(mask: Bits, vocab: int) -> npt.NDArray[np.bool_]:
    """The mask's bits, one for each token; none of those behind its end."""
    bits = np.unpackbits(mask.astype("<i4").view(np.uint8), bitorder="little")[:vocab]
    return np.pad(bits, (0, vocab - len(bits))).astype(np.bool_)


def _forbid(logits: Floats, row: Row) -> None:
    if row.mask is not None:
        logits[~allowed(row.mask, len(logits))] = -np.inf
    logits[[i for i in row.banned() if 0 <= i < len(logits)]] = -np.inf


def _penalize(logits: Floats, row: Row) -> None:
    sampling = row.sampling
    ids, counts = (np.array(values) for values in row.seen())
    known = (ids >= 0) & (ids < len(logits))
    ids, counts = ids[known], counts[known]
    values, repetition = logits[ids], np.float32(sampling.repetition_penalty)
    values = np.where(values > 0, values / repetition, values * repetition)
    taken = sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * counts
    logits[ids] = values - taken.astype(np.float32)


def exponential(bits: Hash) -> npt.NDArray[np.float64]:
    """Exponentially distributed numbers, never 0 and never infinite."""
    u = (bits.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log1p(-u)


def hash_ids(ids: npt.NDArray[np.integer], key: int) -> Hash:
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
