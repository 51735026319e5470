"""What a child did lately, from the counters in its beats. Pure.

    beats      the last few, half a second apart        requests, tokens and bytes a second
    landmarks  one in LANDMARK_S, a minute back         latencies: counts now minus counts a minute ago

A window belongs to one incarnation: the next counts from zero, and gets a new one.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor import latency

NUM_BEATS = 10
LANDMARK_S = 5.0
LATENCY_WINDOW_S = 60.0
SILENCE_S = 3.0
"""Of a child that has not beaten for so long, nobody knows what it does."""


class Sample(msgspec.Struct, frozen=True):
    """The counters at one beat."""

    at: float
    stats: Stats


class Window(msgspec.Struct, frozen=True):
    """The samples of one incarnation that are kept."""

    beats: tuple[Sample, ...] = ()
    landmarks: tuple[Sample, ...] = ()

    def add(self, at: float, stats: Stats) -> Window:
        """The window after a beat."""
        sample = Sample(at, stats)
        beats = (*self.beats[1 - NUM_BEATS :], sample)
        if self.landmarks and at < self.landmarks[-1].at + LANDMARK_S:
            return Window(beats, self.landmarks)
        return Window(beats, (*self._landmarks_still_needed(at), sample))

    def _landmarks_still_needed(self, at: float) -> tuple[Sample, ...]:
        """One that is a whole window old, and what came after it."""
        old = [i for i, mark in enumerate(self.landmarks) if mark.at <= at - LATENCY_WINDOW_S]
        return self.landmarks[old[-1] :] if old else self.landmarks


class Latencies(msgspec.Struct, frozen=True):
    """Answers of the last minute by their latencies; see `LATENCY_BOUNDS_S`."""

    first_token: list[int]
    per_token: list[int]


class Rates(msgspec.Struct, kw_only=True, frozen=True):
    """The fields of a ServerStatus that tell what the server did lately."""

    tokens_in_s: float = 0.0
    tokens_out_s: float = 0.0
    requests_s: float = 0.0
    failures_s: float = 0.0
    ttft_p95_ms: float | None = None
    tpot_p95_ms: float | None = None
    transfer_gb_s: float = 0.0


def rates(window: Window, now: float) -> Rates:
    """What a child did over the last beats, and how fast it answered over the last minute."""
    counted = latencies(window, now)
    ttft_p95_ms, tpot_p95_ms = _p95_ms(counted.first_token), _p95_ms(counted.per_token)
    if len(window.beats) < 2 or now > window.beats[-1].at + SILENCE_S:
        return Rates(ttft_p95_ms=ttft_p95_ms, tpot_p95_ms=tpot_p95_ms)
    per_s = _per_s(window)
    return Rates(
        tokens_in_s=per_s(lambda s: s.num_prompt_tokens_total),
        tokens_out_s=per_s(lambda s: s.num_generation_tokens_total),
        requests_s=per_s(lambda s: s.num_requests_total),
        failures_s=per_s(lambda s: s.num_failed_total),
        ttft_p95_ms=ttft_p95_ms,
        tpot_p95_ms=tpot_p95_ms,
        transfer_gb_s=_transfer_gb_s(window),
    )


def latencies(window: Window, now: float) -> Latencies:
    """The answers of the last minute, or since the child is there."""
    if not window.beats:
        return Latencies([], [])
    old = [mark for mark in window.landmarks if mark.at <= now - LATENCY_WINDOW_S]
    before = old[-1].stats if old else Stats()
    stats = window.beats[-1].stats
    return Latencies(
        latency.since(before.first_token_counts, stats.first_token_counts),
        latency.since(before.per_token_counts, stats.per_token_counts),
    )


def lately(window: Window, counter: Callable[[Stats], float]) -> float:
    """By how much a counter grew over the last beats."""
    return counter(window.beats[-1].stats) - counter(window.beats[0].stats) if window.beats else 0.0


def _per_s(window: Window) -> Callable[[Callable[[Stats], float]], float]:
    seconds = window.beats[-1].at - window.beats[0].at
    return lambda counter: lately(window, counter) / seconds if seconds > 0 else 0.0


def _transfer_gb_s(window: Window) -> float:
    """Of the time spent on transfers, not of all time: how fast the link is, not how busy."""
    seconds = lately(window, lambda s: s.transfer_seconds_total)
    return lately(window, lambda s: s.num_transfer_bytes_total) / seconds / 1e9 if seconds > 0 else 0.0


def _p95_ms(counts: list[int]) -> float | None:
    seconds = latency.percentile_s(counts, 0.95)
    return None if seconds is None else seconds * 1000
