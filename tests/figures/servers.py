"""A context and a generation server of the real model, and a proxy before them, as processes to be measured."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from helpers.engine_process import Engine, ask_context, started_gang
from helpers.serving import PROXY, Child
from helpers.waiting import DEADLINE_S, until

from trtdisagg.protocol.commands import Meet
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.proxy_spec import ProxySpec, UpstreamServer
from trtdisagg.protocol.reports import Linked
from trtdisagg.protocol.spec import Dtype, EngineSpec, PeerAddress, TransferSpec
from trtdisagg.text.model_files import resolve_model

MODEL = "smollm2-135m-instruct"
TOKENS_PER_BLOCK = 32


class Case(NamedTuple):
    """What hands over to what."""

    dtype: Dtype
    transport: Any
    layout: str
    """`tp3-tp1`: from three ranks to one."""

    def __str__(self) -> str:
        return f"{self.dtype} {self.transport} {self.layout}"

    @property
    def sides(self) -> dict[str, Parallel]:
        sides = zip(("context", "generation"), self.layout.split("-"), strict=True)
        return {name: Parallel(tp_size=int(side.removeprefix("tp"))) for name, side in sides}


class Servers(NamedTuple):
    """Both servers, connected: all ranks of each, rank 0 first."""

    ranks: dict[str, list[Engine]]
    linked: Linked

    @property
    def context(self) -> Engine:
        return self.ranks["context"][0]

    @property
    def generation(self) -> Engine:
        return self.ranks["generation"][0]

    def hand_over(self, prompt: str, num_tokens: int) -> None:
        """Both legs of a request."""
        self.generation.post(**ask_context(self.context, prompt, num_tokens, model=MODEL))

    def requests(self, num_requests: int) -> list[dict[str, float]]:
        """Times of so many requests that the generation server has answered since it was asked last, the oldest first.
        Those of the last one come a moment after its answer."""
        told: list[Any] = []

        def are_there() -> bool:
            told.extend(json.loads(self.generation.get("/perf_metrics")))
            return len(told) >= num_requests

        until(are_there, f"{num_requests} requests are told of", DEADLINE_S)
        return [one["perf_metrics"]["timing_metrics"] for one in told]

    @contextlib.contextmanager
    def behind_proxy(self) -> Iterator[str]:
        """Where a client asks for whole requests."""
        servers = [
            UpstreamServer(name=name, role=name, model=MODEL, url=engine.url.removeprefix("http://"))  # type: ignore[arg-type]
            for name, (engine, *_) in self.ranks.items()
        ]
        spec = ProxySpec(cluster="c", port=0, servers=servers, parent_pid=os.getpid())
        with tempfile.TemporaryDirectory(prefix="kv") as directory:
            proxy = Child(PROXY, spec, Path(directory, "proxy.json"))
            try:
                proxy.wait_ready()
                yield proxy.url
            finally:
                proxy.close()


@contextlib.contextmanager
def connected(case: Case, **fields: Any) -> Iterator[Servers]:
    """Start both servers, and have them meet as the agent does before requests come. Each has a core of its own where
    it is one process; those of several run where they can.

    :param fields: of the generation server's spec.
    """
    with tempfile.TemporaryDirectory(prefix="kv") as directory, contextlib.ExitStack() as stack:
        ranks = {}
        for core, (name, parallel) in enumerate(case.sides.items()):
            spec = _spec(case, name, parallel, core)
            if name == "generation":
                spec = msgspec.structs.replace(spec, **fields)
            Path(directory, name).mkdir()
            ranks[name] = stack.enter_context(started_gang(spec, Path(directory, name)))
        said = ranks["context"][0].ready()
        generation, *_ = ranks["generation"]
        generation.ready()
        there = PeerAddress(server="context", incarnation="context.1", host=said.kv_host, port=said.kv_port)
        generation.command(Meet(peer=there))
        linked = generation.report(Linked)
        assert linked.error is None, linked
        yield Servers(ranks, linked)


def _spec(case: Case, name: str, parallel: Parallel, core: int) -> EngineSpec:
    cores = sorted(os.sched_getaffinity(0))
    alone = parallel.num_ranks == 1
    return EngineSpec(
        cluster="c",
        name=name,
        role=name,  # type: ignore[arg-type]
        incarnation=f"{name}.1",
        model=MODEL,
        model_path=resolve_model(MODEL).path,
        dtype=case.dtype,
        parallel=parallel,
        cores=[cores[core % len(cores)]] if alone else None,
        max_seq_len=2048,
        max_num_tokens=2048,
        num_blocks=1024,
        tokens_per_block=TOKENS_PER_BLOCK,
        perf_metrics_max_requests=1000,
        transfer=TransferSpec(transports=[case.transport]),
    )
