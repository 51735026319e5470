"""Measures case by case: servers meet, and a prompt's KV is moved in all ways in turn, again and again.

The ways are interleaved, in another order each round, so that whatever else the machine does meets them all alike.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import NamedTuple, get_args

import msgspec

from trtdisagg.cache.measure.cases import Group, groups, num_blocks, scattered
from trtdisagg.cache.measure.orders import (
    Check,
    Checked,
    Done,
    Meet,
    Move,
    Offered,
    OpenMover,
    OpenPool,
    Prepare,
    Reached,
    Timed,
)
from trtdisagg.cache.measure.rows import Times, compared, row, span_s
from trtdisagg.cache.measure.servers import Server, servers
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.bench_kv import TRANSPORTS, KvMeasure, KvReport, KvRow, Way, label
from trtdisagg.protocol.peers import Met, Part, PeerRanks
from trtdisagg.protocol.spec import Transport

WAYS: tuple[Way, ...] = get_args(Way)
_MEASURE_S = 0.3
"""How long a short move is repeated."""
_MAX_ROUNDS = 50
_TIMEOUT_MS = 60_000
_CONTEXT_SEED, _GENERATION_SEED = 1, 2

Say = Callable[[str], None]


class Servers(NamedTuple):
    context: Server
    generation: Server


def measure_kv(measure: KvMeasure, say: Say) -> KvReport:
    """
    :param say: told what is going on.
    :raises TrtdisaggError: when a transport does not work here, or what arrives is not what was sent.
    """
    cases = list(groups(measure))
    sides = ([case.context for case in cases], [case.generation for case in cases])
    nums = (max(layout.parallel.num_ranks for layout in side) for side in sides)
    rows: list[KvRow] = []
    missing: dict[Transport, str] = {}
    with servers(*nums) as started:
        both = Servers(*started)
        if not measure.transports:
            missing = _missing(cases[0], both)
            measure = msgspec.structs.replace(measure, transports=tuple(t for t in TRANSPORTS if t not in missing))
        for group in cases:
            rows += _measure_group(group, measure, both, say)
    num_cores = len(os.sched_getaffinity(0))
    return KvReport(
        version=version("trtdisagg"), measured=measure, num_cores=num_cores, rows=compared(rows), missing=missing
    )


def _missing(group: Group, both: Servers) -> dict[Transport, str]:
    """The transports that do not work here, and why."""
    _open_pools(group, both)
    missing: dict[Transport, str] = {}
    for transport in TRANSPORTS:
        try:
            both.context.order([OpenMover(transport=transport, incarnation=f"try#{transport}")], Offered)
        except HandoverError as e:
            missing[transport] = e.message
    return missing


def _open_pools(group: Group, both: Servers) -> None:
    """The largest prompt is computed, and with it the others, which are what it begins with."""
    blocks = scattered(group.context.num_blocks, _CONTEXT_SEED)
    for server, layout, filled in ((both.context, group.context, blocks), (both.generation, group.generation, [])):
        ranks = range(layout.parallel.num_ranks)
        server.order([OpenPool(layout=layout, rank=rank, blocks=filled) for rank in ranks], Done)


def _measure_group(group: Group, measure: KvMeasure, both: Servers, say: Say) -> Iterator[KvRow]:
    _open_pools(group, both)
    for transport in measure.transports:
        say(f"{group.model} {label(group.pair)} by {transport}")
        incarnation = secrets.token_hex(4)
        met = _meet(group, transport, incarnation, both)
        is_first = True
        for num_tokens in reversed(group.nums_of_tokens):
            times = _measure_prompt(group, _part(group, incarnation, num_tokens), measure.num_rounds, both)
            yield row(group, transport, met, num_tokens, times if is_first else times._replace(first_s=None))
            is_first = False


def _meet(group: Group, transport: Transport, incarnation: str, both: Servers) -> list[Met]:
    offers = []
    for name, server, layout in zip(Servers._fields, both, (group.context, group.generation), strict=True):
        order = OpenMover(transport=transport, incarnation=f"{name}#{incarnation}")
        offers.append(server.order([order] * layout.parallel.num_ranks, Offered))
    peer = PeerRanks(
        server="context",
        incarnation=f"context#{incarnation}",
        layout=group.context,
        ranks=[offer.memory for offer in offers[0]],
    )
    reached = both.generation.order([Meet(peer=peer)] * group.generation.parallel.num_ranks, Reached)
    return [answer.met for answer in reached]


def _part(group: Group, incarnation: str, num_tokens: int) -> Part:
    wanted = num_blocks(num_tokens)
    return Part(
        incarnation=f"context#{incarnation}",
        their_dp_rank=0,
        their_blocks=scattered(group.context.num_blocks, _CONTEXT_SEED)[:wanted],
        my_blocks=scattered(group.generation.num_blocks, _GENERATION_SEED)[:wanted],
        num_tokens=num_tokens,
        timeout_ms=_TIMEOUT_MS,
    )


def _measure_prompt(group: Group, part: Part, num_rounds: int, both: Servers) -> Times:
    receivers = group.generation.parallel.num_ranks
    both.generation.order([Prepare(part=part)] * receivers, Done)

    def move(way: Way) -> list[Timed]:
        return both.generation.order([Move(way=way)] * receivers, Timed)

    first = move("fetch")
    for checked in both.generation.order([Check()] * receivers, Checked):
        if checked.wrong:
            raise HandoverError(f"{group.model} {label(group.pair)}: {checked.wrong}")
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    cpu_s: dict[Way, list[float]] = {way: [] for way in WAYS}
    for ways in itertools.islice(itertools.cycle(itertools.permutations(WAYS)), _MAX_ROUNDS):
        for way in ways:
            ranks = move(way)
            seconds[way].append(span_s(ranks))
            cpu_s[way].append(sum(timed.cpu_s for timed in ranks))
        if len(seconds["fetch"]) >= num_rounds and sum(seconds["fetch"]) >= _MEASURE_S:
            break
    return Times(
        num_bytes=sum(timed.num_bytes for timed in first),
        num_descriptors=sum(timed.num_descriptors for timed in first),
        first_s=span_s(first),
        seconds=seconds,
        cpu_s=cpu_s,
    )
