"""A node, as the head knows it."""

from __future__ import annotations

import msgspec

from trtdisagg.supervisor.host import Host


class Node(msgspec.Struct, kw_only=True, frozen=True):
    """One node of a cluster, or one task of a command that runs on several."""

    name: str
    """As Slurm names it: `node01`; of a task of a wrapped command `node01:2`."""
    address: str
    """An IP address on which the other nodes reach its servers."""
    host: Host
