"""The whole cluster says, token for token, what Hugging Face transformers says on the same weights.

What transformers said is recorded, since it takes longer to load than the cluster; with `--soak` it is asked anew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.cluster import REPOSITORY, Cluster, post, running
from helpers.oracle import PROMPTS, RECORDED_TOKENS, greedy, recorded
from helpers.ports import free_port
from helpers.waiting import until

pytestmark = [pytest.mark.real_model, pytest.mark.filterwarnings("ignore")]


class Asked(NamedTuple):
    """What is asked, and what transformers says."""

    prompts: list[str]
    num_tokens: int
    answers: list[str]


@pytest.fixture(scope="session")
def asked(request: pytest.FixtureRequest) -> Asked:
    if request.config.getoption("--soak"):
        return Asked(PROMPTS, 64, greedy(PROMPTS, 64))
    prompts = PROMPTS[::2]
    return Asked(prompts, RECORDED_TOKENS, [recorded()[prompt] for prompt in prompts])


def test_transformers_still_says_what_is_recorded(num_rounds: int) -> None:
    if num_rounds == 1:
        pytest.skip("asked anew with --soak only")
    assert dict(zip(PROMPTS, greedy(PROMPTS, RECORDED_TOKENS), strict=True)) == recorded()


def complete(cluster: Cluster, asked: Asked) -> list[str]:
    """The cluster's answers to all prompts, asked at once."""
    url = cluster.url + "/v1/completions"

    def ask(prompt: str) -> str:
        body = {"model": "smollm2-135m-instruct", "prompt": prompt, "max_tokens": asked.num_tokens, "temperature": 0}
        status, answer = post(url, body)
        assert status == 200, answer
        text: str = answer["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, asked.prompts))


def until_transferred(cluster: Cluster, at_least: int) -> None:
    """The next heartbeat says what has happened before it; no transfer has failed."""

    def stats() -> dict[str, int]:
        told: dict[str, int] = cluster.server("generation-0")["stats"]
        return told

    until(lambda: stats()["num_transfers_total"] >= at_least, f"{at_least} transfers", instead=stats)
    assert stats()["num_transfer_failures_total"] == 0


def test_disaggregated_over_shared_memory(cluster: Cluster, asked: Asked) -> None:
    before = cluster.server("generation-0")["stats"]
    assert complete(cluster, asked) == asked.answers
    until_transferred(cluster, before["num_transfers_total"] + 1)  # blocks that are there already do not travel


def test_disaggregated_over_nixl(tmp_path: Path, in_float32: str, asked: Asked) -> None:
    keys = "cache_transceiver_config: {backend: NIXL}\nkv_cache_config: {enable_block_reuse: false}\n"
    with running(tmp_path, in_float32 + keys) as cluster:
        assert complete(cluster, asked) == asked.answers
        until_transferred(cluster, len(asked.prompts) - 2)  # some end at token one


def test_aggregated(tmp_path: Path, in_float32: str, asked: Asked) -> None:
    text = in_float32.replace("context_servers: {num_instances: 1}", "context_servers: {num_instances: 0}")
    with running(tmp_path, text) as cluster:
        assert complete(cluster, asked) == asked.answers
        assert cluster.server("generation-0")["stats"]["num_transfers_total"] == 0


def test_servers_of_several_ranks(tmp_path: Path, asked: Asked) -> None:
    """The example, as it stands but for its port."""
    text = (REPOSITORY / "examples" / "parallel.yaml").read_text()
    with running(tmp_path, text.replace("port: 8000", f"port: {free_port()}")) as cluster:
        assert complete(cluster, asked) == asked.answers
        until_transferred(cluster, 1)
