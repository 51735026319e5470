"""One rank's part of a step, and how parts become one; with real models in test_parallel.py."""

from __future__ import annotations

import torch
from fakes.ranks import World
from torch import Tensor

from trtdisagg.engine.division import Division
from trtdisagg.engine.step import Chunk, Copy, Step
from trtdisagg.protocol.parallel import Parallel

VOCAB = 7
BY_REQUESTS = Parallel(tp_size=3, attention_dp=True, moe_ep_size=3)
STEP = Step(
    [Chunk([1, 2], 0, [0], 1, dp_rank=2), Chunk([3], 4, [1], 1, dp_rank=0), Chunk([4, 5, 6], 0, [2], 2, dp_rank=2)],
    [Copy(0, 1, dp_rank=2), Copy(3, 4, dp_rank=1)],
)


def test_one_rank_has_all_and_hears_nothing() -> None:
    division, logits = Division(), torch.rand(4, VOCAB)
    step = Step([Chunk([1, 2], 0, [0], 1)], [Copy(0, 1)])
    assert division.own(step) == (step.chunks, step.copies, [2], [1])
    assert division.finish(logits, step, VOCAB) is logits
    assert division.mix(logits, [4], torch.neg).equal(-logits)


def test_what_is_whose_by_requests() -> None:
    world = World(BY_REQUESTS)
    divisions = [Division(world.ranks(rank)) for rank in range(3)]
    owns = [division.own(STEP) for division in divisions]
    assert [own.chunks for own in owns] == [[STEP.chunks[1]], [], [STEP.chunks[0], STEP.chunks[2]]]
    assert [own.copies for own in owns] == [[], [STEP.copies[1]], [STEP.copies[0]]]
    assert {tuple(own.num_tokens) for own in owns} == {(1, 0, 5)}
    assert [division.place(own.num_logits) for division, own in zip(divisions, owns, strict=True)] == [
        (0, 4),
        (1, 4),
        (1, 4),
    ]


def finished(parallel: Parallel, step: Step, parts: list[Tensor]) -> list[Tensor]:
    world = World(parallel)
    out = world.run(lambda rank: Division(world.ranks(rank)).finish(parts[rank], step, VOCAB))
    assert all(part.shape == (0, VOCAB) for part in out[1:])
    return out


def test_rows_of_all_ranks_come_in_the_order_of_the_chunks() -> None:
    rows = torch.rand(4, VOCAB)  # of chunks 0, 1, 2, 2
    logits, *_ = finished(BY_REQUESTS, STEP, [rows[[1]], rows[:0], rows[[0, 2, 3]]])
    assert logits.equal(rows)


def test_parts_of_the_vocabulary_lie_side_by_side() -> None:
    rows, step = torch.rand(2, VOCAB), Step([Chunk([1, 2], 0, [0], 2)])
    parts = [part.contiguous() for part in rows.split([2, 2, 3], dim=1)]
    logits, *_ = finished(Parallel(tp_size=3), step, parts)
    assert logits.equal(rows)


def test_experts_see_the_rows_of_all_ranks() -> None:
    world, rows = World(BY_REQUESTS), torch.rand(6, 4)
    own = [rows[:1], rows[:0], rows[1:]]

    def mixed(rank: int) -> Tensor:
        return Division(world.ranks(rank)).mix(own[rank], [1, 0, 5], lambda x: x * (rank + 1))

    assert torch.cat(world.run(mixed)).allclose(rows * (1 + 2 + 3))


def test_without_rows_nothing_is_said() -> None:
    world, nothing = World(Parallel(tp_size=2, pp_partition=[1, 1])), torch.empty(0, 3)
    division = Division(world.ranks(3))  # alone: it would wait for the others
    assert division.take_over(nothing) is nothing
    assert division.add_up(nothing) is nothing
    step = Step([Chunk([1], 0, [0], 0)])
    assert division.finish(nothing, step, VOCAB).shape == (0, VOCAB)
