"""The report of a load: its outcomes counted, and what to know before the figures are compared with others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from trtdisagg.bench.serve.details import details
from trtdisagg.bench.serve.figures import Timed, spread, timed
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.outcome import Outcome
from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.serve.self_watch import Health

LONG_HELD_S = 0.1
MANY_SHORT = 0.05
"""Share of answers that end early, from which on it is worth a word."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """A load that was run.

    :param duration_s: from its beginning to the end of its last request, answered or not.
    :param num_unfinished: requests that were on their way when it was stopped.
    """

    load: Load
    model: str
    outcomes: Sequence[Outcome]
    duration_s: float
    health: Health = Health()
    num_unfinished: int = 0
    held_s: float = 0.0
    """By which a conversation began too late, as there were as many as may be."""
    num_missing: int = 0
    """Conversations that the workload did not have."""


def summarize(ran: Ran) -> ServeReport:
    load, duration_s = ran.load, max(ran.duration_s, 1e-9)
    done = [outcome for outcome in ran.outcomes if outcome.is_completed]
    times = [timed(outcome) for outcome in done]
    num_input = _sum(outcome.num_input_tokens for outcome in done)
    num_output = _sum(outcome.num_tokens for outcome in done)
    output_throughput = _over(num_output, duration_s)
    return ServeReport(
        date=f"{datetime.now():%Y%m%d-%H%M%S}",
        model_id=ran.model,
        url=load.url,
        num_prompts=len(ran.outcomes),
        request_rate="inf" if math.isinf(load.request_rate) else load.request_rate,
        burstiness=load.burstiness,
        max_concurrency=load.concurrency,
        num_gpus=load.num_gpus,
        num_cores=load.num_cores,
        duration=ran.duration_s,
        completed=len(done),
        failed=sum(outcome.error is not None for outcome in ran.outcomes),
        cancelled=sum(outcome.is_cancelled for outcome in ran.outcomes),
        total_input_tokens=num_input,
        total_output_tokens=num_output,
        request_throughput=len(done) / duration_s,
        output_throughput=output_throughput,
        total_token_throughput=_over(_sum((num_input, num_output)), duration_s),
        user_throughput=_mean(
            1000 * o.num_tokens / t.e2el for o, t in zip(done, times, strict=True) if o.num_tokens and t.e2el
        ),
        interactivity=_mean(1000 / t.tpot for t in times if t.tpot),
        output_throughput_per_gpu=_over(output_throughput, load.num_gpus),
        output_throughput_per_core=_over(output_throughput, load.num_cores),
        goodput=load.goodput,
        request_goodput=sum(t.keeps(load.goodput) for t in times) / duration_s if load.goodput else None,
        **_spreads(times),
        errors=dict(Counter(outcome.error for outcome in ran.outcomes if outcome.error is not None)),
        client_busy=round(ran.health.busy, 3),
        client_late_ms=round(ran.health.late_ms, 3),
        is_client_bound=bool(ran.health.complaints()),
        warnings=[*_warnings(ran, done), *_first_of_each_error(ran.outcomes)],
        **(details(ran.outcomes) if load.is_detailed else {}),
    )


def _spreads(times: Sequence[Timed]) -> dict[str, Any]:
    return {
        **spread("ttft", [t.ttft for t in times if t.ttft is not None]),
        **spread("tpot", [t.tpot for t in times if t.tpot is not None]),
        **spread("itl", np.concatenate([t.itl for t in times]) if times else []),
        **spread("e2el", [t.e2el for t in times]),
    }


def _sum(counts: Iterable[int | None]) -> int | None:
    """None: one of them is not known."""
    found = [*counts]
    return None if None in found else sum(count for count in found if count is not None)


def _over(count: float | None, divisor: float) -> float | None:
    return None if count is None or not divisor else count / divisor


def _mean(rates: Iterable[float]) -> float | None:
    found = [*rates]
    return sum(found) / len(found) if found else None


def _warnings(ran: Ran, done: Sequence[Outcome]) -> list[str]:
    found = []
    if reasons := ran.health.complaints():
        found.append(
            f"the client could not keep up, so times are its own rather than the server's: {', '.join(reasons)}"
        )
    if ran.num_unfinished:
        found.append(f"stopped with {ran.num_unfinished} requests on their way, which are in none of the figures")
    if ran.held_s > LONG_HELD_S and not math.isinf(ran.load.request_rate):
        found.append(
            f"the rate was not kept: conversations waited up to {ran.held_s:.1f} s for others of the "
            f"{ran.load.concurrency} at once to end, which no time counts"
        )
    if ran.num_missing:
        found.append(f"the workload has {ran.num_missing} conversations less than were asked for")
    return [*found, *_about_tokens(ran.load, done)]


def _about_tokens(load: Load, done: Sequence[Outcome]) -> list[str]:
    found = []
    if any(outcome.num_input_tokens is None for outcome in done):
        found.append("neither server nor workload say how many tokens some prompts have: there is no sum of them")
    if any(outcome.num_output_tokens is None for outcome in done):
        found.append(
            "the server does not say how many tokens its answers have: each chunk counts as one"
            if load.is_streamed
            else "the server does not say how many tokens its answers have: there is no figure of them"
        )
    elif any(outcome.num_guessed and (outcome.num_output_tokens or 0) > len(outcome.heard_at) for outcome in done):
        found.append(
            "chunks have several tokens, and the server does not say how many each has: ITL counts them as equal"
        )
    num_short = sum((num := outcome.num_tokens) is not None and num < outcome.max_tokens for outcome in done)
    if num_short > MANY_SHORT * len(done) and not load.ignore_eos:
        found.append(f"{num_short} of {len(done)} answers ended before their limit; --ignore-eos asks for all tokens")
    return found


def _first_of_each_error(outcomes: Sequence[Outcome]) -> list[str]:
    first: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            first.setdefault(outcome.error, outcome.message)
    return [f"{kind}: {message}" for kind, message in first.items() if message]
