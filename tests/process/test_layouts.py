"""Servers of several ranks hand requests over to each other, whatever the division of either: every answer is that of
one server of one rank."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, ask_context, make_spec, started_gang

from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import TransferSpec

pytestmark = pytest.mark.timeout(600)  # up to seven processes that load torch

NUM_TOKENS = 16
WANTED = {"logprobs": 0, "frequency_penalty": 2.0}
"""Else a model as tiny as this one says one token over and over."""
PROMPTS = ["x" * 50, "the quick brown fox jumps over the lazy dog", "a", "abcdefgh" * 9]

DENSE: dict[str, dict[str, Any]] = {
    "tp1": {"tokens_per_block": 8},
    "tp2": {"parallel": Parallel(tp_size=2), "tokens_per_block": 16, "max_num_tokens": 24},
    "pp2": {"parallel": Parallel(pp_partition=[3, 2]), "tokens_per_block": 8},
    "tp2pp2": {"parallel": Parallel(tp_size=2, pp_partition=[1, 4]), "tokens_per_block": 32, "max_num_tokens": 100},
    "tp4": {"parallel": Parallel(tp_size=4), "tokens_per_block": 8},  # more ranks than KV heads
}
FEW = {"local": ["tp1", "tp2pp2", "tp4"], "nixl": ["tp1", "tp2", "pp2"]}
"""Each rank is a process that loads torch; what moves between any two divisions is tested without."""
EXPERTS: dict[str, dict[str, Any]] = {
    "tp1": {},
    "ep2": {"parallel": Parallel(tp_size=2, moe_ep_size=2)},
    "dp2": {"parallel": Parallel(tp_size=2, moe_ep_size=2, attention_dp=True)},
}


@contextlib.contextmanager
def servers(model: Path, kinds: Mapping[str, dict[str, Any]], transport: str, directory: Path) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        started = {}
        for name, fields in kinds.items():
            (directory / name).mkdir()
            spec = make_spec(
                model,
                name,
                transfer=TransferSpec(transports=[transport]),  # type: ignore[list-item]
                enable_block_reuse=False,
                **{"num_blocks": 64, **fields},
            )
            started[name], *_ = stack.enter_context(started_gang(spec, directory / name))
        for engine in started.values():
            engine.ready()
        yield Servers(started)


class Servers:
    """Those that were started, and what one server of one rank answers to each prompt."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self.engines = engines
        one = engines["tp1"]
        wanted = {"max_tokens": NUM_TOKENS, "ignore_eos": True, **WANTED}
        self.answers = [tokens(one.post(prompt=prompt, **wanted)) for prompt in PROMPTS]
        assert all(len(set(answer)) > NUM_TOKENS / 2 for answer in self.answers), "they would be like each other"

    def hand_over(self, context: str, generation: str) -> None:
        """All prompts at once, over these two."""

        def ask(prompt: str) -> list[str]:
            return tokens(
                self.engines[generation].post(**ask_context(self.engines[context], prompt, NUM_TOKENS, **WANTED))
            )

        with ThreadPoolExecutor(len(PROMPTS)) as clients:
            assert list(clients.map(ask, PROMPTS)) == self.answers

    def check_all_came_over(self) -> None:
        """No server had to compute what another had computed, and none holds anything any more."""
        for name, engine in self.engines.items():
            engine.until_free()
            assert (name, engine.metrics()["trtdisagg_kv_transfer_failures_total"]) == (name, 0)
            assert engine.metrics()["trtdisagg_kv_transfers_total"] > 0


def tokens(answer: Any) -> list[str]:
    found: list[str] = answer["choices"][0]["logprobs"]["tokens"]
    return found


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = tiny_model.Sizes(layers=5, heads=8, kv_heads=2)
    return tiny_model.write(tmp_path_factory.mktemp("dense") / "tiny", sizes=sizes)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("experts") / "tiny", sizes=tiny_model.Sizes(experts=4))


@pytest.mark.parametrize("transport", ["local", "nixl"])
def test_each_layout_hands_over_to_each(dense: Path, transport: str, tmp_path: Path, num_rounds: int) -> None:
    kinds = [*DENSE] if num_rounds > 1 else FEW[transport]
    with servers(dense, {name: DENSE[name] for name in kinds}, transport, tmp_path) as them:
        for context, generation in itertools.permutations(kinds, 2):
            them.hand_over(context, generation)
        for kind in kinds:
            them.hand_over(kind, kind)
        them.check_all_came_over()


def test_experts_and_requests_may_be_divided_too(experts: Path, tmp_path: Path) -> None:
    with servers(experts, EXPERTS, "local", tmp_path) as them:
        for context, generation in itertools.permutations(EXPERTS, 2):
            them.hand_over(context, generation)
        them.check_all_came_over()
