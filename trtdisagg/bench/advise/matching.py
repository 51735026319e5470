"""Rate matching: how far a cluster comes if every server is always busy, as speed-up papers count it. Pure.

    output tokens a second of a GPU = output rate / (context GPUs * generation rate / context rate + generation GPUs)

with the rates of one server each. No queue, no burst, no waiting for one another: a bound, to be read beside the
simulation.
"""

from __future__ import annotations

import msgspec

from trtdisagg.bench.advise.cost import num_pairs
from trtdisagg.bench.advise.load import Load, Targets
from trtdisagg.bench.advise.simulate import Design, Servers


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """Of servers that wait for nothing."""

    context_rate: float
    """Requests a second of one context server; 0: there is none."""
    generation_rate: float
    """Of one generation server."""
    context_per_generation: float
    """Context servers that keep one generation server busy."""
    output_throughput_per_unit: float
    """Tokens a second of a GPU, with that ratio."""
    request_rate: float
    """Of the whole cluster as it is."""
    batch_size: int
    """That the time of a token allows."""


def match_rates(design: Design, load: Load, targets: Targets) -> Matching:
    num_prompt, num_output = float(load.num_prompt.mean()), float(load.num_output.mean())
    generation, context = design.generation, design.context
    batch_size = _batch_size(generation, num_prompt, num_output, targets.tpot_ms)
    step_s = _step_s(generation, batch_size, num_prompt, num_output)
    num_steps = max(num_output - 1, 1e-9)
    if context is None:
        prompt_s = 1 / _context_rate(generation, num_prompt)
        rate = 1 / (prompt_s + num_steps * step_s / batch_size)
        return Matching(
            context_rate=0.0,
            generation_rate=rate,
            context_per_generation=0.0,
            output_throughput_per_unit=rate * num_output / generation.num_units,
            request_rate=rate * generation.num,
            batch_size=batch_size,
        )
    context_rate, generation_rate = _context_rate(context, num_prompt), batch_size / (num_steps * step_s)
    ratio = generation_rate / context_rate
    num_units = context.num_units * ratio + generation.num_units
    return Matching(
        context_rate=context_rate,
        generation_rate=generation_rate,
        context_per_generation=ratio,
        output_throughput_per_unit=generation_rate * num_output / num_units,
        request_rate=min(context.num * context_rate, generation.num * generation_rate),
        batch_size=batch_size,
    )


def _context_rate(servers: Servers, num_prompt: float) -> float:
    """Prompts a second, as many in a step as its tokens allow."""
    num, most = max(1, round(num_prompt)), servers.max_num_tokens
    if num > most:
        return 1 / servers.cost.prompt_s(num)
    together = min(servers.max_batch_size, most // num)
    return together / servers.cost.step_s(0, 0, together * num, together * num_pairs(0, num))


def _step_s(servers: Servers, batch_size: int, num_prompt: float, num_output: float) -> float:
    return servers.cost.step_s(batch_size, batch_size * (num_prompt + num_output / 2), 0, 0)


def _batch_size(servers: Servers, num_prompt: float, num_output: float, tpot_ms: float | None) -> int:
    """The largest whose step is short enough, and whose KV there is room for; 1 where none is."""
    room = int(servers.num_kv_tokens / (num_prompt + num_output / 2))
    most = max(1, min(servers.max_batch_size, servers.max_num_tokens, room))
    if tpot_ms is None:
        return most
    kept = (n for n in range(most, 0, -1) if 1000 * _step_s(servers, n, num_prompt, num_output) <= tpot_ms)
    return next(kept, 1)
