"""Any order of requests, cancels, deadlines, transfers that succeed or fail, releases and faults: each request gets
what it gets alone, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest
from helpers.engine_world import EngineWorld
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

SEEDS = st.integers(0, 2**32)


class EngineHistories(RuleBasedStateMachine):
    @initialize(seed=SEEDS)
    def start(self, seed: int) -> None:
        self.world = EngineWorld(Random(seed))

    @rule(seed=SEEDS)
    def add(self, seed: int) -> None:
        self.world.add(Random(seed))

    @rule(seed=SEEDS)
    def add_context(self, seed: int) -> None:
        self.world.add_context(Random(seed))

    @rule(seed=SEEDS)
    def add_generation(self, seed: int) -> None:
        self.world.add_generation(Random(seed))

    @rule(seed=SEEDS)
    def cancel(self, seed: int) -> None:
        self.world.cancel(Random(seed))

    @rule(seed=SEEDS)
    def end_fetch(self, seed: int) -> None:
        self.world.end_fetch(Random(seed))

    @rule(seed=SEEDS)
    def release(self, seed: int) -> None:
        self.world.release(Random(seed))

    @rule(seed=SEEDS)
    def go_on(self, seed: int) -> None:
        self.world.go_on(Random(seed))

    @rule(seed=SEEDS)
    def wait(self, seed: int) -> None:
        self.world.wait(Random(seed))

    @rule(seed=SEEDS)
    def fail_a_step(self, seed: int) -> None:
        self.world.fail_a_step(Random(seed))

    @rule(seed=SEEDS)
    def begin_context(self, seed: int) -> None:
        self.world.begin_context(Random(seed))

    @rule(seed=SEEDS)
    def go_on_with_context(self, seed: int) -> None:
        self.world.go_on_with_context(Random(seed))

    @rule(seed=SEEDS)
    def cancel_context(self, seed: int) -> None:
        self.world.cancel_context(Random(seed))

    @rule(seed=SEEDS)
    def read_piece(self, seed: int) -> None:
        self.world.read_piece(Random(seed))

    @rule(seed=SEEDS)
    def check_piece(self, seed: int) -> None:
        self.world.check_piece(Random(seed))

    @invariant()
    def tokens_are_those_of_each_request_alone(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


# Not shrunk: that takes minutes, and a failure prints its history as it is.
EngineHistories.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, phases=(Phase.explicit, Phase.generate)
)
TestEngineHistories = EngineHistories.TestCase

NUM_WORLDS = 4
"""With `--soak` ten times as many, and so 2,000 requests and 1,000 cancels."""
OPS = (
    *(EngineWorld.add,) * 8,
    *(EngineWorld.add_context, EngineWorld.add_generation) * 2,
    *(EngineWorld.cancel,) * 6,
    *(EngineWorld.end_fetch, EngineWorld.release, EngineWorld.go_on) * 5,
    *(EngineWorld.wait, EngineWorld.fail_a_step),
)
PIPELINED_OPS = (
    *(EngineWorld.begin_context, EngineWorld.go_on, EngineWorld.end_fetch) * 2,
    *(EngineWorld.go_on_with_context, EngineWorld.read_piece, EngineWorld.check_piece) * 6,
    *(EngineWorld.cancel_context, EngineWorld.cancel),
)


def test_random_requests_under_load_lose_no_block(num_rounds: int) -> None:
    for seed in range(NUM_WORLDS * num_rounds):
        soak(seed, OPS)


def test_random_prompts_told_of_while_they_are_computed(num_rounds: int) -> None:
    num_pieces = sum(soak(seed, PIPELINED_OPS) for seed in range(NUM_WORLDS * num_rounds))
    assert num_pieces > NUM_WORLDS


def soak(seed: int, ops: Sequence[Callable[[EngineWorld, Random], None]]) -> int:
    """
    :return: pieces of prompts that came before their requests.
    """
    random = Random(seed)
    world = EngineWorld(random)
    num_cancels = 0
    while len(world.requests) < 50 or num_cancels < 25:
        op = random.choice(ops)
        num_cancels += op is EngineWorld.cancel and bool(world.requests)
        op(world, random)
    try:
        world.finish()
    except AssertionError as e:
        pytest.fail(f"world {seed}: {e}")
    return world.pipeline.num_valid
