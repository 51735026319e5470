"""What Slurm has given: the nodes of an allocation, and which task of it this process is."""

from __future__ import annotations

import msgspec


class GivenNode(msgspec.Struct, kw_only=True, frozen=True):
    """One node of an allocation, as Slurm's environment tells it on each of its nodes alike."""

    name: str
    num_gpus: int = 0
    num_cores: int = 0
    """0: not said."""
    num_tasks: int = 1
    """Of this step."""
    het_group: int = 0


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
    def is_head(self) -> bool:
        """Whether this is the agent that runs the proxy."""
        return self.local_id == 0 and self.node == self.nodes[0].name
