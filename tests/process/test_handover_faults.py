"""What can happen to a handover, with real engines: nobody gets a wrong token, and no block stays held."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, ask_context, make_spec, started_gang
from helpers.waiting import DEADLINE_S, until

from trtdisagg.protocol.commands import Gone
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import TransferSpec

NUM_TOKENS = 12
PROMPT = "x" * 50
LONG_LEASE_MS = 600_000
SEAM = {"id": "cmpl-1", "created": 1, "generation": "generation"}
"""Says who will come."""
GONE = Gone(incarnation="generation.1")
"""What the supervisor says when that one has ended."""
WANTED = {"logprobs": 0, "frequency_penalty": 2.0}
"""Else a model as tiny as this one says one token over and over."""
Answer = list[str]


class Gang:
    """All ranks of a server."""

    def __init__(self, ranks: list[Engine]) -> None:
        self.ranks = ranks
        self.engine = ranks[0]

    def signal(self, number: signal.Signals) -> None:
        for rank in self.ranks:
            os.kill(rank.process.pid, number)

    def count(self, name: str) -> int:
        """One of `/metrics`, as it is now."""
        return int(self.engine.metrics()[f"trtdisagg_{name}"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """A server that nothing happens to."""
    with server(model, "alone", tmp_path_factory.mktemp("alone")) as alone:
        alone.engine.ready()
        yield alone


@pytest.fixture(scope="module")
def answer(alone: Gang) -> Answer:
    """What it says."""
    return tokens(alone.engine.post(prompt=PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True, **WANTED))


@contextlib.contextmanager
def server(model: Path, name: str, directory: Path, *, tp_size: int = 1, **transfer: Any) -> Iterator[Gang]:
    directory = directory / name
    directory.mkdir()
    spec = make_spec(
        model,
        name,
        parallel=Parallel(tp_size=tp_size),
        enable_block_reuse=False,
        num_blocks=256,
        transfer=TransferSpec(transports=["local"], **{"lease_ms": LONG_LEASE_MS, **transfer}),
    )
    with started_gang(spec, directory) as ranks:
        gang = Gang(ranks)
        try:
            yield gang
        finally:
            gang.signal(signal.SIGCONT)


@contextlib.contextmanager
def two(model: Path, directory: Path, context_tp: int = 1, **transfer: Any) -> Iterator[tuple[Gang, Gang]]:
    """A context and a generation server, ready."""
    with (
        server(model, "context", directory, tp_size=context_tp, **transfer) as context,
        server(model, "generation", directory, **transfer) as generation,
    ):
        context.engine.ready()
        generation.engine.ready()
        yield context, generation


def tokens(answered: Any) -> Answer:
    found: Answer = answered["choices"][0]["logprobs"]["tokens"]
    assert len(set(found)) > len(found) / 2, "any answer would be like this one"
    return found


def first_leg(context: Gang) -> dict[str, Any]:
    return ask_context(context.engine, PROMPT, NUM_TOKENS, **WANTED)


@contextlib.contextmanager
def second_leg(generation: Gang, rest: dict[str, Any]) -> Iterator[Future[Answer]]:
    """Asked meanwhile."""
    with ThreadPoolExecutor(1) as client:
        yield client.submit(lambda: tokens(generation.engine.post(**rest)))


def test_the_context_server_dies_before_the_transfer(model: Path, answer: Answer, tmp_path: Path) -> None:
    with two(model, tmp_path, 2) as (context, generation):
        rest = first_leg(context)
        context.signal(signal.SIGKILL)
        assert tokens(generation.engine.post(**rest)) == answer
        generation.engine.until_free()
        assert generation.count("kv_transfer_failures_total") == 1


def test_the_context_server_dies_before_it_has_confirmed_what_was_read(
    model: Path, answer: Answer, tmp_path: Path
) -> None:
    with two(model, tmp_path) as (context, generation):
        assert tokens(generation.engine.post(**first_leg(context))) == answer  # they are connected now
        rest = first_leg(context)
        context.signal(signal.SIGSTOP)
        with second_leg(generation, rest) as got:
            until(lambda: generation.count("kv_blocks_used") > 0, "the request is there")
            context.signal(signal.SIGKILL)
            assert got.result(DEADLINE_S) == answer
        generation.engine.until_free()
        assert generation.count("kv_transfers_total") == 2
        assert generation.count("kv_transfer_failures_total") == 1


def test_the_context_server_dies_after_the_transfer(model: Path, answer: Answer, tmp_path: Path) -> None:
    with two(model, tmp_path) as (context, generation):
        with second_leg(generation, first_leg(context)) as got:
            until(lambda: generation.count("kv_transfers_total") > 0, "the KV is there")
            context.signal(signal.SIGKILL)
            assert got.result(DEADLINE_S) == answer
        generation.engine.until_free()
        assert generation.count("kv_transfer_failures_total") == 0


def test_the_generation_server_dies_while_it_fetches(model: Path, answer: Answer, tmp_path: Path) -> None:
    with two(model, tmp_path, 2) as (context, generation):
        assert tokens(generation.engine.post(**first_leg(context))) == answer
        rest = ask_context(context.engine, PROMPT, NUM_TOKENS, seam=SEAM, **WANTED)
        context.signal(signal.SIGSTOP)
        with contextlib.suppress(OSError), second_leg(generation, rest) as got:
            until(lambda: generation.count("kv_blocks_used") > 0, "the request is there")
            generation.signal(signal.SIGKILL)
            context.engine.command(GONE)
            context.signal(signal.SIGCONT)
            got.result(DEADLINE_S)
        context.engine.until_free()  # long before the lease would have ended
        assert tokens(context.engine.post(prompt=PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True, **WANTED)) == answer


def test_the_generation_server_dies_before_it_comes(model: Path, answer: Answer, tmp_path: Path) -> None:
    with two(model, tmp_path) as (context, generation):
        assert tokens(generation.engine.post(**first_leg(context))) == answer
        ask_context(context.engine, PROMPT, NUM_TOKENS, seam=SEAM, **WANTED)
        assert context.count("kv_blocks_held") > 0
        generation.signal(signal.SIGKILL)
        context.engine.command(GONE)
        context.engine.until_free()


def test_no_generation_server_is_asked(alone: Gang) -> None:
    params = first_leg(alone)["disaggregated_params"]
    assert alone.count("kv_blocks_held") > 0
    alone.engine.release(params["encoded_opaque_state"])
    alone.engine.until_free()


def test_nobody_comes_and_a_frozen_generation_server_comes_after_the_lease(
    model: Path, answer: Answer, tmp_path: Path
) -> None:
    with two(model, tmp_path, lease_ms=300) as (context, generation):
        first_leg(context)
        context.engine.until_free()
        assert tokens(context.engine.post(prompt=PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True, **WANTED)) == answer

        rest = first_leg(context)
        generation.signal(signal.SIGSTOP)
        with second_leg(generation, rest) as got:
            context.engine.until_free()
            generation.signal(signal.SIGCONT)
            assert got.result(DEADLINE_S) == answer
        generation.engine.until_free()
        assert generation.count("kv_transfer_failures_total") == 1


def test_a_context_server_that_was_started_anew_is_not_the_old_one(model: Path, answer: Answer, tmp_path: Path) -> None:
    with two(model, tmp_path) as (context, generation):
        assert tokens(generation.engine.post(**first_leg(context))) == answer
        rest = first_leg(context)
        context.signal(signal.SIGKILL)
        (tmp_path / "again").mkdir()
        with server(model, "context", tmp_path / "again") as again:
            again.engine.ready()
            assert tokens(generation.engine.post(**rest)) == answer
            assert generation.count("kv_transfer_failures_total") == 1
            assert tokens(generation.engine.post(**first_leg(again))) == answer
            for gang in (generation, again):
                gang.engine.until_free()
            assert generation.count("kv_transfer_failures_total") == 1


def test_a_storm_of_clients_that_leave(model: Path, answer: Answer, tmp_path: Path, num_rounds: int) -> None:
    chance = random.Random(1)
    with two(model, tmp_path, 2, lease_ms=2000) as (context, generation):
        for _ in range(5 * num_rounds):
            asyncio.run(_burst(context, generation, chance))
        for gang in (context, generation):
            gang.engine.until_free()
        assert tokens(generation.engine.post(**first_leg(context))) == answer


async def _burst(context: Gang, generation: Gang, chance: random.Random) -> None:
    """32 requests over both legs, each dropped after 10 to 100 ms, wherever it is by then."""

    async def leave() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(0.01, 0.1)), aiohttp.ClientSession() as client:
                fields = {"model": "tiny", "temperature": 0, "max_tokens": 40, "ignore_eos": True}
                wanted = {**fields, "prompt": "y" * chance.randint(20, 80)}
                wanted |= {"disaggregated_params": {"request_type": "context_only"}}
                async with client.post(f"{context.engine.url}/v1/completions", json=wanted) as answered:
                    first = await answered.json()
                params = first["choices"][0]["disaggregated_params"] | {"request_type": "generation_only"}
                wanted = {**fields, "prompt": first["prompt_token_ids"], "disaggregated_params": params}
                async with client.post(f"{generation.engine.url}/v1/completions", json=wanted) as answered:
                    assert answered.status == 200
                    await answered.read()

    await asyncio.gather(*(leave() for _ in range(32)))
