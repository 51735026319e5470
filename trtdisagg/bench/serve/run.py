"""Runs a load from the first words to the report, and gets this process ready for it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import math
import resource
import time
from collections.abc import Iterator

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.serve.arrivals import arrivals
from trtdisagg.bench.serve.asked import Asked, Workload
from trtdisagg.bench.serve.bodies import Bodies
from trtdisagg.bench.serve.client import Client
from trtdisagg.bench.serve.conversations import Conversations
from trtdisagg.bench.serve.greeting import greet, only_model
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.outcome import Progress, Watch
from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.serve.self_watch import SelfWatch
from trtdisagg.bench.serve.stopping import unless_stopped
from trtdisagg.bench.serve.summary import Ran, summarize

SPARE_FILES = 64
"""Beside connections."""
COLLECT_AFTER = 50_000
"""Objects; then the garbage collector looks whether there are cycles among them."""


async def run_load(
    load: Load, workload: Workload, *, watch: Watch | None = None, stop: asyncio.Event | None = None
) -> ServeReport:
    """Put a load on its endpoint.

    :param watch: told a few times a second how far it is.
    :param stop: set: nothing more is asked, clients leave, and what is complete is reported.
    :raises MeasureError: the endpoint does not answer the first words, so nothing was measured.
    :raises ConfigError: the endpoint does not take such prompts; the URL is none.
    """
    client = Client(load.url, load.api_key)
    stop = stop or asyncio.Event()
    watch = watch or _nobody
    with _many_files(load), _spared_collector(), contextlib.closing(client):
        model, bodies = await _greeted(client, load, watch, stop)
        openings = await _openings(workload, load.num_prompts + load.num_warmups, stop)
        measured, warmups = openings[: load.num_prompts], openings[load.num_prompts :]
        if not measured:
            raise MeasureError("the workload has nothing to ask")
        bodies.encode(measured[0])
        if warmups:
            before = Conversations(load, workload, client, bodies, watch, is_warmup=True)
            await before.go(warmups, arrivals(load, len(warmups)), stop)
        run = Conversations(load, workload, client, bodies, watch)
        with SelfWatch() as self_watch:
            begun_at = time.monotonic()
            await run.go(measured, arrivals(load, len(measured)), stop, self_watch)
        ended_at = max((outcome.ended_at for outcome in run.outcomes), default=0.0)
        return summarize(
            Ran(
                load=load,
                model=model,
                outcomes=run.outcomes,
                duration_s=max(0.0, ended_at - begun_at),
                health=self_watch.health(),
                num_unfinished=run.num_unfinished,
                held_s=run.held_s,
                num_missing=load.num_prompts - len(measured),
            )
        )


async def find_model(load: Load) -> str:
    """The model that a load is about: the only one of its endpoint, where none is named.

    :raises MeasureError: the endpoint does not answer, or has several.
    """
    if load.model is not None:
        return load.model
    with contextlib.closing(Client(load.url, load.api_key)) as client:
        return await only_model(client, load.url)


async def _greeted(client: Client, load: Load, watch: Watch, stop: asyncio.Event) -> tuple[str, Bodies]:
    found: list[tuple[str, Bodies]] = []

    async def meet() -> None:
        found.append(await greet(client, load))

    nothing = Progress(num_prompts=load.num_prompts, num_begun=0, num_ended=0, num_failed=0, num_tokens=0)
    await unless_stopped(meet(), stop, lambda: watch(nothing))
    if not found:
        raise MeasureError("stopped before anything was measured")
    return found[0]


async def _openings(workload: Workload, count: int, stop: asyncio.Event) -> list[Asked]:
    """All are made before the first is asked. A long prompt takes milliseconds, so `stop` is heard between them."""
    found = []
    for asked in itertools.islice(workload.opening(), count):
        found.append(asked)
        await asyncio.sleep(0)
        if stop.is_set():
            raise MeasureError("stopped before anything was measured")
    return found


def _nobody(_progress: Progress) -> None:
    """Looks on."""


@contextlib.contextmanager
def _many_files(load: Load) -> Iterator[None]:
    """As many open files as this process may have.

    :raises MeasureError: the load surely needs more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    at_once = load.concurrency or (load.num_prompts if math.isinf(load.request_rate) else 1)
    if hard != resource.RLIM_INFINITY and at_once + SPARE_FILES > hard:
        raise MeasureError(f"{at_once} connections at once, and this process may open {hard} files (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def _spared_collector() -> Iterator[None]:
    """A collection among thousands of streams holds all of them up: there are few, and none of what was here before."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
