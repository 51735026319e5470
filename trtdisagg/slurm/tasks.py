"""Each task of a step as a node of its own, with room for one rank: what `srun -n4 trtdisagg serve` runs on. Pure.

Tasks of one machine may see the same GPUs and cores, or with control groups each its own: then all of them call theirs
GPU 0. So what they see is compared by what it is, not by its number, and divided among those who see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from trtdisagg.errors import ConfigError
from trtdisagg.slurm.allocation import Allocation
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.node import Node

_T = TypeVar("_T")


def task_names(allocation: Allocation) -> list[str]:
    """`node01:0`, `node01:1`, ...: all tasks of a step, node by node."""
    return [f"{node.name}:{i}" for node in allocation.nodes for i in range(node.num_tasks)]


def machine_of(task: str) -> str:
    return task.rpartition(":")[0]


def check_number(num_ranks: int, tp_size: int, pp_size: int, num_tasks: int) -> None:
    """
    :raises ConfigError: there is not a task for each rank.
    """
    if num_ranks != num_tasks:
        raise ConfigError(
            f"srun runs {num_tasks} tasks, and tp_size {tp_size} times pp_size {pp_size} is {num_ranks}: each rank is "
            f"a task, so start {num_ranks} (`srun -n{num_ranks}`), or a server in each task with --no-srun"
        )


def apart(tasks: Sequence[Node]) -> list[Node]:
    """The tasks, each with one rank and with what is its own of what its machine has."""
    return [replace(task, max_ranks=1, host=_share(task, _mates(task, tasks))) for task in tasks]


def _mates(task: Node, tasks: Sequence[Node]) -> list[Node]:
    """The tasks on the same machine, itself among them."""
    return [other for other in tasks if machine_of(other.name) == machine_of(task.name)]


def _share(task: Node, mates: Sequence[Node]) -> Host:
    by_gpus = [other.name for other in mates if _uuids(other) == _uuids(task)]
    by_cores = [other.name for other in mates if other.host.cores == task.host.cores]
    cores = _part(task.host.cores, by_cores.index(task.name), len(by_cores))
    return replace(
        task.host,
        gpus=_part(task.host.gpus, by_gpus.index(task.name), len(by_gpus)),
        # With fewer cores than tasks they share them.
        cores=cores or task.host.cores,
        memory_bytes=task.host.memory_bytes // len(mates),
    )


def _uuids(task: Node) -> list[str]:
    return [gpu.uuid for gpu in task.host.gpus]


def _part(items: list[_T], i: int, number: int) -> list[_T]:
    """The i-th of equal parts."""
    return items[i * len(items) // number : (i + 1) * len(items) // number]
