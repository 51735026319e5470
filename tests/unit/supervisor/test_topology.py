from __future__ import annotations

import os
from pathlib import Path

from trtdisagg.supervisor.topology import numa_nodes


def machine(directory: Path, nodes: dict[str, str], siblings: dict[int, str]) -> Path:
    """A made-up /sys/devices/system."""
    for node, cores in nodes.items():
        (directory / "node" / node).mkdir(parents=True)
        (directory / "node" / node / "cpulist").write_text(f"{cores}\n")
    for core, threads in siblings.items():
        (directory / "cpu" / f"cpu{core}" / "topology").mkdir(parents=True)
        (directory / "cpu" / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(f"{threads}\n")
    return directory


def test_threads_of_one_core_stand_side_by_side(tmp_path: Path) -> None:
    siblings = {core: f"{core % 4},{core % 4 + 4}" for core in range(8)}
    system = machine(tmp_path, {"node0": "0-1,4-5", "node1": "2-3,6-7"}, siblings)
    assert numa_nodes(range(8), system) == [[0, 4, 1, 5], [2, 6, 3, 7]]
    assert numa_nodes([1, 5, 6], system) == [[1, 5], [6]]


def test_nodes_stand_in_order_and_those_without_cores_do_not_count(tmp_path: Path) -> None:
    system = machine(tmp_path, {"node10": "2", "node2": "0-1", "node3": ""}, {})
    assert numa_nodes(range(3), system) == [[0, 1], [2]]


def test_a_kernel_that_does_not_say(tmp_path: Path) -> None:
    assert numa_nodes(range(3), tmp_path) == []


def test_this_machine() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert sorted(core for node in numa_nodes(cores) for core in node) in ([], cores)
