"""The sampler in plain torch, for all rows at once: on a device, where nothing waits for it until the tokens are read,
and the definition of what csrc does.

What decides between tokens is rounded alike everywhere, so that every machine draws the same ones: e^x is one
polynomial in float32 whose steps are each rounded, and sums of probabilities are sums of multiples of 2^-34, hence
exact in float64 in any order. Only logarithms of the noise may differ, by a unit in the last of 53 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trtdisagg.engine.request import TokenLogprob
from trtdisagg.engine.sampling.asked import Asked
from trtdisagg.engine.sampling.row import Row, Sampled

_INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens that may still be on their way."""

    tokens: Tensor
    """int64 [rows] on the device; -1 where there is none."""
    logprobs: Logprobs | None
    """Where a row asks for some."""
    num_logprobs: Sequence[int | None]

    def read(self) -> list[Sampled]:
        """Wait for them."""
        tokens = self.tokens.tolist()
        if self.logprobs is None:
            return [Sampled(None if token < 0 else token, None) for token in tokens]
        found = self.logprobs.read(tokens, [num or 0 for num in self.num_logprobs])
        return [
            Sampled(None, None) if token < 0 else Sampled(token, None if num is None else logprob)
            for token, num, logprob in zip(tokens, self.num_logprobs, found, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Logprobs:
    chosen: Tensor
    """float64 [rows]"""
    ids: Tensor
    """int64 [rows, most asked for], best first."""
    top: Tensor
    """float64, of these."""

    def read(self, tokens: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprob]:
        rows = zip(tokens, num_top, self.chosen.tolist(), self.ids.tolist(), self.top.tolist(), strict=True)
        return [
            TokenLogprob(token, chosen, [(i, p) for i, p in zip(ids[:num], top[:num], strict=True) if p > -_INFINITY])
            for token, num, chosen, ids, top in rows
        ]


class TorchSampler:
    """`draw` gives tokens that the next step may use before anybody has read them."""

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        return self.draw(logits, rows).read()

    def token_logprobs(self, logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
        tokens = torch.tensor(token_ids, dtype=torch.long).to(logits.device, non_blocking=True)
        return find_logprobs(logits, tokens, num_top).read(token_ids, [num_top] * len(token_ids))

    def draw(self, logits: Tensor, rows: Sequence[Row]) -> Drawn:
        """Choose a token for each row, and wait for nothing.

        :param logits: float32 [len(rows), vocab]; left as they are.
        """
        asked = Asked.of(rows, logits.shape[1], logits.device)
        edited = edit(logits, asked)
        top, tokens = edited.max(-1)
        are_numbers = logits.amax(-1).isfinite() & top.isfinite()  # the maximum of NaNs is NaN
        if asked.is_random:
            scaled = (edited - top[:, None]) * asked.inverse_temperature[:, None]
            drawn = contest(scaled, find_least(scaled, asked), asked)
            tokens = torch.where(asked.inverse_temperature > 0, drawn, tokens)
        tokens = torch.where(are_numbers, tokens, -1)
        num_logprobs = [row.sampling.num_logprobs for row in rows]
        num_top = max((n for n in num_logprobs if n is not None), default=None)
        found = None if num_top is None else find_logprobs(logits, tokens.clamp_min(0), num_top)
        return Drawn(tokens, found, num_logprobs)


def edit(logits: Tensor, asked: Asked) -> Tensor:
    """The logits that tokens are chosen by."""
    if asked.mask is None and asked.bans is None and asked.biases is None and asked.seen is None:
        return logits
    edited = logits.clone()
    if asked.mask is not None:
        bits = torch.arange(32, dtype=torch.int32, device=logits.device)
        allowed = (asked.mask[:, :, None] >> bits & 1).flatten(1)[:, : logits.shape[1]]
        edited.masked_fill_(allowed == 0, -_INFINITY)
    if asked.bans is not None:
        edited[asked.bans.rows, asked.bans.ids] = -_INFINITY
    if asked.biases is not None:
        edited[asked.biases.rows, asked.biases.ids] += asked.biases.values
    if asked.seen is not None:
        where = asked.seen.rows, asked.seen.ids
        values, repetition = edited[where], asked.repetition[asked.seen.rows]
        edited[where] = torch.where(values > 0, values / repetition, values * repetition) - asked.seen.values
    return edited


def find_least(scaled: Tensor, asked: Asked) -> Tensor:
    """The least scaled value that top_k, then top_p, then min_p leave; [rows]."""
    least = torch.full_like(asked.min_scaled, -_INFINITY)
    if asked.max_top_k:
        best = scaled.topk(asked.max_top_k).values
        least = torch.where(asked.top_k > 0, best.gather(1, (asked.top_k - 1).clamp_min(0)[:, None])[:, 0], least)
    if asked.has_top_p:
        descending = scaled.sort(descending=True).values
        reached = torch.where(descending >= least[:, None], masses(descending), 0).cumsum(-1)
        wanted = asked.top_p * reached[:, -1]
        last = torch.searchsorted(reached, wanted[:, None]).clamp_max(scaled.shape[1] - 1)
        least = torch.where(asked.top_p < 1, descending.gather(1, last)[:, 0], least)
    return torch.maximum(least, asked.min_scaled)


def masses(scaled: Tensor) -> Tensor:
    """e^x for x <= 0, to within 2 units in the last place, 0 below -87; rounded to multiples of 2^-34, in float64.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to the 7th power.
    """
    x = scaled.clamp_min(-87)
    magic = 1.5 * 2**23  # adding it rounds to an integer
    n = (x * 1.44269504088896341 + magic) - magic
    r = (x - n * 0.693359375) + n * 2.12194440e-4
    p = torch.full_like(x, 1 / 5040)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1, 1):
        p = p * r
        p = p + coefficient
    power = ((n.int() + 127) << 23).view(torch.float32)
    weights = torch.where(scaled >= -87, p * power, 0)
    return (weights.double() + 1.5 * 2**18) - 1.5 * 2**18


def contest(scaled: Tensor, least: Tensor, asked: Asked) -> Tensor:
    """The tokens with the greatest sum of value and Gumbel noise, of those at least as great as `least`; int64 [rows].

    With E = -log(1 - u), exponentially distributed, the noise is -log E.
    """
    bits = hash_ids(scaled.shape[1], asked.key)
    u = ((bits.double() % 2**32) + 0.5) * 2.0**-32
    scores = scaled - (-(-u).log1p()).log()
    return scores.masked_fill_(scaled < least[:, None], -_INFINITY).argmax(-1)


def hash_ids(vocab: int, key: Tensor) -> Tensor:
    """32 random bits for each token, int32 [rows, vocab]: the finalizer of MurmurHash3, keyed twice.

    :param key: int32 [rows, 2], lower and upper half.
    """
    z = torch.arange(vocab, dtype=torch.int32, device=key.device) * _signed(0x9E3779B9) + key[:, :1]
    z = z ^ (z >> 16 & 0xFFFF)  # the mask makes it a logical shift
    z = z * _signed(0x85EBCA6B) ^ key[:, 1:]
    z = z ^ (z >> 13 & 0x7FFFF)
    z = z * _signed(0xC2B2AE35)
    return z ^ (z >> 16 & 0xFFFF)


def find_logprobs(logits: Tensor, tokens: Tensor, num_top: int) -> Logprobs:
    """Of each row's token, and of its most probable ones; of equals the lower id is first."""
    logprobs = logits.double().log_softmax(-1)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    ids = _ordered(logits).topk(min(num_top, logits.shape[1])).values
    ids = 0xFFFFFFFF - (ids & 0xFFFFFFFF)
    return Logprobs(chosen, ids, logprobs.gather(1, ids))


def _ordered(logits: Tensor) -> Tensor:
    """int64 that are ordered as (logit, -id) are: the bits of a float are, when those of negative ones are turned."""
    bits = (logits + 0.0).view(torch.int32)  # -0 becomes 0
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    ids = torch.arange(logits.shape[1], device=logits.device)
    return (order << 32) + (0xFFFFFFFF - ids)


def _signed(bits: int) -> int:
    return bits - (1 << 32)
