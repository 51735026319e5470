"""A profile: one context and one generation server and, on a CPU, one server with the cores of both."""

from __future__ import annotations

import functools
import os
import platform
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import aiohttp
import numpy as np

from trtdisagg.bench.advise.checks import check_cluster, sections_of
from trtdisagg.bench.advise.measure.asking import Asking
from trtdisagg.bench.advise.measure.cluster import Running, brought_up
from trtdisagg.bench.advise.measure.neighbours import neighbours
from trtdisagg.bench.advise.measure.points import MAX_STEPS, SHORT, Budget, Sizes, decodes, handovers, mixed, prefills
from trtdisagg.bench.advise.profile import Neighbours, Prefill, Profile, ServerProfile
from trtdisagg.config.load import load
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.protocol.control import ServerStatus

MEASURE_S = 110.0
"""For all of it, without the starts of the clusters."""
START_TIMEOUT_S = 900.0
ANSWER_TIMEOUT_S = 300.0
NUM_ANSWER = MAX_STEPS
"""Tokens of the longest answer."""


async def measure_profile(
    file: Path,
    overrides: Sequence[str],
    *,
    max_prompt: int,
    max_streams: int,
    stage: Callable[[str], None],
    seconds: float = MEASURE_S,
    while_up: Callable[[Running], None] = lambda _: None,
) -> Profile:
    """To be called in the main thread.

    :param file: a cluster file; how many servers it has does not matter.
    :param max_prompt: tokens of the longest prompt worth knowing of.
    :param max_streams: at once, likewise.
    :param stage: told what is going on.
    :param while_up: called with each of the clusters when it is measured.
    :raises MeasureError: with the reason.
    :raises ConfigError: the file is none that can be reasoned about.
    """
    cluster = load(file, overrides).cluster
    check_cluster(cluster)
    sections = sections_of(cluster)
    stage("starting one context and one generation server")
    async with brought_up(file, [*overrides, *_counts(1)], timeout_s=START_TIMEOUT_S) as running:
        has_gpus = bool(running.server("generation").gpus)
        share = 1.0 if has_gpus else 0.6
        wanted = Wanted(sections, max_prompt, max_streams, share * seconds)
        async with _session(running) as session:
            profile = await _both(running, session, wanted, stage)
        while_up(running)
    if has_gpus:
        return profile
    stage("starting one server with the cores of both")
    pins = [core for section in sections.values() for core in section.cores or []]
    cores = [f"generation_servers.cores={sorted(set(pins))}"] if pins else []
    async with brought_up(file, [*overrides, *_counts(0), *cores], timeout_s=START_TIMEOUT_S) as running:
        wanted = wanted._replace(seconds=0.4 * seconds)
        server = running.server("generation")
        async with _session(running) as session:
            found = await _server(_asking(session, _url(server), server), server, wanted, stage)
        while_up(running)
    profile.servers["aggregated"] = found
    profile.num_kv_tokens["aggregated"] = server.kv_tokens or 0
    return profile


class Wanted(NamedTuple):
    """How much is to be known."""

    sections: dict[str, ServerSection]
    max_prompt: int
    max_streams: int
    seconds: float

    def sizes(self, server: ServerStatus) -> Sizes:
        section = self.sections[server.role]
        most = (server.max_seq_len or self.max_prompt + NUM_ANSWER) - NUM_ANSWER
        return Sizes(
            max_prompt=max(SHORT, min(self.max_prompt, most, (server.kv_tokens or most) // 2 - NUM_ANSWER)),
            max_streams=min(self.max_streams, section.max_batch_size, section.max_num_tokens),
            max_num_tokens=section.max_num_tokens,
        )


def _counts(num_context: int) -> list[str]:
    """Servers on addresses of their own: those of the file may be in use."""
    sections = [("context_servers", num_context), ("generation_servers", 1)]
    return [word for name, num in sections for word in (f"{name}.urls=[]", f"{name}.num_instances={num}")]


def _session(running: Running) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {running.secret}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=0),
    )


async def _both(
    running: Running, session: aiohttp.ClientSession, wanted: Wanted, stage: Callable[[str], None]
) -> Profile:
    """Servers are alike but for what they have: where that is the same, one is measured."""
    generation, context = running.server("generation"), running.server("context")
    alike = _alike(context, generation) and _compute_alike(*wanted.sections.values())
    part = wanted._replace(seconds=wanted.seconds * (0.6 if alike else 0.4))
    to_generation, to_context = (_asking(session, _url(server), server) for server in (generation, context))
    servers = {"generation": await _server(to_generation, generation, part, stage)}
    if alike:
        servers["context"] = servers["generation"]
    else:
        servers["context"] = await _server(to_context, context, part, stage)
    stage("prompts handed over, through the proxy")
    proxy = _asking(session, running.status.url, generation)
    await proxy.ask(SHORT, NUM_ANSWER)
    left = Budget(wanted.seconds - part.seconds * (1 if alike else 2))
    handed, firsts = await handovers(proxy, wanted.sizes(generation), left if generation.gpus else left.part(0.5))
    alone = [(await to_context.ask(SHORT, 1)).first_s for _ in firsts]
    beside = Neighbours()
    if not generation.gpus:
        stage("both servers at work")
        prefill_s = functools.partial(interpolated, servers["generation"].prefills)
        beside = await neighbours(to_context, to_generation, part.sizes(generation), prefill_s, left)
    links = [link for link in running.status.links if link.is_open]
    return Profile(
        date=time.strftime("%Y-%m-%dT%H:%M:%S"),
        model=generation.model or "",
        machine=_machine(generation),
        max_seq_len=generation.max_seq_len or 0,
        num_kv_tokens={"context": context.kv_tokens or 0, "generation": generation.kv_tokens or 0},
        servers=servers,
        handovers=handed,
        proxy_s=max(0.0, median(firsts) - median(alone)),
        neighbours=beside,
        transport=links[0].transport if links else "",
    )


async def _server(asking: Asking, server: ServerStatus, wanted: Wanted, stage: Callable[[str], None]) -> ServerProfile:
    """Asked directly: whatever its role, it can do both."""
    sizes, budget = wanted.sizes(server), Budget(wanted.seconds)
    await asking.ask(SHORT, NUM_ANSWER)  # a first request is no measure
    stage(f"{server.name}: prompts of up to {sizes.max_prompt} tokens")
    prompts = await prefills(asking, sizes, budget.part(0.45))
    stage(f"{server.name}: up to {sizes.max_streams} streams at once")
    streams = await decodes(asking, sizes, budget.part(0.7), functools.partial(interpolated, prompts))
    stage(f"{server.name}: prompts beside streams")
    beside = await mixed(asking, sizes, budget)
    parallel = server.parallel
    return ServerProfile(
        tensor_parallel_size=parallel.tp_size if parallel else 1,
        pipeline_parallel_size=parallel.pp_size if parallel else 1,
        num_gpus=len(server.gpus),
        num_cores=0 if server.gpus else len(server.cores),
        prefills=prompts,
        decodes=streams,
        mixed=beside,
    )


def interpolated(prompts: list[Prefill], num_tokens: int) -> float:
    return float(np.interp(num_tokens, [p.num_tokens for p in prompts], [p.seconds for p in prompts]))


def _asking(session: aiohttp.ClientSession, url: str, server: ServerStatus) -> Asking:
    seed = zlib.crc32(url.encode())  # no two ask for the same prompts: what is in a cache costs nothing
    return Asking(session, url, server.model or "", seed)


def _url(server: ServerStatus) -> str:
    return f"http://{server.url}"


def _alike(one: ServerStatus, other: ServerStatus) -> bool:
    return (one.parallel, len(one.gpus), len(one.cores)) == (other.parallel, len(other.gpus), len(other.cores))


def _compute_alike(one: ServerSection, other: ServerSection) -> bool:
    return (one.dtype, one.quantization, one.command) == (other.dtype, other.quantization, other.command)


def _machine(server: ServerStatus) -> str:
    processor = platform.processor() or platform.machine()
    gpus = f", {len(server.gpus)} GPU(s) a server" if server.gpus else ""
    return f"{platform.node()}: {os.cpu_count()} cores {processor}{gpus}"
