"""When conversations begin: a list of times, the same for the same load. Knows no clock."""

from __future__ import annotations

import itertools
import math
from random import Random

from trtdisagg.bench.serve.load import Load


def arrivals(load: Load) -> list[float]:
    """In seconds from the beginning of the load; all 0 where no rate is asked for.

    Arrivals are those of a process of rate 1, on a clock that goes as fast as the rate is at that time: with gaps of an
    exponential distribution that is a Poisson process, also along a ramp.
    """
    if math.isinf(load.request_rate):
        return [0.0] * load.num_prompts
    ticks = list(itertools.accumulate(_gaps(load)))
    end_rate = load.request_rate if load.ramp_to is None else load.ramp_to
    return [_time_of(tick, load.request_rate, end_rate, load.num_prompts) for tick in ticks]


def _gaps(load: Load) -> list[float]:
    """Of mean 1; the first arrival is at 0."""
    random = Random(f"arrivals {load.seed}")
    if load.arrivals == "constant":
        between = [1.0] * (load.num_prompts - 1)
    else:
        between = [random.gammavariate(load.burstiness, 1 / load.burstiness) for _ in range(load.num_prompts - 1)]
    return [0.0, *between]


def _time_of(tick: float, begin: float, end: float, num_ticks: int) -> float:
    """When so many have arrived, at a rate that goes from `begin` to `end` while `num_ticks` arrive, and stays there.

    The solution t of begin * t + slope * t^2 / 2 = tick, in the form that also holds for slope 0.
    """
    if tick > num_ticks:
        return 2 * num_ticks / (begin + end) + (tick - num_ticks) / end if end else math.inf
    slope = (end - begin) * (begin + end) / (2 * num_ticks)
    return 2 * tick / (begin + math.sqrt(max(0.0, begin * begin + 2 * slope * tick))) if tick else 0.0
