"""A cluster under a load, event by event: the scheduler of the engine and the proxy's admission, without their work.

The loop is C++ (csrc/sim/), exact between events; here are what goes in and what comes out.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trtdisagg.bench.advise.cost import Cost
from trtdisagg.bench.advise.load import Load, Targets
from trtdisagg.bench.advise.neighbours import Busy, slowed
from trtdisagg.bench.advise.outcome import Outcome, Spread, Times, outcome_of, spread_of_counts
from trtdisagg.bench.advise.profile import Neighbours
from trtdisagg.bench.program import MeasureError

if TYPE_CHECKING:
    from trtdisagg._sim import Cluster, Group
    from trtdisagg._sim import Outcome as NativeOutcome

ROOM_BATCHES = 1.25
"""That may be on a generation server, as the proxy counts (proxy/routing/room.py)."""

MAX_PASSES = 8
STEADY = 0.01
"""Servers, of those that are busy on average: then another pass would change nothing."""


class Servers(NamedTuple):
    """Servers that are alike."""

    num: int
    num_units: int
    """GPUs, or without any cores, of each."""
    cost: Cost
    max_batch_size: int
    max_num_tokens: int
    num_kv_tokens: int
    tokens_per_block: int = 32
    reserves: bool = False
    """A request begins when there is KV for all of it (GUARANTEED_NO_EVICT)."""
    is_balanced: bool = True
    """The one with the fewest requests is next, or else the next one."""


class Design(NamedTuple):
    """A cluster that could be."""

    context: Servers | None
    """None: the others do both."""
    generation: Servers
    proxy_s: float = 0.0
    handover_s: float = 0.0
    """From a prompt's last layer to the generation server's queue, with the KV on the spot."""
    fetch_token_s: float = 0.0
    """For each token's KV; a generation server fetches for one request after the other."""
    kv_overcommit: float = 2.0
    """Tokens that are promised for each token of KV (`proxy.kv_overcommit`)."""
    neighbours: Neighbours = Neighbours()

    @property
    def num_units(self) -> int:
        return sum(servers.num * servers.num_units for servers in self.roles)

    @property
    def roles(self) -> list[Servers]:
        return [self.context, self.generation] if self.context else [self.generation]

    @property
    def num_slots(self) -> int:
        """Requests that can be under way at once."""
        return self.generation.num * self.generation.max_batch_size


def simulate(design: Design, load: Load, targets: Targets) -> Outcome:
    """
    :raises MeasureError: when requests do not fit, or the C++ extension is missing.
    """
    times, found = run(design, load)
    span_s = times.duration_s
    context_s = design.context.num * span_s if design.context else np.inf
    return outcome_of(
        times,
        _itl_ms(found),
        targets,
        context_utilization=found.context_busy_s / context_s,
        generation_utilization=found.generation_busy_s / (design.generation.num * span_s),
        num_preemptions=found.num_preemptions,
    )


def run(design: Design, load: Load) -> tuple[Times, NativeOutcome]:
    """The times of each request."""
    times, found = _run(design, load)
    if design.neighbours == Neighbours() or sum(servers.num for servers in design.roles) == 1:
        return times, found
    beside, busy = design, Busy(0.0, 0.0)
    for _ in range(MAX_PASSES):
        before, busy = busy, _busy(beside, load, times, found)
        if max(abs(now - then) for now, then in zip(busy, before, strict=True)) < STEADY:
            break
        beside = _beside(design, busy)
        times, found = _run(beside, load)
    return times, found


def _run(design: Design, load: Load) -> tuple[Times, NativeOutcome]:
    if find_spec("trtdisagg._sim") is None:
        raise MeasureError("trtdisagg was installed without its C++ extension; a compiler is needed (Debian: g++)")
    from trtdisagg._sim import simulate as simulate_native

    for servers in design.roles:
        _check(servers, load, design)
    found = simulate_native(
        _cluster(design),
        arrivals=load.arrivals.tobytes(),
        concurrency=load.concurrency or 0,
        num_prompt=load.num_prompt.tobytes(),
        num_output=load.num_output.tobytes(),
    )
    arrived, first, end = (np.frombuffer(data) for data in (found.arrived, found.first, found.end))
    return Times(arrived, first, end, load.num_output), found


def _busy(design: Design, load: Load, times: Times, found: NativeOutcome) -> Busy:
    """How many servers do what."""
    generation = found.generation_busy_s / times.duration_s
    if design.context:
        return Busy(found.context_busy_s / times.duration_s, generation)
    prompts_s = sum(design.generation.cost.prompt_s(int(num)) for num in load.num_prompt)
    share = min(1.0, prompts_s / found.generation_busy_s)
    return Busy(share * generation, (1 - share) * generation)


def _beside(design: Design, busy: Busy) -> Design:
    """With servers as slow as the others make them."""
    context, generation = design.context, design.generation

    def among(servers: Servers, others: Busy) -> Servers:
        return servers._replace(cost=slowed(servers.cost, design.neighbours, others))

    prefilling, decoding = busy
    others = 1 - 1 / generation.num
    if context is None:
        return design._replace(generation=among(generation, Busy(prefilling * others, decoding * others)))
    return design._replace(
        context=among(context, Busy(prefilling * (1 - 1 / context.num), decoding)),
        generation=among(generation, Busy(prefilling, decoding * others)),
    )


def _check(servers: Servers, load: Load, design: Design) -> None:
    """A request that no server could ever hold would wait for ever."""
    most = int((load.num_prompt + load.num_output).max()) + servers.tokens_per_block
    if most > servers.num_kv_tokens:
        role = "context" if servers is design.context else "generation"
        raise MeasureError(
            f"prompt and answer have up to {most} tokens, the KV cache of a {role} server holds {servers.num_kv_tokens}"
        )


def _cluster(design: Design) -> Cluster:
    from trtdisagg._sim import Cluster

    none = design.generation._replace(num=0)
    return Cluster(
        context=_group(design.context or none),
        generation=_group(design.generation),
        request_s=design.proxy_s + (design.context or design.generation).cost.request_s,
        handover_s=design.handover_s,
        fetch_s=0.0,
        fetch_token_s=design.fetch_token_s,
        room_batches=ROOM_BATCHES,
        room_kv=design.kv_overcommit,
    )


def _group(servers: Servers) -> Group:
    from trtdisagg._sim import Group, Limits

    return Group(
        cost=servers.cost.native(),
        limits=Limits(
            max_active=min(servers.max_batch_size, servers.max_num_tokens),
            max_num_tokens=servers.max_num_tokens,
            num_kv_tokens=servers.num_kv_tokens,
            tokens_per_block=servers.tokens_per_block,
            reserves=servers.reserves,
        ),
        num_servers=servers.num,
        is_balanced=servers.is_balanced,
    )


def _itl_ms(found: NativeOutcome) -> Spread:
    from trtdisagg._sim import GAP_LEAST_S, GAP_RATIO

    counts = np.frombuffer(found.gaps, np.int64)
    return spread_of_counts(counts, GAP_LEAST_S * GAP_RATIO ** (np.arange(len(counts)) + 0.5))
