"""Who has which layers, heads and experts: each exactly once, or as often as there are too many ranks."""

from __future__ import annotations

from collections import Counter

import pytest

from trtdisagg.protocol.parallel import Parallel, even_partition, problems

MODEL = {"num_layers": 6, "num_heads": 12, "num_kv_heads": 2, "inner_sizes": [24]}


@pytest.mark.parametrize(("layers", "stages"), [(22, 4), (6, 1), (7, 7), (30, 4)])
def test_stages_differ_by_one_layer_at_most(layers: int, stages: int) -> None:
    partition = even_partition(layers, stages)
    assert sum(partition) == layers
    assert sorted(partition, reverse=True) == partition
    assert partition[0] - partition[-1] <= 1


def test_each_layer_has_one_stage() -> None:
    parallel = Parallel(pp_partition=[3, 1, 2])
    assert [list(parallel.layers(stage, 6)) for stage in range(3)] == [[0, 1, 2], [3], [4, 5]]
    assert list(Parallel().layers(0, 6)) == list(range(6))


@pytest.mark.parametrize(("tp", "kv"), [(1, 3), (2, 8), (4, 2), (3, 1), (8, 8)])
def test_kv_heads_are_divided_or_doubled_evenly(tp: int, kv: int) -> None:
    parallel = Parallel(tp_size=tp)
    times = Counter(head for rank in range(tp) for head in parallel.kv_heads(rank, kv))
    assert set(times) == set(range(kv))
    assert set(times.values()) == {max(1, tp // kv)}


@pytest.mark.parametrize(("tp", "heads", "kv"), [(4, 12, 2), (2, 12, 4), (3, 9, 3), (6, 12, 2)])
def test_query_heads_are_where_their_kv_head_is(tp: int, heads: int, kv: int) -> None:
    parallel = Parallel(tp_size=tp)
    for rank in range(tp):
        needed = {head * kv // heads for head in parallel.heads(rank, heads)}
        assert needed == set(parallel.kv_heads(rank, kv))


def test_experts_are_divided_among_groups() -> None:
    parallel = Parallel(tp_size=4, moe_tp_size=2, moe_ep_size=2)
    assert [list(parallel.experts(rank, 4)) for rank in range(4)] == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_data_parallel_attention_has_all_heads_everywhere() -> None:
    parallel = Parallel(tp_size=5, attention_dp=True)
    assert list(parallel.kv_heads(3, 2)) == [0, 1]
    assert list(parallel.heads(3, 12)) == list(range(12))
    assert problems(parallel, **MODEL) == []


@pytest.mark.parametrize(
    ("parallel", "words"),
    [
        (Parallel(pp_partition=[3, 4]), "pp_partition [3, 4] does not divide 6 layers"),
        (Parallel(pp_partition=[6, 0]), "pp_partition [6, 0] does not divide 6 layers"),
        (Parallel(tp_size=5), "12 attention heads cannot be divided by tensor_parallel_size 5"),
        (Parallel(tp_size=3), "of 2 KV heads and tensor_parallel_size 3 neither divides the other"),
        (Parallel(tp_size=5), "an MLP 24 wide cannot be divided by 5"),
    ],
)
def test_what_cannot_be_divided_is_said(parallel: Parallel, words: str) -> None:
    assert words in problems(parallel, **MODEL)


def test_experts_that_cannot_be_divided() -> None:
    found = problems(Parallel(tp_size=4, moe_tp_size=3, moe_ep_size=2), **MODEL, num_experts=5, expert_size=7)
    assert "moe_tensor_parallel_size 3 times moe_expert_parallel_size 2 is not tensor_parallel_size 4" in found
    assert "5 experts cannot be divided by moe_expert_parallel_size 2" in found
    assert "an expert 7 wide cannot be divided by moe_tensor_parallel_size 3" in found
