"""The three workloads, and how long an executor takes for them.

    w1   one stream: 128 tokens in, 128 out          latency: how fast a single answer flows
    w2   32 requests at once, 128 in, 128 out        throughput of decoding, prefill included
    w3   8 prompts of 1024 tokens, one by one        prefill

Every prompt is a new one, so that no KV of an earlier one serves.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import NamedTuple, Protocol

import msgspec

from trtdisagg.engine.request import Output, Request, SamplingParams
from trtdisagg.errors import UnavailableError
from trtdisagg.protocol.bench import LOADS, Load, Workload

_TIMEOUT_S = 600.0
"""For all requests of one workload."""


class TakesRequests(Protocol):
    def enqueue_request(self, request: Request) -> int: ...


MAX_KV_TOKENS = max(load.num_requests * (load.isl + load.osl) for load in LOADS.values())


class Timing(NamedTuple):
    tok_s: float
    """As `protocol.bench.Result` counts."""
    ttft_s: float


class Times(msgspec.Struct):
    """When something came of one request; in seconds of the monotonic clock."""

    begin: float
    first: float = 0.0
    end: float = 0.0
    num_tokens: int = 0


class Stopwatch:
    """Takes an executor's outputs and knows when they came."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: dict[int, Times] = {}
        self._is_over = threading.Event()
        self._num_running = 0
        self._error: str | None = None

    def deliver(self, outputs: list[Output]) -> None:
        """From the executor's threads."""
        now = self._clock()
        with self._lock:
            for output in outputs:
                self._note(output, now)

    def measure(self, executor: TakesRequests, requests: list[Request]) -> list[Times]:
        """Have requests answered, all at once.

        :raises UnavailableError: when one fails, or takes too long.
        """
        with self._lock:
            self._is_over.clear()
            self._num_running = len(requests)
            now = self._clock()
            self._times = {request.id: Times(now) for request in requests}
        for request in requests:
            executor.enqueue_request(request)
        if not self._is_over.wait(_TIMEOUT_S):
            raise UnavailableError(f"{len(requests)} requests were not answered within {_TIMEOUT_S:.0f} s")
        if self._error:
            raise UnavailableError(f"a request failed: {self._error}")
        return list(self._times.values())

    def _note(self, output: Output, now: float) -> None:
        times = self._times[output.request_id]
        if output.new_token_ids and not times.first:
            times.first = now
        times.num_tokens += len(output.new_token_ids)
        if output.finish_reason:
            times.end = now
            self._num_running -= 1
            if output.finish_reason != "length":
                self._error = output.error or f"it ended with {output.finish_reason}"
            if self._num_running == 0:
                self._is_over.set()


class Requests:
    """Makes requests with prompts that were not there before."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self._vocab_size = vocab_size
        self._random = Random(seed)
        self._ids = count()

    def make(self, load: Load) -> list[Request]:
        return [self._make(load) for _ in range(load.num_requests)]

    def _make(self, load: Load) -> Request:
        return Request(
            id=next(self._ids),
            prompt_token_ids=[self._random.randrange(self._vocab_size) for _ in range(load.isl)],
            sampling=SamplingParams(max_tokens=load.osl, temperature=0, ignore_eos=True),
        )


def run(workload: Workload, executor: TakesRequests, stopwatch: Stopwatch, requests: Requests) -> Timing:
    """
    :raises UnavailableError: when a request fails.
    """
    load = LOADS[workload]
    waves = _waves(requests.make(load), at_once=load.at_once)
    answered = [stopwatch.measure(executor, wave) for wave in waves]
    ttft_s = statistics.median(t.first - t.begin for wave in answered for t in wave)
    if workload == "w1":
        [[times]] = answered
        return Timing((times.num_tokens - 1) / (times.end - times.first), ttft_s)
    seconds = sum(max(t.end for t in wave) - wave[0].begin for wave in answered)
    per_request = load.isl if workload == "w3" else load.osl
    return Timing(load.num_requests * per_request / seconds, ttft_s)


def _waves(requests: list[Request], *, at_once: bool) -> Iterator[list[Request]]:
    if at_once:
        yield requests
    else:
        yield from ([request] for request in requests)
