"""A server whose ranks are on two hosts: equal to one rank in its answers, reached by others for KV, and ended when one
of its hosts vanishes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, ask_context, make_spec, started_across
from helpers.netns import Host, hosts, needs_netns
from helpers.python_api import greedy
from helpers.waiting import DEADLINE_S

from trtdisagg.api import EngineOptions, open_executor
from trtdisagg.protocol.commands import Meet
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.reports import Beat, Failed, Linked
from trtdisagg.protocol.spec import EngineSpec, PeerAddress, TransferSpec

pytestmark = needs_netns
PROMPT = [(7 * i) % 200 + 1 for i in range(50)]
NUM_TOKENS = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[int]:
    """What one rank answers."""
    options = EngineOptions(model=str(model), dtype="float32", max_kv_tokens=256, num_threads=1)
    with open_executor(options) as (executor, _):
        executor.enqueue_request(greedy(1, PROMPT, max_tokens=NUM_TOKENS))
        tokens: list[int] = []
        while len(tokens) < NUM_TOKENS:
            outputs = executor.await_responses(1, timeout_s=DEADLINE_S)
            assert outputs, "no output in time"
            tokens += [token for output in outputs for token in output.new_token_ids]
        return tokens


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Host]]:
    (tmp_path / "secret").write_text("sesame")
    with hosts(2) as made:
        yield made


def spec_of(model: Path, directory: Path, name: str, **changes: Any) -> EngineSpec:
    return make_spec(model, name, secret_file=str(directory / "secret"), enable_block_reuse=False, **changes)


def tokens_of(engine: Engine, host: Host, **fields: Any) -> list[int]:
    wanted = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "detokenize": False, **fields}
    tokens: list[int] = host.inside(lambda: engine.post(**wanted))["choices"][0]["token_ids"]
    return tokens


def until_it_computes(engine: Engine) -> None:
    while not engine.report(Beat).is_working:
        pass


def test_kv_comes_from_a_server_of_one_host_until_a_host_vanishes(
    model: Path, tmp_path: Path, two: list[Host], expected: list[int]
) -> None:
    nixl = TransferSpec(transports=["nixl"])
    there = spec_of(model, tmp_path, "context-0", transfer=nixl)
    here = spec_of(model, tmp_path, "generation-0", parallel=Parallel(tp_size=2), transfer=nixl)
    with started_across(there, two[:1], tmp_path) as [context], started_across(here, two, tmp_path) as ranks:
        ready = context.ready()
        assert ready.kv_host == two[0].address
        generation = ranks[0]
        peer = PeerAddress(server="context-0", incarnation="context-0.1", host=ready.kv_host, port=ready.kv_port)
        generation.command(Meet(peer=peer))
        generation.ready()
        linked = generation.report(Linked)
        assert linked.error is None

        leg = two[0].inside(lambda: ask_context(context, PROMPT, NUM_TOKENS))
        assert tokens_of(generation, two[0], **leg) == expected
        while (stats := generation.report(Beat).stats).num_transfers_total == 0:
            pass
        assert stats.num_transfer_failures_total == 0
        assert stats.num_transfer_bytes_total > 0

        two[1].cut()
        failed = generation.report(Failed)
        assert failed.message.startswith(f"rank 1 of generation-0 on {two[1].address} cannot be ")
        assert [rank.process.wait(DEADLINE_S) for rank in ranks] == [1, 1], "the other end sees it, too"


def test_a_host_vanishes_in_the_middle_of_a_step(
    model: Path, tmp_path: Path, two: list[Host], expected: list[int], request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--soak"):
        pytest.skip("with --soak: two more processes, which move no KV")
    spec = spec_of(model, tmp_path, "both-0", parallel=Parallel(pp_partition=[1, 1]), transfer=TransferSpec())
    with started_across(spec, two, tmp_path) as ranks, ThreadPoolExecutor(1) as clients:
        ranks[0].ready()
        assert tokens_of(ranks[0], two[0], prompt=PROMPT) == expected
        two[1].cut()
        asking = clients.submit(tokens_of, ranks[0], two[0], prompt=PROMPT)
        until_it_computes(ranks[0])
        failed = ranks[0].report(Failed)
        assert failed.message == (
            f"rank 1 of both-0 on {two[1].address} cannot be reached any more: Connection timed out"
        )
        assert [rank.process.wait(DEADLINE_S) for rank in ranks] == [1, 1]
        assert asking.exception() is not None
