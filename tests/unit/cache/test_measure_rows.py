"""What is measured, and what is told of it."""

from __future__ import annotations

import pytest

from trtdisagg.cache.measure.cases import Group, groups, scattered
from trtdisagg.cache.measure.orders import Timed
from trtdisagg.cache.measure.rows import Times, compared, row, span_s
from trtdisagg.protocol.bench_kv import SHAPES, KvMeasure, KvRow, parse_pair
from trtdisagg.protocol.peers import Met

MET = [Met(transport="nixl", direction="push", gb_s=1, latency_us=1)]


def case(pair: str) -> Group:
    (group,) = groups(KvMeasure(models=("llama-8b",), pairs=(pair,), nums_of_tokens=(256,)))
    return group


def measured(pair: str, *, copy_s: float, fetch_s: float) -> KvRow:
    seconds = {"fetch": [90.0, fetch_s, 80.0], "copy": [copy_s, 90.0], "piece": [1.0], "descriptors": [2.0]}
    cpu_s = {"fetch": [0.5, 0.25], "copy": [0.125, 1.0], "descriptors": [1.0, 0.5]}
    times = Times(num_bytes=10**9, num_descriptors=5, first_s=7.0, seconds=seconds, cpu_s=cpu_s)
    return row(case(pair), "nixl", MET, 256, times)


def test_prompts_that_are_too_large_are_moved_in_part() -> None:
    found = list(groups(KvMeasure(models=("llama-8b",), pairs=("tp2-pp2",), nums_of_tokens=(256, 1024, 32768))))
    assert [group.nums_of_tokens for group in found] == [(256, 1024), (32768,)]
    whole, first_layers = (group.generation for group in found)
    assert (whole.num_layers, whole.parallel.pp_partition) == (32, [16, 16])
    assert (first_layers.num_layers, first_layers.parallel.pp_partition) == (4, [2, 2])
    assert [group.context.num_blocks for group in found] == [32, 1024]


def test_blocks_are_the_same_for_the_same_seed_and_no_two_alike() -> None:
    assert scattered(50, 1) == scattered(50, 1) != scattered(50, 2)
    assert sorted(scattered(50, 1)) == list(range(50))


def test_the_best_of_all_rounds_counts_on_both_sides() -> None:
    one = measured("tp1-tp1", copy_s=1.0, fetch_s=4.0)
    assert (one.gb_s, one.latency_ms, one.median_ms, one.first_ms) == (0.25, 4000, 80000, 7000)
    assert (one.ratio_to_memcpy, one.ratio_to_transport, one.ratio_to_descriptors) == (0.25, 0.25, 0.5)
    assert (one.cpu_ms, one.memcpy_cpu_ms, one.descriptors_cpu_ms) == (250, 125, 500)
    assert (one.layout, one.way, one.num_layers) == ("TP1->TP1", "nixl push", 32)


def test_the_same_layout_is_compared_by_what_both_are_of_a_copy() -> None:
    """Of one hour with a fast memory and another with a slow one."""
    same, other = compared(
        [measured("tp1-tp1", copy_s=1.0, fetch_s=4.0), measured("tp2-tp1", copy_s=2.0, fetch_s=10.0)]
    )
    assert same.ratio_to_same_layout == 1
    assert other.ratio_to_same_layout == pytest.approx(0.8)
    (alone,) = compared([measured("tp2-tp1", copy_s=2.0, fetch_s=10.0)])
    assert alone.ratio_to_same_layout is None


def test_a_move_lasts_from_the_first_rank_that_begins_to_the_last_one_that_ends() -> None:
    times = [(1.0, 3.0), (2.0, 5.0), (1.5, 2.0)]
    assert span_s(Timed(begun=b, ended=e, cpu_s=0, num_bytes=0, num_descriptors=0) for b, e in times) == 4.0


def test_all_pairs_that_are_measured_by_default_can_be() -> None:
    for name, shape in SHAPES.items():
        for pair in shape.pairs:
            parse_pair(pair, name)


@pytest.mark.parametrize("words", ["tp2", "tp1-", "tp5-tp1", "tp0-tp1", "-", "pp2tp2-tp1", "tp1-tp1-tp1"])
def test_what_is_not_a_pair(words: str) -> None:
    with pytest.raises(ValueError, match="is not a pair of layouts"):
        parse_pair(words, "llama-8b")
