"""What Slurm has given: the nodes of a step, and which task of it this process is, read from the environment.

Of GPUs a task's environment tells only what its own node has, but for jobs that asked for `--gpus-per-node`: how many
the others have, only their agents know.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.slurm.nodelist import node_names, repeated_numbers

_NOT_IN_A_STEP = (
    "this is no task of a Slurm step (there is no SLURM_STEP_ID), so there are no nodes to run on; start it as "
    "`srun --ntasks-per-node=1 trtdisagg ...`, in a batch script, too"
)


class GivenNode(msgspec.Struct, kw_only=True, frozen=True):
    """One node of a step, as Slurm's environment tells it on each of its nodes alike."""

    name: str
    num_gpus: int | None = None
    """None: only the node itself knows."""
    num_tasks: int = 1
    """Of this step."""


class Allocation(msgspec.Struct, kw_only=True, frozen=True):
    """A step's nodes, the same on each of them, and this task's place among them."""

    job_id: str
    step_id: str
    nodes: list[GivenNode]
    """In Slurm's order; of a heterogeneous job those of all its groups, one after the other."""
    node: str
    """This task's."""
    proc_id: int
    local_id: int
    """Of this task on its node; the lowest one's is the node's agent."""
    num_tasks: int

    @property
    def num_waiting(self) -> int:
        """Tasks of this node that are not its agent."""
        return next(node.num_tasks for node in self.nodes if node.name == self.node) - 1

    @property
    def is_agent(self) -> bool:
        """Whether this task is its node's agent; the others wait for its end."""
        return self.local_id == 0

    @property
    def is_head(self) -> bool:
        """Whether this is the agent that runs the proxy."""
        return self.is_agent and self.node == self.nodes[0].name

    @property
    def run(self) -> str:
        """A name of this step that no other step of this Slurm has, now or later."""
        return f"{self.job_id}.{self.step_id}"


def is_step(env: Mapping[str, str]) -> bool:
    """Whether this process is a task of a step that `srun` started; a batch script is none."""
    return "SLURM_STEP_ID" in env and "SLURM_STEP_NODELIST" in env


def num_tasks(env: Mapping[str, str]) -> int:
    """Tasks of the step that this process is one of; 1: there is none but this."""
    return _number(env, "SLURM_STEP_NUM_TASKS") if is_step(env) else 1


def gpu_notice(env: Mapping[str, str]) -> str | None:
    """What to tell people when a node's agent sees fewer GPUs than its node has for the step; None: nothing.

    The numbers in both variables may be those of different lists; how many they are is not.
    """
    on_node, visible = env.get("SLURM_GPUS_ON_NODE", ""), env.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not on_node.isdecimal():
        return None
    num_visible = len([entry for entry in visible.split(",") if entry])
    if num_visible >= int(on_node):
        return None
    return (
        f"this step has {on_node} GPUs here, and its first task sees {num_visible}: servers get no others. Ask for "
        "them with --gpus-per-node or --gres, which are for all tasks of a node, not with --gpus-per-task"
    )


def read_allocation(env: Mapping[str, str]) -> Allocation:
    """
    :raises StartupError: this is no task of a step.
    :raises ConfigError: a variable does not hold what Slurm writes there.
    """
    if not is_step(env):
        raise StartupError(_NOT_IN_A_STEP)
    names = node_names(env["SLURM_STEP_NODELIST"])
    tasks = repeated_numbers(_text(env, "SLURM_STEP_TASKS_PER_NODE"), "SLURM_STEP_TASKS_PER_NODE")
    if len(tasks) != len(names):
        raise ConfigError(
            f"SLURM_STEP_TASKS_PER_NODE={env['SLURM_STEP_TASKS_PER_NODE']} is about {len(tasks)} nodes, "
            f"SLURM_STEP_NODELIST={env['SLURM_STEP_NODELIST']} about {len(names)}"
        )
    index = _number(env, "SLURM_NODEID")
    if index >= len(names):
        raise ConfigError(f"SLURM_NODEID={index}: the step has {len(names)} nodes")
    num_gpus = _gpus_per_node(env)
    return Allocation(
        job_id=_text(env, "SLURM_JOB_ID"),
        step_id=env["SLURM_STEP_ID"],
        nodes=[
            GivenNode(name=name, num_gpus=num_gpus, num_tasks=number) for name, number in zip(names, tasks, strict=True)
        ],
        node=names[index],
        proc_id=_number(env, "SLURM_PROCID"),
        local_id=_number(env, "SLURM_LOCALID"),
        num_tasks=_number(env, "SLURM_STEP_NUM_TASKS"),
    )


# --- variables ------------------------------------------------------------------------------------------------------


def _gpus_per_node(env: Mapping[str, str]) -> int | None:
    """`8`, `h200:8` or `a100:4,h200:4`, of each node of the job; None: it is not said.

    With `--gpus-per-task` a task sees fewer than that, and of a heterogeneous job it is said of one part only.
    """
    if "SLURM_GPUS_PER_NODE" not in env or env.keys() & {"SLURM_GPUS_PER_TASK", "SLURM_HET_SIZE"}:
        return None
    text = env["SLURM_GPUS_PER_NODE"]
    try:
        return sum(int(part.rpartition(":")[2]) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"SLURM_GPUS_PER_NODE={text} is nothing like 8 or h200:8") from None


def _text(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise ConfigError(f"{name} is not set, though SLURM_STEP_ID is: is the environment complete?")
    return env[name]


def _number(env: Mapping[str, str], name: str) -> int:
    text = _text(env, name)
    if not text.isdecimal():
        raise ConfigError(f"{name}={text} is no number")
    return int(text)
