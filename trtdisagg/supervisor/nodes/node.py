"""A node, as the head knows it."""

from __future__ import annotations

import msgspec

from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.room import ANY_NUMBER, Capacity


class Node(msgspec.Struct, kw_only=True, frozen=True):
    """One node of a cluster, or one task of a command that runs on several."""

    name: str
    """As Slurm names it: `node01`; of a task of a wrapped command `node01:2`."""
    address: str
    """An IP address on which the other nodes reach its servers."""
    host: Host
    max_ranks: int = ANY_NUMBER
    """Of one task, 1."""
    is_here: bool = True
    """False: it is lost. What is there stays there, and nothing new comes."""

    @property
    def capacity(self) -> Capacity:
        return Capacity(name=self.name, num_gpus=len(self.host.gpus), max_ranks=self.max_ranks)
