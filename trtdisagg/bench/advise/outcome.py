"""What became of a load: the figures that `bench serve` also reports, by the same definitions. Pure."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from trtdisagg.bench.advise.load import Targets

Floats = NDArray[np.float64]
PERCENTILES = (50, 90, 99)


class Spread(msgspec.Struct, frozen=True):
    """Of a time, in ms."""

    mean: float
    p50: float
    p90: float
    p99: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of one cluster under one load."""

    num_requests: int
    duration_s: float
    request_throughput: float
    """Requests a second; so are the next ones."""
    output_throughput: float
    """Tokens a second."""
    goodput: float
    """Good requests a second; without targets all are good."""
    good_share: float
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    e2el_ms: Spread
    ttft_share: float = 1.0
    """Of requests that keep this target."""
    tpot_share: float = 1.0
    context_utilization: float = 0.0
    """Share of the time that a context server computes."""
    generation_utilization: float = 0.0
    num_preemptions: int = 0


class Times(msgspec.Struct, frozen=True):
    """Of each request, in seconds."""

    arrived: Floats
    first: Floats
    end: Floats
    num_output: NDArray[np.int64]

    @property
    def ttft_s(self) -> Floats:
        return self.first - self.arrived

    @property
    def tpot_s(self) -> Floats:
        """Behind the first token; of an answer of one token 0."""
        return (self.end - self.first) / np.maximum(self.num_output - 1, 1)

    @property
    def e2el_s(self) -> Floats:
        return self.end - self.arrived

    @property
    def duration_s(self) -> float:
        return float(self.end.max() - self.arrived.min())


def outcome_of(times: Times, itl_ms: Spread, targets: Targets, **figures: float) -> Outcome:
    """
    :param itl_ms: which the times do not tell.
    """
    ttft_kept = _kept(times.ttft_s, targets.ttft_ms)
    tpot_kept = _kept(times.tpot_s, targets.tpot_ms)
    good = ttft_kept & tpot_kept
    duration_s = times.duration_s
    return Outcome(
        num_requests=len(good),
        duration_s=duration_s,
        request_throughput=len(good) / duration_s,
        output_throughput=float(times.num_output.sum()) / duration_s,
        goodput=float(good.sum()) / duration_s,
        good_share=float(good.mean()),
        ttft_ms=spread(times.ttft_s),
        tpot_ms=spread(times.tpot_s[times.num_output > 1]),
        itl_ms=itl_ms,
        e2el_ms=spread(times.e2el_s),
        ttft_share=float(ttft_kept.mean()),
        tpot_share=float(tpot_kept.mean()),
        **figures,  # type: ignore[arg-type]
    )


def spread(seconds: Floats) -> Spread:
    if not len(seconds):
        return Spread(0.0, 0.0, 0.0, 0.0)
    return Spread(1000 * float(seconds.mean()), *(1000 * float(p) for p in np.percentile(seconds, PERCENTILES)))


def spread_of_counts(counts: NDArray[np.int64], seconds: Floats) -> Spread:
    """Of a histogram.

    :param seconds: of each bin.
    """
    total = int(counts.sum())
    if not total:
        return Spread(0.0, 0.0, 0.0, 0.0)
    cumulated = np.cumsum(counts)
    places = [min(len(seconds) - 1, int(np.searchsorted(cumulated, p / 100 * total))) for p in PERCENTILES]
    mean = float((counts * seconds).sum() / total)
    return Spread(1000 * mean, *(1000 * float(seconds[place]) for place in places))


def _kept(seconds: Floats, bound_ms: float | None) -> NDArray[np.bool_]:
    return np.ones(len(seconds), bool) if bound_ms is None else 1000 * seconds <= bound_ms
