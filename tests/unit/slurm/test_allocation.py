"""Environments that a real Slurm (22.05) has given its tasks, and what is read from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.slurm.allocation import Allocation, gpu_notice, is_step, num_tasks, read_allocation

RECORDED: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "environments.json").read_text())


def read(case: str, **changes: str) -> Allocation:
    return read_allocation({**RECORDED[case], **changes})


def names(allocation: Allocation) -> list[str]:
    return [node.name for node in allocation.nodes]


def test_a_task_on_each_of_three_nodes() -> None:
    mine = read("three nodes")
    assert names(mine) == ["node01", "node02", "node03"]
    assert (mine.node, mine.proc_id, mine.local_id, mine.num_tasks) == ("node02", 1, 0, 3)
    assert mine.run == "1.0"
    assert mine.is_agent
    assert not mine.is_head


def test_the_lowest_task_of_a_node_is_its_agent() -> None:
    mine = read("tasks side by side")
    assert (mine.node, mine.proc_id, mine.local_id, mine.num_tasks) == ("node02", 5, 1, 8)
    assert [node.num_tasks for node in mine.nodes] == [4, 4]
    assert not mine.is_agent
    first = read("tasks side by side", SLURM_NODEID="0", SLURM_PROCID="0", SLURM_LOCALID="0")
    assert first.is_agent
    assert first.is_head


def test_nodes_may_have_unequal_numbers_of_tasks() -> None:
    mine = read("uneven tasks")
    assert [(node.name, node.num_tasks) for node in mine.nodes] == [("node01", 2), ("node02", 1)]
    assert mine.proc_id == 2


@pytest.mark.parametrize("case", ["three nodes", "uneven GPUs", "a GPU a task", "no GPUs", "heterogeneous job"])
def test_how_many_gpus_other_nodes_have_is_not_in_the_environment(case: str) -> None:
    assert {node.num_gpus for node in read(case).nodes} == {None}


@pytest.mark.parametrize(("text", "number"), [("8", 8), ("h200:8", 8), ("a100:2,h200:4", 6)])
def test_but_for_jobs_that_asked_for_some_on_each_node(text: str, number: int) -> None:
    assert {node.num_gpus for node in read("three nodes", SLURM_GPUS_PER_NODE=text).nodes} == {number}


def test_a_step_on_some_nodes_of_a_job() -> None:
    mine = read("one node of two")
    assert names(mine) == ["node01"]
    assert mine.num_tasks == 1
    assert names(read("step of a batch script")) == ["node01", "node02"]


@pytest.mark.parametrize(
    ("case", "nodes"),
    [
        ("srun of two parts", ["node01", "node02", "node03"]),
        ("heterogeneous job", ["node01", "node02", "node03"]),
        ("one part of it", ["node02", "node03"]),
    ],
)
def test_heterogeneous_jobs(case: str, nodes: list[str]) -> None:
    mine = read(case, SLURM_GPUS_PER_NODE="8")
    assert names(mine) == nodes
    assert mine.node == "node03"
    assert {node.num_gpus for node in mine.nodes} == {None}, "what is said is one part's"


def test_the_head_is_on_the_first_node_of_the_step() -> None:
    env = RECORDED["one part of it"]
    assert read_allocation({**env, "SLURM_NODEID": "0", "SLURM_PROCID": "0"}).is_head


def test_a_batch_script_is_no_step() -> None:
    assert not is_step(RECORDED["batch script"])
    with pytest.raises(StartupError, match=r"no SLURM_STEP_ID.*srun"):
        read("batch script")
    with pytest.raises(StartupError):
        read_allocation({})


@pytest.mark.parametrize(("case", "number"), [("three nodes", 3), ("a GPU a task", 4), ("batch script", 1)])
def test_number_of_tasks(case: str, number: int) -> None:
    assert num_tasks(RECORDED[case]) == number


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID=x is no number"),
        ({"SLURM_LOCALID": ""}, "SLURM_LOCALID is not set"),
        ({"SLURM_NODEID": "3"}, "SLURM_NODEID=3: the step has 3 nodes"),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, "is about 2 nodes"),
        ({"SLURM_GPUS_PER_NODE": "many"}, "SLURM_GPUS_PER_NODE=many"),
        ({"SLURM_STEP_NODELIST": "node[01-"}, "is no list of nodes"),
    ],
)
def test_a_variable_that_is_wrong_is_named(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read("three nodes", **changes)


def test_gpus_that_an_agent_does_not_see_are_told() -> None:
    """It is the node's first task that pins all ranks."""
    assert "has 4 GPUs here, and its first task sees 1" in (gpu_notice(RECORDED["a GPU a task"]) or "")
    assert [case for case in RECORDED if gpu_notice(RECORDED[case])] == ["a GPU a task"]
