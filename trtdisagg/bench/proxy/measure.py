"""Rounds over all proxies in turn, so that what else the machine does meets all of them alike, and the best of them."""

from __future__ import annotations

import contextlib
import os
import resource
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

from trtdisagg import __version__
from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.proxy.phases import FULL, NUM_AT_ONCE, PHASES, QUICK, Sizes, at, streams, warm_up, whole
from trtdisagg.bench.proxy.scripts import make_script
from trtdisagg.bench.proxy.subject import started
from trtdisagg.protocol.bench_proxy import Direct, Figures, ProxyReport

NUM_FILES = 8192
"""Open at once, with 1,000 streams: a client's and two servers' ends, and what a proxy has itself."""


def measure_proxies(
    peers: Sequence[str], *, num_rounds: int, is_quick: bool, stage: Callable[[str], None]
) -> ProxyReport:
    """Measure ours, and the peers in the same run.

    :param peers: commands.
    :param stage: told what is going on.
    :raises MeasureError: with the reason.
    """
    if find_spec("trtdisagg._load") is None:
        raise MeasureError("trtdisagg was installed without its C++ extension; a compiler is needed (Debian: g++)")
    sizes = QUICK if is_quick else FULL
    found: defaultdict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with _many_files(), contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(started(command)) for command in (None, *peers)]
        for subject in subjects:
            warm_up(subject, sizes)
        directs = []
        for number in range(num_rounds):
            stage(f"round {number + 1} of {num_rounds}: the load client and a server, without a proxy")
            directs.append(_direct(sizes))
            for phase in PHASES:
                for subject in subjects:
                    stage(f"round {number + 1} of {num_rounds}: {phase.__name__}, {subject.name}")
                    for name, value in phase(subject, sizes).items():
                        found[subject.name][name].append(value)
    direct = _best_direct(directs)
    ours, *others = [_figures(found[subject.name], direct) for subject in subjects]
    return ProxyReport(
        **{name: getattr(ours, name) for name in Figures.__struct_fields__},
        version=__version__,
        num_cores=len(os.sched_getaffinity(0)),
        num_rounds=num_rounds,
        is_quick=is_quick,
        direct=direct,
        peers=dict(zip(peers, others, strict=True)),
    )


def _figures(found: dict[str, list[float]], direct: Direct) -> Figures:
    best = {name: max(values) if name == "requests_s" else min(values) for name, values in found.items()}
    best["added_p50_us"] -= direct.p50_us
    best["added_p99_us"] -= direct.p50_us
    best["many_streams_added_p99_ms"] -= direct.many_streams_delay_p50_us / 1000
    return Figures(**best)


def _direct(sizes: Sizes) -> Direct:
    from trtdisagg._load import Worker

    server = Worker(make_script("generation", ours=False))
    many = whole(sizes.num_small)(server.port)
    alone = whole(sizes.num_alone, at_once=1)(server.port).latencies_us
    paced = streams(NUM_AT_ONCE, sizes.num_paced_tokens, 10)(server.port).delays_us
    crowd = streams(sizes.num_streams, sizes.num_stream_tokens, 50)(server.port).delays_us
    return Direct(
        requests_s=many.num_ok / many.seconds,
        p50_us=at(alone, 0.5),
        p99_us=at(alone, 0.99),
        chunk_delay_p50_us=at(paced, 0.5),
        chunk_delay_p99_us=at(paced, 0.99),
        many_streams_delay_p50_us=at(crowd, 0.5),
        many_streams_delay_p99_us=at(crowd, 0.99),
    )


def _best_direct(rounds: Sequence[Direct]) -> Direct:
    best = {name: min(getattr(r, name) for r in rounds) for name in Direct.__struct_fields__}
    return Direct(**{**best, "requests_s": max(r.requests_s for r in rounds)})


@contextlib.contextmanager
def _many_files() -> Iterator[None]:
    """As many open files as 1,000 streams need, here and in the proxies."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = NUM_FILES if hard == resource.RLIM_INFINITY else min(NUM_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
