"""One measurement: an engine is opened, workloads and the machine's limits are measured in turn, and told together.

limits, w1, limits, w2, limits, w3, limits, w1, ...     so that all of them see the same machine
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trtdisagg import __version__
from trtdisagg.engine.local import open_executor
from trtdisagg.engine.measure.limits import LimitMeter
from trtdisagg.engine.measure.model_cost import ModelCost
from trtdisagg.engine.measure.workloads import MAX_KV_TOKENS, Requests, Stopwatch, TakesRequests, Timing, run
from trtdisagg.engine.options import EngineOptions
from trtdisagg.engine.orchestrator import DisaggOrchestrator
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.bench import LOADS, Limits, Measure, Report, Result, Workload
from trtdisagg.text.dimensions import ModelDimensions

Timings = dict[Workload, list[Timing]]


def measure_engine(measure: Measure, dims: ModelDimensions, stage: Callable[[str], None]) -> Report:
    """
    :param dims: of its model.
    :param stage: told what is going on.
    :raises TrtdisaggError: when the engine cannot be opened, or fails.
    """
    places = _places(measure)
    num_threads = measure.num_threads or len(places[0])
    meter = LimitMeter(measure.device, num_threads * len(places))
    stopwatch, requests = Stopwatch(), Requests(dims.vocab_size)
    begin = time.monotonic()
    with _opened(measure, places, stopwatch) as executor:
        load_s = time.monotonic() - begin
        timings = _rounds(measure, meter, lambda workload: run(workload, executor, stopwatch, requests), stage)
    cost = ModelCost(dims=dims, dtype=measure.dtype, quantization=measure.quantization)
    return Report(
        version=__version__,
        measured=measure,
        num_threads=num_threads * len(places),
        num_parameters=dims.num_parameters,
        weight_bytes=round(cost.weight_bytes()),
        load_s=load_s,
        limits=meter.limits,
        **{workload: _result(workload, timings[workload], cost, meter.limits) for workload in timings},
    )


def _places(measure: Measure) -> list[list[int]]:
    """The devices of each executor."""
    if measure.device == "cuda":
        return [[0], [1]] if measure.is_disaggregated else [[0]]
    cores = sorted(os.sched_getaffinity(0))
    if not measure.is_disaggregated:
        return [cores]
    half = len(cores) // 2
    if not half:
        raise ConfigError("--disagg needs two cores at least: each executor has cores of its own")
    return [cores[:half], cores[half : 2 * half]]


@contextmanager
def _opened(measure: Measure, places: list[list[int]], stopwatch: Stopwatch) -> Iterator[TakesRequests]:
    options = EngineOptions(
        model=measure.model,
        dtype=measure.dtype,
        quantization=measure.quantization,
        device=measure.device,
        num_threads=measure.num_threads,
        max_kv_tokens=2 * MAX_KV_TOKENS,
        device_ids=places[0],
    )
    if measure.is_disaggregated:
        with DisaggOrchestrator(
            options,
            context_device_ids=places[:1],
            generation_device_ids=places[1:],
            deliver=stopwatch.deliver,
        ) as orchestrator:
            yield orchestrator
    else:
        with open_executor(options, deliver=stopwatch.deliver) as opened:
            yield opened.executor


def _rounds(
    measure: Measure, meter: LimitMeter, run_one: Callable[[Workload], Timing], stage: Callable[[str], None]
) -> Timings:
    stage("warming up")
    run_one(measure.workloads[0])
    timings: Timings = defaultdict(list)
    for number in range(1, measure.num_rounds + 1):
        for workload in measure.workloads:
            stage(f"round {number} of {measure.num_rounds}: {workload}")
            meter.measure()
            timings[workload].append(run_one(workload))
    return timings


def _result(workload: Workload, timings: list[Timing], cost: ModelCost, limits: Limits) -> Result:
    best = max(t.tok_s for t in timings)
    limit = cost.limit_tok_s(workload, limits)
    load = LOADS[workload]
    return Result(
        tok_s=best,
        median_tok_s=statistics.median(t.tok_s for t in timings),
        limit_tok_s=limit,
        fraction_of_limit=best / limit,
        ttft_ms=min(t.ttft_s for t in timings) * 1000,
        num_requests=load.num_requests,
        isl=load.isl,
        osl=load.osl,
    )
