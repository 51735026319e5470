"""Random servers on random nodes: no GPU twice, every rank on a node, the same every time; and the rules by example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from helpers.plans import cluster_file
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.supervisor.nodes.assign import assign, is_here, nodes_alike, nodes_needed
from trtdisagg.supervisor.nodes.room import Capacity
from trtdisagg.supervisor.slots import slots

Homes = dict[str, list[str]]


def nodes(*gpus: int, **more: Any) -> list[Capacity]:
    return [Capacity(name=f"node{i:02}", num_gpus=number, **more) for i, number in enumerate(gpus, 1)]


def section(number: int = 1, tp: int = 1, **keys: Any) -> ServerSection:
    return ServerSection(num_instances=number, tensor_parallel_size=tp, **keys)


def file(context: ServerSection, generation: ServerSection) -> ClusterFile:
    return cluster_file(context_servers=context, generation_servers=generation)


def homes(cluster: ClusterFile, there: Sequence[Capacity], held: Homes | None = None) -> Homes:
    return assign(list(slots(cluster)), there, held)


# --- any servers on any nodes ---------------------------------------------------------------------------------------

SECTIONS = st.builds(section, st.integers(1, 4), st.sampled_from([1, 2, 4, 8, 16]))


@given(SECTIONS, SECTIONS, st.lists(st.integers(0, 8), min_size=1, max_size=6))
def test_no_gpu_twice_and_all_ranks_placed_or_an_error(
    context: ServerSection, generation: ServerSection, gpus: list[int]
) -> None:
    cluster, there = file(context, generation), nodes(*gpus)
    try:
        found = homes(cluster, there)
    except ConfigError:
        return
    assert found == homes(cluster, there)
    for slot in slots(cluster):
        assert len(found[slot.name]) == slot.section.tensor_parallel_size
        numbers = [[node.name for node in there].index(name) for name in found[slot.name]]
        assert numbers == sorted(numbers)
        spanned = sorted(set(numbers))
        assert spanned == list(range(spanned[0], spanned[-1] + 1))
        assert len(spanned) == 1 or len(numbers) > max(gpus)
    if any(gpus):
        used = Counter(name for home in found.values() for name in home)
        assert all(used[node.name] <= node.num_gpus for node in there)


@given(SECTIONS, SECTIONS, st.integers(1, 8))
def test_as_many_nodes_as_are_needed_are_enough_and_one_less_is_not(
    context: ServerSection, generation: ServerSection, gpus_per_node: int
) -> None:
    cluster = file(context, generation)
    number = nodes_needed(cluster, gpus_per_node)
    homes(cluster, nodes_alike(number, gpus_per_node))
    if number > 1:
        with pytest.raises(ConfigError):
            homes(cluster, nodes_alike(number - 1, gpus_per_node))


@given(SECTIONS, SECTIONS, st.integers(1, 4))
def test_who_runs_stays_whoever_comes(context: ServerSection, generation: ServerSection, more: int) -> None:
    """What is added goes where it would disturb nobody; a node that is lost is no reason to move."""
    there = nodes(*[16] * 16)
    before = homes(file(context, generation), there)
    larger = file(section(context.num_instances + more, context.tensor_parallel_size), generation)
    lost = there[1:]
    for now in (there, lost):
        after = homes(larger, now, before)
        assert {name: after[name] for name in before} == before
        new = [name for name in after if name not in before]
        assert all(home in {node.name for node in now} for name in new for home in after[name])


# --- the rules ------------------------------------------------------------------------------------------------------


def test_whole_servers_in_the_order_of_the_file() -> None:
    assert homes(file(section(3, 2), section(1, 8)), nodes(8, 8)) == {
        "context-0": ["node01"] * 2,
        "context-1": ["node01"] * 2,
        "context-2": ["node01"] * 2,
        "generation-0": ["node02"] * 8,
    }


def test_a_gap_that_is_too_small_is_left_to_a_smaller_server() -> None:
    found = homes(file(section(2, 6), section(1, 2)), nodes(8, 8))
    assert [home[0] for home in found.values()] == ["node01", "node02", "node01"]


def test_a_server_larger_than_any_node_spans_whole_ones() -> None:
    found = homes(file(section(1, 4), section(1, 16)), nodes(8, 8, 8))
    assert found["context-0"] == ["node01"] * 4
    assert found["generation-0"] == ["node02"] * 8 + ["node03"] * 8


def test_it_takes_the_rest_of_a_node_where_there_are_too_few_whole_ones() -> None:
    found = homes(file(section(1, 4), section(1, 12)), nodes(8, 8))
    assert found["generation-0"] == ["node01"] * 4 + ["node02"] * 8


def test_uneven_nodes() -> None:
    found = homes(file(section(2, 4), section(1, 2)), nodes(4, 2, 4))
    assert [home[0] for home in found.values()] == ["node01", "node03", "node02"]


def test_servers_with_urls_are_on_the_nodes_that_they_name() -> None:
    cluster = file(
        section(2, 4, urls=["node03:8001", "node01.cluster:8001"]),
        section(1, 8),
    )
    found = homes(cluster, nodes(8, 8, 8))
    assert {name: home[0] for name, home in found.items()} == {
        "context-0": "node03",
        "context-1": "node01",
        "generation-0": "node02",
    }


def test_a_server_over_several_nodes_begins_on_the_one_it_names() -> None:
    found = homes(file(section(1, 16, urls=["node02:8001"]), section(1, 8)), nodes(8, 8, 8))
    assert found["context-0"] == ["node02"] * 8 + ["node03"] * 8
    assert found["generation-0"] == ["node01"] * 8


def test_on_the_cpu_each_goes_where_there_are_the_fewest_ranks() -> None:
    found = homes(file(section(2, 2), section(3)), nodes(0, 0, 0))
    assert [home[0] for home in found.values()] == ["node01", "node02", "node03", "node03", "node01"]


def test_a_section_without_gpus_beside_those_with() -> None:
    found = homes(file(section(2, 1, gpus=[]), section(1, 8)), nodes(8, 8))
    assert found == {"context-0": ["node01"], "context-1": ["node02"], "generation-0": ["node01"] * 8}


def test_gpus_that_a_section_names_are_kept_for_it_on_each_node_that_has_it() -> None:
    found = homes(file(section(2, 2, gpus=[0, 1]), section(3, 6)), nodes(8, 8, 8))
    assert [home[0] for home in found.values()] == ["node01", "node02", "node01", "node02", "node03"]


def test_servers_share_named_gpus_where_it_must_be() -> None:
    found = homes(file(section(3, 1, gpus=[0]), section(1, 7)), nodes(8, 8))
    assert [home[0] for home in found.values()] == ["node01", "node02", "node01", "node01"]


def test_a_node_that_is_one_task_has_one_rank() -> None:
    """As the tasks of `srun -n4 trtdisagg serve`: the ranks of one server, on the CPU, too."""
    tasks = nodes(0, 0, 0, 0, max_ranks=1)
    cluster = cluster_file(context_servers=section(1, 4), generation_servers=None)
    assert homes(cluster, tasks) == {"context-0": ["node01", "node02", "node03", "node04"]}


def test_a_server_that_may_not_stay_moves() -> None:
    held = {"context-0": ["node01"], "generation-0": ["node02"]}
    assert homes(file(section(1), section(1)), nodes(8, 8), held) == held
    moved = homes(file(section(1, urls=["node02:1"]), section(1, 2)), nodes(8, 8), held)
    assert moved == {"context-0": ["node02"], "generation-0": ["node01"] * 2}


# --- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "there", "words"),
    [
        (
            file(section(1, 4), section(3, 8)),
            nodes(8, 8, 8),
            "generation-2 needs 8 GPUs on one node, and there are left 4 on node01, 0 on node02, 0 on node03: "
            "4 more, or a node with 8, are missing. Ask for more nodes",
        ),
        (
            file(section(1, 8), section(1, 16)),
            nodes(8, 8),
            "generation-0 needs 16 GPUs side by side, and there are left 0 on node01, 8 on node02: 8 more are missing.",
        ),
        (
            file(section(1, 8, urls=["node01:1"]), section(1, 1, urls=["node01:2"])),
            nodes(8, 8),
            "generation-0 needs 1 GPU on node01 (by generation_servers.urls), and there are left 0 on node01: 1 more "
            "is missing.",
        ),
        (
            cluster_file(context_servers=section(1, 3), generation_servers=None),
            nodes(0, 0, max_ranks=1),
            "context-0 needs 3 places side by side, and there are left 1 on node01, 1 on node02: 1 more is missing.",
        ),
        (
            file(section(12, 8), section(1, 8)),
            nodes(*[8] * 12),
            "0 on node08, at most 0 on each of 4 others: 8 more",
        ),
    ],
)
def test_an_error_says_what_is_missing(cluster: ClusterFile, there: list[Capacity], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        homes(cluster, there)
    assert words in caught.value.message


def test_nodes_needed() -> None:
    assert nodes_needed(file(section(2, 4), section(1, 8)), 8) == 2
    assert nodes_needed(file(section(1, 4), section(1, 16)), 8) == 3
    assert nodes_needed(file(section(1, 4), section(1, 12)), 8) == 2
    assert nodes_needed(file(section(100, 8), section(100, 8)), 8) == 200
    assert nodes_needed(file(section(2), section(1)), 0) == 1
    assert nodes_needed(file(section(2, gpus=[0]), section(2, gpus=[0, 1])), 8) == 1
    assert nodes_needed(file(section(1, 4, gpus=[0, 1]), section(1)), 8) == 2


def test_which_hosts_are_nodes() -> None:
    there = nodes(8, 8)
    cluster = file(section(2, urls=["node02.cluster:1", "elsewhere:1"]), section(1))
    assert [is_here(slot, there) for slot in slots(cluster)] == [True, False, True]
    assert not Capacity(name="node01.here").is_called("node01.there")
