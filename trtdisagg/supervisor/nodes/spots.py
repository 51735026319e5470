"""A spot for each server, on this host or on several nodes: on each the ranks assigned to it are placed. Pure.

    assign     server -> node of each rank
    placement  on each node: its ranks -> GPUs and cores of that node, by what its agent has told

A server that spans nodes is a claim on each of them, and its spot is put together from theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from trtdisagg.errors import TrtdisaggError
from trtdisagg.supervisor.claims import Claim, Spot
from trtdisagg.supervisor.division import num_ranks
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.assign import assign
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.placement import place
from trtdisagg.supervisor.slots import Slot


def find_spots(
    servers: Sequence[Slot], host: Host, nodes: Sequence[Node], held: Mapping[str, Spot]
) -> tuple[dict[str, Spot], list[str]]:
    """Find a spot for each server.

    :param host: this one.
    :param nodes: that servers are started on; empty: this host alone.
    :param held: the spots of servers that run, as for `place`.
    :returns: spots by server, and notices for people.
    :raises ConfigError: when they do not fit, or a section names a GPU or core that its node has not.
    :raises StartupError: when there are too few GPUs.
    """
    claims = [_claim(slot) for slot in servers]
    if not nodes:
        spots, notices = place(claims, host, held)
        return spots, [*host.notices, *notices]
    there = [node.capacity for node in nodes if node.is_here]
    homes = assign(servers, there, {name: spot.nodes for name, spot in held.items()})
    parts: dict[str, dict[str, Spot]] = {claim.server: {} for claim in claims}
    said_of_nodes: list[str] = []
    for node in nodes:
        mine = [replace(c, num_ranks=count) for c in claims if (count := homes[c.server].count(node.name))]
        found, said = _on_node(node, mine, held)
        said_of_nodes += [f"{node.name}: {line}" for line in [*node.host.notices, *said]]
        for name, spot in found.items():
            parts[name][node.name] = spot
    return {claim.server: _whole(homes[claim.server], parts[claim.server]) for claim in claims}, said_of_nodes


def _claim(slot: Slot) -> Claim:
    section = slot.section
    return Claim(
        server=slot.name,
        section=slot.path,
        num_ranks=num_ranks(section),
        cores=section.cores,
        gpus=section.gpus,
    )


def _on_node(node: Node, claims: Sequence[Claim], held: Mapping[str, Spot]) -> tuple[dict[str, Spot], list[str]]:
    mine = {name: _part(spot, node.name) for name, spot in held.items() if node.name in spot.nodes}
    try:
        return place(claims, node.host, mine)
    except TrtdisaggError as e:
        raise type(e)(f"{node.name}: {e.message}") from e


def _part(spot: Spot, node: str) -> Spot:
    """What a server has on one node."""
    ranks = [rank for rank, name in enumerate(spot.nodes) if name == node]
    return replace(
        spot,
        gpus=[spot.gpus[rank] for rank in ranks] if spot.gpus else [],
        rank_cores=[spot.rank_cores[rank] for rank in ranks],
        nodes=[],
    )


def _whole(home: list[str], parts: Mapping[str, Spot]) -> Spot:
    """
    :param home: the node of each rank.
    """
    gpus = {name: iter(part.gpus) for name, part in parts.items()}
    cores = {name: iter(part.rank_cores) for name, part in parts.items()}
    return Spot(
        gpus=[next(gpus[name]) for name in home] if any(part.gpus for part in parts.values()) else [],
        rank_cores=[next(cores[name]) for name in home],
        num_threads=min(part.num_threads for part in parts.values()),
        nodes=home,
    )
