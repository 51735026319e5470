"""When conversations begin: a list of times, the same for the same load. Knows no clock."""

from __future__ import annotations

import itertools
import math
from random import Random

from trtdisagg.bench.serve.load import Load


def arrivals(load: Load, number: int) -> list[float]:
    """In seconds from the beginning of the load; all 0 where no rate is asked for.

    Arrivals are those of a process of rate 1, on a clock that goes as fast as the rate is at that time: with gaps of an
    exponential distribution that is a Poisson process, also along a ramp. Gaps are scaled so that the last arrival is
    when it is expected: a short run has the rate that it is compared by, not one that chance makes higher or lower.
    """
    if math.isinf(load.request_rate):
        return [0.0] * number
    end_rate = load.request_rate if load.ramp_to is None else load.ramp_to
    return [_time_of(tick, load.request_rate, end_rate, number) for tick in itertools.accumulate(_gaps(load, number))]


def _gaps(load: Load, number: int) -> list[float]:
    """Of mean 1; the first arrival is at 0."""
    if load.arrivals == "constant":
        return [0.0] + [1.0] * (number - 1)
    random = Random(f"arrivals {load.seed}")
    gaps = [random.gammavariate(load.burstiness, 1.0) for _ in range(number - 1)]
    scale = len(gaps) / (sum(gaps) or 1.0)
    return [0.0, *(gap * scale for gap in gaps)]


def _time_of(tick: float, begin: float, end: float, num_ticks: int) -> float:
    """When so many have arrived, at a rate that goes from `begin` to `end` while `num_ticks` arrive.

    The solution t of begin * t + slope * t^2 / 2 = tick, in the form that also holds for slope 0.
    """
    slope = (end - begin) * (begin + end) / (2 * num_ticks)
    return 2 * tick / (begin + math.sqrt(max(0.0, begin * begin + 2 * slope * tick))) if tick else 0.0
