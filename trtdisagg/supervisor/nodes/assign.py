"""Which node each rank of each server is on: from the servers of a file and the nodes there are. Pure.

    1. A server that runs stays where it is, as long as its `urls` do not say otherwise.
    2. A server whose `urls` name a node begins on that node.
    3. Every other, in the file's order, goes whole to the first node that has a GPU for each of its ranks.
    4. One with more ranks than any node has GPUs spans nodes that follow each other: as few as can be, and of these
       the first; its ranks fill one node after the other.
    5. A server on the CPU (no node has GPUs, or its section says `gpus: []`) goes to the node with the fewest ranks.
    6. GPUs that a section names are kept for it on each node where it has a server. Its servers may share them, and go
       where they do it least.

What does not fit is an error that says what is missing. The same comes out wherever it is asked: on each node, and
before there is any. Which GPU and which cores of its node a rank gets is `placement`'s, by what is really there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile
from trtdisagg.errors import ConfigError
from trtdisagg.net import is_loopback
from trtdisagg.supervisor.division import num_ranks
from trtdisagg.supervisor.nodes.room import Capacity, Room
from trtdisagg.supervisor.slots import LOOPBACK, Slot, slots

_MOST_NAMED = 8
"""Nodes that a message names; a list of hundreds helps nobody."""


def assign(
    servers: Sequence[Slot], nodes: Sequence[Capacity], held: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[str]]:
    """Find a node for each rank.

    :param servers: those that are ours to start, in the file's order.
    :param nodes: in Slurm's order.
    :param held: the nodes of servers that run; also one that is not there any more is kept.
    :returns: names of nodes in the order of the ranks, by server.
    :raises ConfigError: they do not fit.
    """
    on_cpu = not any(node.num_gpus for node in nodes)
    rooms = {node.name: Room(node, on_cpu=on_cpu) for node in nodes}
    homes = {slot.name: list(mine) for slot in servers if (mine := (held or {}).get(slot.name)) and _stays(slot, mine)}
    for slot in servers:
        if slot.name in homes:
            _take(slot, homes[slot.name], rooms)
    new = [slot for slot in servers if slot.name not in homes]
    # Who may choose less freely chooses first.
    for slot in sorted(new, key=lambda slot: is_loopback(slot.host)):
        homes[slot.name] = _home(slot, list(rooms.values()))
        _take(slot, homes[slot.name], rooms)
    return {slot.name: homes[slot.name] for slot in servers}


def is_here(slot: Slot, nodes: Sequence[Capacity]) -> bool:
    """Whether the `urls` of a server let it be on one of these nodes."""
    return is_loopback(slot.host) or any(node.is_called(slot.host) for node in nodes)


def nodes_needed(cluster: ClusterFile, gpus_per_node: int) -> int:
    """How many nodes of this size the servers of a file take, wherever its `urls` want them.

    :raises ConfigError: the file is wrong, or no number of such nodes is enough.
    """
    servers = [replace(slot, host=LOOPBACK) for slot in slots(cluster) if slot.model is not None]
    if gpus_per_node < 1:
        return 1
    node = Capacity(name="", num_gpus=gpus_per_node)
    num_own = sum(num_ranks(slot.section) for slot in servers if slot.section.gpus is None)
    fewest = max(1, -(-num_own // gpus_per_node))
    # A node for each that does not span any, and one to begin on for each that does.
    most = fewest + sum(-(-num_ranks(slot.section) // _most(slot, [node])) for slot in servers)
    for count in range(fewest, most):
        if _fits(servers, count, gpus_per_node):
            return count
    assign(servers, nodes_alike(most, gpus_per_node))  # says why not
    return most


def nodes_alike(count: int, gpus_per_node: int) -> list[Capacity]:
    """Nodes of a cluster that nobody has asked for yet."""
    width = len(str(count))
    return [Capacity(name=f"node{i:0{width}}", num_gpus=gpus_per_node) for i in range(1, count + 1)]


def _fits(servers: Sequence[Slot], count: int, gpus_per_node: int) -> bool:
    try:
        assign(servers, nodes_alike(count, gpus_per_node))
    except ConfigError:
        return False
    return True


# --- one server -----------------------------------------------------------------------------------------------------


def _stays(slot: Slot, home: Sequence[str]) -> bool:
    """Whether a server that runs may stay where it is."""
    fits = len(home) == num_ranks(slot.section)
    return fits and (is_loopback(slot.host) or Capacity(name=home[0]).is_called(slot.host))


def _take(slot: Slot, home: Sequence[str], rooms: Mapping[str, Room]) -> None:
    for name in dict.fromkeys(home):
        if name in rooms:
            rooms[name].take(slot, home.count(name))


def _home(slot: Slot, rooms: Sequence[Room]) -> list[str]:
    """The node of each rank of a server that comes.

    :raises ConfigError: it fits nowhere.
    """
    wanted = num_ranks(slot.section)
    allowed = [room for room in rooms if is_loopback(slot.host) or room.node.is_called(slot.host)]
    if whole := [room for room in allowed if room.fits(slot) >= wanted]:
        return [min(whole, key=lambda room: room.crowding(slot)).node.name] * wanted
    if wanted > _most(slot, [room.node for room in rooms]):
        spans = [span for room in allowed if (span := _span(slot, rooms[rooms.index(room) :]))]
        if spans:
            return min(spans, key=lambda span: len(set(span)))
    raise ConfigError(_missing(slot, allowed, rooms))


def _span(slot: Slot, rooms: Sequence[Room]) -> list[str]:
    """Nodes of the ranks of a server that begins on the first of these; empty: it does not fit so."""
    wanted = num_ranks(slot.section)
    span: list[str] = []
    for room in rooms:
        if not (count := room.fits(slot)):
            break
        span += [room.node.name] * min(count, wanted - len(span))
        if len(span) == wanted:
            return span
    return []


def _missing(slot: Slot, allowed: Sequence[Room], rooms: Sequence[Room]) -> str:
    """Why a server fits nowhere, and what it would take."""
    if not allowed:
        return f"{slot.name} is to begin on {slot.host} (by {slot.path}.urls), and that node is gone"
    wanted, what = num_ranks(slot.section), _counted(slot, rooms)
    left = [room.fits(slot) for room in allowed]
    if wanted > _most(slot, [room.node for room in rooms]):
        where, num_missing, instead = "side by side", wanted - _longest(left), ""
    else:
        where, num_missing, instead = "on one node", wanted - max(left), f", or a node with {wanted},"
    if len(allowed) < len(rooms):
        where, instead = f"on {slot.host} (by {slot.path}.urls)", ""
    is_one = num_missing == 1 and not instead
    return (
        f"{slot.name} needs {what} {where}, and there are left {_left_words(allowed, left)}: {num_missing} "
        f"more{instead} {'is' if is_one else 'are'} missing. Ask for more nodes, lower tensor_parallel_size or "
        "pipeline_parallel_size, or start fewer servers"
    )


def _counted(slot: Slot, rooms: Sequence[Room]) -> str:
    """`8 GPUs`"""
    wanted = num_ranks(slot.section)
    return f"{wanted} {'place' if rooms[0].is_on_cpu(slot) else 'GPU'}{'s' * (wanted > 1)}"


def _most(slot: Slot, nodes: Sequence[Capacity]) -> int:
    """Ranks of a server that any node could have, were it empty."""
    on_cpu = slot.section.gpus == [] or not any(node.num_gpus for node in nodes)
    return max(node.most_of(slot, on_cpu=on_cpu) for node in nodes)


def _longest(left: Sequence[int]) -> int:
    """The most that nodes which follow each other have together, none of them full."""
    most = run = 0
    for number in left:
        run = run + number if number else 0
        most = max(most, run)
    return most


def _left_words(rooms: Sequence[Room], left: Sequence[int]) -> str:
    """`4 on node02, 0 on node03`"""
    words = [f"{number} on {room.node.name}" for room, number in zip(rooms, left, strict=True)]
    if len(words) > _MOST_NAMED:
        words[_MOST_NAMED:] = [f"at most {max(left[_MOST_NAMED:])} on each of {len(words) - _MOST_NAMED} others"]
    return ", ".join(words)
