"""Tasks as nodes with one rank each: what several of one machine see is divided among them."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.plans import GIB, cluster_file, host, made_up_gpu, plan_of
from msgspec.structs import replace

from tests.unit.slurm.test_allocation import read
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.slurm.tasks import apart, check_number, task_names
from trtdisagg.supervisor.nodes.node import Node


def tasks(*names: str, **machine: Any) -> list[Node]:
    return [Node(name=name, address="10.0.0.1", host=host(**machine)) for name in names]


def gpus(nodes: list[Node]) -> list[list[str]]:
    return [[gpu.id for gpu in node.host.gpus] for node in nodes]


def test_all_tasks_of_a_step_node_by_node() -> None:
    assert task_names(read("uneven tasks")) == ["node01:0", "node01:1", "node02:0"]


def test_what_all_tasks_of_a_machine_see_is_divided() -> None:
    found = apart(tasks("a:0", "a:1", "b:0", num_cores=8, num_gpus=4))
    assert gpus(found) == [["0", "1"], ["2", "3"], ["0", "1", "2", "3"]]
    assert [node.host.cores for node in found] == [[0, 1, 2, 3], [4, 5, 6, 7], list(range(8))]
    assert [node.host.memory_bytes for node in found] == [8 * GIB, 8 * GIB, 16 * GIB]
    assert [node.max_ranks for node in found] == [1, 1, 1]


def test_with_control_groups_each_has_its_own_gpu_0() -> None:
    """Numbers say nothing then: they are different cards."""
    seen = tasks("a:0", "a:1")
    own = [replace(n, host=host(gpus=[made_up_gpu(0, uuid=f"GPU-{n.name}")])) for n in seen]
    assert gpus(apart(own)) == [["0"], ["0"]]


def test_fewer_cores_than_tasks_are_shared() -> None:
    found = apart(tasks("a:0", "a:1", "a:2", num_cores=2))
    assert all(node.host.cores for node in found)


def test_each_rank_is_a_task_and_each_task_has_a_gpu_of_its_own() -> None:
    nodes = apart(tasks("a:0", "a:1", "b:0", "b:1", num_gpus=2))
    cluster = cluster_file(context_servers=ServerSection(tensor_parallel_size=4), generation_servers=None)
    [server] = plan_of(cluster, nodes=nodes, with_proxy=False).servers
    assert server.memories == [("a:0", "0"), ("a:1", "1"), ("b:0", "0"), ("b:1", "1")]


def test_there_is_a_task_for_each_rank() -> None:
    check_number(4, 2, 2, 4)
    with pytest.raises(ConfigError, match="srun runs 3 tasks, and tp_size 2 times pp_size 2 is 4: each rank is a task"):
        check_number(4, 2, 2, 3)
