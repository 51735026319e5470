"""What people should know of the plan of a cluster beside what is in it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trtdisagg.config.schema import ClusterFile
from trtdisagg.net import is_loopback
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.slots import Slot


def proxy_notices(cluster: ClusterFile, everything: Sequence[Slot], nodes: Sequence[Node]) -> Iterator[str]:
    """
    :param everything: the servers that the proxy routes to.
    :param nodes: the first is the proxy's; empty: all is on this host.
    """
    if mixed := [slot.name for slot in everything if slot.role == "both"]:
        words = "computes prompts and generates" if len(mixed) == 1 else "compute prompts and generate"
        yield f"{', '.join(mixed)} {words}, and long prompts hold answers up: separate sets of servers are better"
    if nodes and is_loopback(cluster.hostname):
        yield f"hostname: {cluster.hostname}: only {nodes[0].name} reaches the proxy; 0.0.0.0 lets others in"
    rules = cluster.supervision
    if nodes and rules.node_timeout_s > rules.stall_timeout_s:
        yield (
            f"supervision.node_timeout_s: {rules.node_timeout_s:g} s is longer than stall_timeout_s, "
            f"{rules.stall_timeout_s:g} s: servers of a node that is away are to be killed before it counts as lost"
        )
