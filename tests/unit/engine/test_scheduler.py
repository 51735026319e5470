"""What each step computes: token budget, chunks, and who is admitted when."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import HandDriven, make_limits, make_request

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.engine.request import Request
from trtdisagg.engine.scheduler import Scheduler
from trtdisagg.engine.sequence import Sequence, State


class Replay:
    """A scheduler whose every sampled token is 9."""

    def __init__(self, **limits: Any) -> None:
        self.limits = make_limits(**limits)
        self.blocks = BlockManager(self.limits.num_blocks, self.limits.tokens_per_block)
        self.scheduler = Scheduler(self.limits, self.blocks)
        self.sequences: list[Sequence] = []

    def add(self, *requests: Request) -> None:
        for request in requests:
            rank = (-request.priority, len(self.sequences), 0)
            self.sequences.append(Sequence(request, frozenset(), rank=rank))
            self.scheduler.add(self.sequences[-1])

    def step(self) -> dict[int, tuple[int, int, bool]]:
        """One step as {request id: (first position, number of tokens, wants logits)}."""
        plan = self.scheduler.schedule()
        self.scheduler.computed(plan)
        for sequence in plan.sampled:
            sequence.tokens.append(9)
            if sequence.finish_reason:
                self.scheduler.end(sequence)
        self.scheduler.check_integrity([s for s in self.sequences if s.state is not State.FINISHED])
        assert plan.step.num_tokens <= self.limits.max_num_tokens
        chunks = zip(plan.sequences, plan.step.chunks, strict=True)
        return {s.id: (c.start, len(c.tokens), bool(c.num_logits)) for s, c in chunks}


def test_a_prompt_that_fits_is_one_chunk_and_then_comes_token_by_token() -> None:
    replay = Replay()
    replay.add(make_request(1, num_prompt=5, max_tokens=3))
    assert [replay.step() for _ in range(4)] == [{1: (0, 5, True)}, {1: (5, 1, True)}, {1: (6, 1, True)}, {}]


@pytest.mark.parametrize(
    ("num_prompt", "chunks"),
    [
        (7, [(0, 7, True)]),
        (8, [(0, 8, True)]),
        (9, [(0, 8, False), (8, 1, True)]),
        (16, [(0, 8, False), (8, 8, True)]),
        (17, [(0, 8, False), (8, 8, False), (16, 1, True)]),
    ],
)
def test_chunk_borders(num_prompt: int, chunks: list[tuple[int, int, bool]]) -> None:
    replay = Replay(max_num_tokens=8)
    replay.add(make_request(1, num_prompt, max_tokens=2))
    assert [replay.step()[1] for _ in chunks] == chunks
    assert replay.step() == {1: (num_prompt, 1, True)}


def test_a_chunk_carries_its_tokens_and_a_table_that_covers_them() -> None:
    replay = Replay(max_num_tokens=8, tokens_per_block=4)
    request = make_request(1, num_prompt=10, max_tokens=3)
    replay.add(request)
    first = replay.scheduler.schedule()
    assert first.step.chunks[0].tokens == request.prompt_token_ids[:8]
    assert len(first.step.chunks[0].blocks) == 3
    replay.scheduler.computed(first)
    second = replay.scheduler.schedule()
    assert second.step.chunks[0].tokens == request.prompt_token_ids[8:]
    assert second.step.chunks[0].blocks == first.step.chunks[0].blocks


def test_who_generates_gets_a_token_in_every_step_beside_a_long_prompt() -> None:
    replay = Replay(max_num_tokens=8)
    replay.add(make_request(1, num_prompt=4, max_tokens=10), make_request(2, num_prompt=4, max_tokens=10))
    replay.step()
    replay.add(make_request(3, num_prompt=20, max_tokens=2))
    for i, chunk in enumerate([(0, 6, False), (6, 6, False), (12, 6, False), (18, 2, True)]):
        assert replay.step() == {1: (4 + i, 1, True), 2: (4 + i, 1, True), 3: chunk}


def test_prompts_share_a_step_in_the_order_of_arrival() -> None:
    replay = Replay(max_num_tokens=8)
    replay.add(*(make_request(i, num_prompt=5, max_tokens=1) for i in (1, 2, 3)))
    assert replay.step() == {1: (0, 5, True), 2: (0, 3, False)}
    assert replay.step() == {2: (3, 2, True), 3: (0, 5, True)}


def test_no_more_run_than_a_step_has_tokens_so_that_all_go_on() -> None:
    replay = Replay(max_batch_size=8, max_num_tokens=3)
    replay.add(*(make_request(i, num_prompt=2, max_tokens=4) for i in range(5)))
    seen = [replay.step() for _ in range(60)]
    assert {i for step in seen for i in step} == {0, 1, 2, 3, 4}
    assert not replay.blocks.num_used
    assert max(len(step) for step in seen) == 3


def test_batch_size_bounds_who_runs() -> None:
    replay = Replay(max_batch_size=2)
    replay.add(*(make_request(i, num_prompt=2, max_tokens=2) for i in range(3)))
    assert list(replay.step()) == [0, 1]
    assert list(replay.step()) == [0, 1]
    assert list(replay.step()) == [2]


def test_a_request_waits_until_all_its_blocks_are_free_and_those_behind_it_wait_too() -> None:
    replay = Replay(num_blocks=4, tokens_per_block=4, scheduler_policy="guaranteed_no_evict")
    replay.add(
        make_request(1, num_prompt=4, max_tokens=5),  # 2 blocks, 5 steps
        make_request(2, num_prompt=9, max_tokens=4),  # 3 blocks
        make_request(3, num_prompt=1, max_tokens=1),  # would fit beside 1, but came later
    )
    assert [list(replay.step()) for _ in range(5)] == [[1]] * 5
    assert list(replay.step()) == [2, 3]


def test_a_context_request_needs_only_the_blocks_of_its_prompt() -> None:
    replay = Replay(num_blocks=2, tokens_per_block=4, scheduler_policy="guaranteed_no_evict")
    replay.add(*(make_request(i, num_prompt=4, max_tokens=60, type="context_only") for i in (1, 2)))
    assert list(replay.step()) == [1, 2]


def test_tokens_from_elsewhere_are_computed_before_the_last_of_them_which_then_is_decoded() -> None:
    """The last token is computed alone, as it would have been where it came from: so the rounding is the same."""
    replay = Replay()
    replay.add(make_request(1, num_prompt=5, max_tokens=4, output_token_ids=[3, 4]))
    assert [replay.step() for _ in range(4)] == [{1: (0, 6, False)}, {1: (6, 1, True)}, {1: (7, 1, True)}, {}]


def test_prefill_goes_on_when_the_rest_of_the_batch_generates() -> None:
    engine = HandDriven(max_num_tokens=4, max_batch_size=4)
    engine.add(*(make_request(i, num_prompt=1, max_tokens=30) for i in range(3)), make_request(9, 12, 1))
    engine.step(14)
    assert engine.last(9).finish_reason == "length"
    engine.run()
    engine.assert_empty()
