"""One process holds as many streams as a cluster has users, on a server that is faster: 2,000 at full count."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import uvloop

from trtdisagg.bench.proxy.scripts import make_script
from trtdisagg.bench.serve.asked import Asked
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.run import run_load

load = pytest.importorskip("trtdisagg._load", reason="the C++ extension was not built")

NUM_TOKENS, INTERVAL_MS = 20, 50


class Questions:
    def opening(self) -> Iterator[Asked]:
        return (Asked(prompt=f"question {i}", max_tokens=NUM_TOKENS, num_input_tokens=2) for i in itertools.count())

    def reply(self, *_: object) -> None:
        return None


def test_many_streams_at_once(num_rounds: int) -> None:
    num_streams = 200 * num_rounds
    server = load.Worker(make_script("generation", ours=False))
    report = uvloop.run(
        run_load(
            Load(
                url=f"http://127.0.0.1:{server.port}",
                endpoint="chat",
                num_prompts=num_streams,
                extra_body={"seed": NUM_TOKENS * 10**9 + INTERVAL_MS * 1000},
            ),
            Questions(),
        )
    )
    chunk_us = report.client_busy * report.duration * 1e6 / report.total_output_tokens
    print(f"\n{num_streams} streams: {chunk_us:.1f} us of the client's CPU a chunk", *report.warnings, sep="\n")
    assert (report.completed, report.failed) == (num_streams, 0)
    assert report.total_output_tokens == num_streams * NUM_TOKENS
