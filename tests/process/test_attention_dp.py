"""Ranks that divide requests, not heads, and experts among them: alone, and at either end of a handover."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, make_spec, started, started_gang

from trtdisagg.protocol.parallel import Parallel

DIVIDED = Parallel(tp_size=2, attention_dp=True, moe_ep_size=2)
PROMPTS = [[(7 * i + j) % 200 + 1 for j in range(12 + 5 * i)] for i in range(6)]
FIELDS = {"max_tokens": 12, "ignore_eos": True, "detokenize": False}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """One of two ranks that divide requests and experts, and one of one rank."""
    directory = tmp_path_factory.mktemp("servers")
    model = tiny_model.write(directory / "tiny", sizes=tiny_model.Sizes(experts=4))
    with ExitStack() as stack:
        divided, _ = stack.enter_context(started_gang(make_spec(model, "divided", parallel=DIVIDED), directory))
        whole = stack.enter_context(started(make_spec(model, "whole"), directory))
        assert divided.ready().num_blocks == 2 * whole.ready().num_blocks
        yield divided, whole


def ask_all(ask: Any) -> list[list[int]]:
    with ThreadPoolExecutor(len(PROMPTS)) as clients:
        answers = list(clients.map(ask, PROMPTS))
    return [answer["choices"][0]["token_ids"] for answer in answers]


def alone(engine: Engine) -> list[list[int]]:
    return ask_all(lambda prompt: engine.post(prompt=prompt, **FIELDS))


def over_both(context: Engine, generation: Engine) -> list[list[int]]:
    def ask(prompt: list[int]) -> Any:
        fields = {"prompt": prompt, "cache_salt": context.url, **FIELDS}
        first = context.post(**fields, disaggregated_params={"request_type": "context_only"})
        params = first["choices"][0]["disaggregated_params"] | {"request_type": "generation_only"}
        return generation.post(**fields, disaggregated_params=params)

    return ask_all(ask)


def value(engine: Engine, name: str) -> float:
    [found] = re.findall(rf"^{name}{{.*}} (.+)$", engine.get("/metrics").decode(), re.MULTILINE)
    return float(found)


def test_requests_that_are_divided_get_what_they_get_on_one_rank(servers: tuple[Engine, Engine]) -> None:
    divided, whole = servers
    assert alone(divided) == alone(whole)


@pytest.mark.parametrize("direction", ["to one rank", "from one rank"])
def test_handovers_of_requests_that_are_divided(servers: tuple[Engine, Engine], direction: str) -> None:
    context, generation = servers if direction == "to one rank" else servers[::-1]
    assert over_both(context, generation) == alone(servers[1])
    assert value(generation, "trtdisagg_kv_transfers_total") == len(PROMPTS)
    assert value(generation, "trtdisagg_kv_transfer_failures_total") == 0
