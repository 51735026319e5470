"""The kinds of load, and what each tells of a proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.proxy.requests import asking
from trtdisagg.bench.proxy.subject import Subject

if TYPE_CHECKING:
    from trtdisagg._load import Outcome

TIMEOUT_S = 120.0
"""Of one load."""
LARGE_BYTES = 32 * 1024
HUGE_BYTES = 256 * 1024
NUM_AT_ONCE = 64


class Sizes(NamedTuple):
    """How much of each load a round has."""

    num_small: int
    num_large: int
    num_alone: int
    num_paced_tokens: int
    num_streams: int
    num_stream_tokens: int
    num_hold_tokens: int


FULL = Sizes(20_000, 8_000, 4_000, 256, 1_000, 100, 400)
QUICK = Sizes(1_000, 300, 200, 10, 100, 5, 40)

Load = Callable[[int], "Outcome"]
"""Of a port."""


def whole(num_requests: int, *, at_once: int = NUM_AT_ONCE, content_bytes: int = 100) -> Load:
    """Whole answers, `at_once` clients that each ask again when they are answered."""
    request = asking(content_bytes=content_bytes)
    return lambda port: _run(port, request, at_once, num_requests)


def streams(num: int, num_tokens: int, interval_ms: float) -> Load:
    """So many streams, whose tokens do not come at the same moments."""
    request = asking(num_tokens=num_tokens, interval_ms=interval_ms)
    spread_s = max(interval_ms / 1000, num / 2000)

    def load(port: int) -> Outcome:
        outcome = _run(port, request, num, num, spread_s=spread_s)
        if len(outcome.delays_us) != num * num_tokens:
            raise MeasureError(f"{len(outcome.delays_us)} of {num * num_tokens} tokens came through")
        return outcome

    return load


def _run(port: int, request: bytes, num_connections: int, num_requests: int, *, spread_s: float = 0.0) -> Outcome:
    from trtdisagg._load import run_load

    try:
        outcome = run_load(
            port,
            [request],
            num_connections=num_connections,
            num_requests=num_requests,
            spread_s=spread_s,
            timeout_s=TIMEOUT_S,
        )
    except (RuntimeError, OSError) as e:
        raise MeasureError(f"the load could not be served: {e}") from None
    if outcome.num_failed:
        raise MeasureError(f"{outcome.num_failed} of {num_requests} requests failed: {outcome.failure}")
    return outcome


# --- of a proxy -----------------------------------------------------------------------------------------------------


def small(subject: Subject, sizes: Sizes) -> dict[str, float]:
    outcome, cpu_us = _with_cpu(subject, whole(sizes.num_small))
    return {"requests_s": outcome.num_ok / outcome.seconds, "cpu_us_per_request": cpu_us / outcome.num_ok}


def large(subject: Subject, sizes: Sizes) -> dict[str, float]:
    outcome, cpu_us = _with_cpu(subject, whole(sizes.num_large, content_bytes=LARGE_BYTES))
    return {"cpu_us_per_request_32k": cpu_us / outcome.num_ok}


def alone(subject: Subject, sizes: Sizes) -> dict[str, float]:
    """What is to be taken off is not known here."""
    outcome = whole(sizes.num_alone, at_once=1)(subject.port)
    return {"added_p50_us": at(outcome.latencies_us, 0.5), "added_p99_us": at(outcome.latencies_us, 0.99)}


def paced(subject: Subject, sizes: Sizes) -> dict[str, float]:
    outcome, cpu_us = _with_cpu(subject, streams(NUM_AT_ONCE, sizes.num_paced_tokens, 10))
    return {"cpu_us_per_chunk": cpu_us / len(outcome.delays_us)}


def many(subject: Subject, sizes: Sizes) -> dict[str, float]:
    """What is to be taken off is not known here."""
    sampled = []
    with _sampling(lambda: sampled.append(subject.rss_mb())):
        outcome = streams(sizes.num_streams, sizes.num_stream_tokens, 50)(subject.port)
    return {"many_streams_added_p99_ms": at(outcome.delays_us, 0.99) / 1000, "many_streams_rss_mb": max(sampled)}


def hold(subject: Subject, sizes: Sizes) -> dict[str, float]:
    few = streams(8, sizes.num_hold_tokens, 5)
    idle = few(subject.port)
    huge = whole(4, at_once=1, content_bytes=HUGE_BYTES)
    with _sampling(lambda: huge(subject.port)):
        held = few(subject.port)
    return {"hold_ms": max(held.delays_us) / 1000, "idle_hold_ms": max(idle.delays_us) / 1000}


def warm_up(subject: Subject, sizes: Sizes) -> None:
    """Have it open its connections."""
    whole(sizes.num_alone)(subject.port)


PHASES = (small, large, alone, paced, many, hold)


def at(values: list[float], quantile: float) -> float:
    return sorted(values)[int(quantile * (len(values) - 1))]


def _with_cpu(subject: Subject, load: Load) -> tuple[Outcome, float]:
    before_s = subject.cpu_s()
    outcome = load(subject.port)
    return outcome, (subject.cpu_s() - before_s) * 1e6


@contextmanager
def _sampling(sample: Callable[[], object], every_s: float = 0.02) -> Iterator[None]:
    """Do something again and again, beside what the block does, at least once.

    :raises MeasureError: what it raised.
    """
    done = threading.Event()
    failures: list[MeasureError] = []

    def run() -> None:
        try:
            sample()
            while not done.wait(every_s):
                sample()
        except MeasureError as e:
            failures.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]
