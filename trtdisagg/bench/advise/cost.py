"""The time of any step of a server, from the few that were measured.

    a step = rows of those who generate + rows of prompts - what both share + attention

A row is a token on its way through the layers, whatever it looks at; attention grows with the KV that streams read, and
with the pairs of tokens within prompts. What lies between two measured numbers of rows is interpolated. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trtdisagg.bench.advise.profile import Decode, Handover, Mixed, Prefill, Profile, ServerProfile

if TYPE_CHECKING:
    from trtdisagg._sim import StepCost

Floats = NDArray[np.float64]


class Cost(NamedTuple):
    """Of one server, in seconds."""

    decode_s: Floats
    """[0 to max_batch_size]: a step of so many streams, without attention."""
    prefill_s: Floats
    """[0 to max_num_tokens]: a step of so many tokens of prompts, without attention."""
    kv_s: float
    """For each token of KV that a stream looks at."""
    pair_s: float
    """For each token of a prompt and each one before it, or itself."""
    shared_s: float
    """That a step with both saves: the weights are read once."""
    request_s: float
    """From a client to the server's queue, and back."""

    def step_s(self, num_streams: int, num_kv_tokens: float, num_prompt_tokens: int, num_pairs: float) -> float:
        streams = self.decode_s[num_streams] + self.kv_s * num_kv_tokens if num_streams else 0.0
        prompts = self.prefill_s[num_prompt_tokens] + self.pair_s * num_pairs if num_prompt_tokens else 0.0
        return float(streams + prompts - (self.shared_s if num_streams and num_prompt_tokens else 0.0))

    def prompt_s(self, num_tokens: int) -> float:
        """A prompt alone, in chunks where a step cannot take it whole."""
        seconds, most = 0.0, len(self.prefill_s) - 1
        for start in range(0, num_tokens, most):
            num = min(most, num_tokens - start)
            seconds += self.step_s(0, 0, num, num_pairs(start, num))
        return seconds

    def native(self) -> StepCost:
        from trtdisagg._sim import StepCost

        return StepCost(
            decode_s=self.decode_s.tobytes(),
            prefill_s=self.prefill_s.tobytes(),
            kv_s=self.kv_s,
            pair_s=self.pair_s,
            shared_s=self.shared_s,
        )


def num_pairs(start: int, num: int) -> float:
    """Of tokens behind `start` others, each with all before it and itself."""
    return num * (start + (num + 1) / 2)


def make_cost(profile: ServerProfile, *, max_batch_size: int, max_num_tokens: int) -> Cost:
    """
    :param max_batch_size: of the server that is to be known; beyond what was measured, the last slope goes on.
    """
    kv_s = _kv_s(profile.decodes)
    decode_s = _decode_s(profile.decodes, kv_s, max_batch_size)
    request_s = _request_s(profile.prefills, float(decode_s[1]))
    pair_s = _pair_s(profile.prefills)
    prefill_s = _prefill_s(profile.prefills, pair_s, request_s, max_num_tokens)
    cost = Cost(decode_s, prefill_s, kv_s, pair_s, 0.0, request_s)
    return cost._replace(shared_s=_shared_s(profile.mixed, cost))


def transfer_of(profile: Profile) -> tuple[float, float]:
    """What a handover takes: seconds however short the prompt, and for each token of it."""
    return _line(profile.handovers)


def _line(handovers: list[Handover]) -> tuple[float, float]:
    """The least squares, neither part negative."""
    tokens = np.array([handover.num_tokens for handover in handovers], float)
    seconds = np.array([handover.seconds for handover in handovers])
    if len(handovers) < 2:
        return float(seconds.mean()), 0.0
    slope, base = np.polyfit(tokens, seconds, 1)
    if slope < 0:
        return float(seconds.mean()), 0.0
    return (float(base), float(slope)) if base >= 0 else (0.0, float((tokens @ seconds) / (tokens @ tokens)))


def _kv_s(decodes: list[Decode]) -> float:
    """From streams that differ in length alone."""
    slopes = [
        (long.seconds - short.seconds) / (long.num_streams * (long.num_tokens - short.num_tokens))
        for long in decodes
        for short in decodes
        if long.num_streams == short.num_streams and long.num_tokens > short.num_tokens
    ]
    return max(0.0, float(np.median(slopes))) if slopes else 0.0


def _decode_s(decodes: list[Decode], kv_s: float, max_batch_size: int) -> Floats:
    shortest: dict[int, Decode] = {}
    for decode in sorted(decodes, key=lambda decode: -decode.num_tokens):
        shortest[decode.num_streams] = decode
    known = {num: d.seconds - kv_s * num * d.num_tokens for num, d in shortest.items()}
    return _table(known, max_batch_size)


def _request_s(prefills: list[Prefill], step_s: float) -> float:
    """What a prompt of one token takes beside the step, which reads the weights as any other does."""
    shortest = min(prefills, key=lambda prefill: prefill.num_tokens)
    return max(0.0, shortest.seconds - step_s) if shortest.num_tokens == 1 else 0.0


def _pair_s(prefills: list[Prefill]) -> float:
    """The quadratic part of the time of a prompt, by least squares of relative errors."""
    tokens = np.array([prefill.num_tokens for prefill in prefills], float)
    seconds = np.array([prefill.seconds for prefill in prefills])
    if len(prefills) < 4:
        return 0.0
    columns = np.stack([np.ones_like(tokens), tokens, tokens * (tokens + 1) / 2], axis=1)
    (_, _, pair_s), *_ = np.linalg.lstsq(columns / seconds[:, None], np.ones_like(seconds), rcond=None)
    return max(0.0, float(pair_s))


def _prefill_s(prefills: list[Prefill], pair_s: float, request_s: float, max_num_tokens: int) -> Floats:
    known = {
        p.num_tokens: p.seconds - request_s - pair_s * num_pairs(0, p.num_tokens)
        for p in prefills
        if p.num_tokens <= max_num_tokens
    }
    return _table(known, max_num_tokens)


def _table(known: dict[int, float], most: int) -> Floats:
    """Seconds of 0 to `most` rows: 0 for none, and behind the last the slope of the whole.

    More rows never take less: where they did, the few were disturbed, since nothing makes a step faster than it is.
    """
    rows = np.array(sorted(known), float)
    seconds = np.maximum([known[int(row)] for row in rows], 1e-9)
    seconds = np.minimum.accumulate(seconds[::-1])[::-1]
    wanted = np.arange(most + 1, dtype=float)
    table: Floats = np.interp(wanted, rows, seconds)
    slope = (seconds[-1] - seconds[0]) / (rows[-1] - rows[0]) if len(rows) > 1 else seconds[-1] / rows[-1]
    beyond = wanted > rows[-1]
    table[beyond] = seconds[-1] + slope * (wanted[beyond] - rows[-1])
    table[0] = 0.0
    return table


def _shared_s(mixed: list[Mixed], cost: Cost) -> float:
    """What the steps with both took less than their parts; never more than a stream's whole step."""
    saved = [
        cost.step_s(m.num_streams, m.num_streams * m.num_tokens, m.num_prompt_tokens, num_pairs(0, m.num_prompt_tokens))
        - m.seconds
        for m in mixed
    ]
    return float(np.clip(np.median(saved), 0.0, cost.decode_s[1])) if saved else 0.0
