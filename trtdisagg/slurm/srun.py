"""`up --srun`: what one agent of a step does, until the cluster is down.

    head       listens -> says where (rendezvous) -> all nodes have come -> plans over them -> runs the cluster
    others     carry out what the head says

Which task is an agent is known before (`allocation`), and what others do meanwhile is `waiting`'s.
"""

from __future__ import annotations

import hashlib
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile
from trtdisagg.errors import StartupError, TrtdisaggError
from trtdisagg.slurm.allocation import GivenNode
from trtdisagg.supervisor.doctor.look import raise_open_files
from trtdisagg.supervisor.host import Host, discover
from trtdisagg.supervisor.nodes.address import own_address
from trtdisagg.supervisor.nodes.agent import run_node_agent
from trtdisagg.supervisor.nodes.assign import assign, is_here
from trtdisagg.supervisor.nodes.head_link import Membership
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.nodes.rendezvous import Rendezvous
from trtdisagg.supervisor.nodes.room import Capacity
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.run import run_agent
from trtdisagg.supervisor.slots import slots
from trtdisagg.supervisor.wish import Wish

GATHER_TIMEOUT_S = 120.0
"""For the agents of all nodes to be there: Slurm starts them together, but file systems are slow at times."""


NodesOf = Callable[[Host], Sequence[Node]]
"""The nodes of a cluster, by what was found of this one, which is the first."""


class Party(msgspec.Struct, kw_only=True, frozen=True):
    """The agents of a run, as each of them sees it."""

    names: list[str]
    """The head's is the first."""
    here: str
    hosts: list[str]
    """What the machines of the same are called."""
    digest: str
    """Of what all have to agree on."""
    file: str
    """Where they have it from, for messages."""
    directory: Path
    """Where the head says where it is; all see it."""
    network: str | None
    """An interface or a network that the agents reach each other by; None: by their names."""
    secret_file: str | None
    """None: the head makes a secret."""
    node_timeout_s: float

    @property
    def is_head(self) -> bool:
        return self.here == self.names[0]

    @property
    def secret(self) -> bytes | None:
        """
        :raises StartupError: its file cannot be read, or nothing is in it.
        """
        if self.secret_file is None:
            return None
        try:
            secret = Path(self.secret_file).expanduser().read_bytes().strip()
        except OSError as e:
            raise StartupError(f"The secret_file {self.secret_file} cannot be read: {e.strerror}") from e
        if not secret:
            raise StartupError(f"The secret_file {self.secret_file} is empty")
        return secret

    @property
    def address(self) -> str:
        """This agent's, for the others.

        :raises ConfigError, StartupError: see `own_address`.
        """
        mine = self.hosts[self.names.index(self.here)]
        return own_address(mine, [host for host in self.hosts if host != mine], self.network)


def digest_of(*values: object) -> str:
    """The same on each node where they mean the same."""
    return hashlib.blake2b(msgspec.json.encode(values, order="sorted"), digest_size=8).hexdigest()


def homes_by_slurm(cluster: ClusterFile, nodes: Sequence[GivenNode]) -> Mapping[str, list[str]] | None:
    """The node of each rank, where Slurm tells each node what all have; None: only the head will know.

    :raises ConfigError: the file does not fit.
    """
    there = [Capacity(name=node.name, num_gpus=node.num_gpus) for node in nodes if node.num_gpus is not None]
    if len(there) < len(nodes):
        return None
    return assign([slot for slot in slots(cluster) if slot.model is not None and is_here(slot, there)], there)


# --- the head -------------------------------------------------------------------------------------------------------


async def run_head(
    party: Party,
    place: Place,
    plan_over: Callable[[NodesOf], Plan],
    *,
    wish: Wish | None,
    told: Callable[[Plan], AbstractContextManager[Mapping[str, Any]]],
) -> int:
    """Take the other agents in, and run the cluster over all nodes. To be called in the main thread.

    :param plan_over: makes the plan of it; may block.
    :param told: called with the plan before anything starts; gives whom `run_agent` tells what happens.
    :returns: exit code of the command, which is that of all agents.
    :raises TrtdisaggError: as `run_agent`, and where nodes do not come or the servers do not fit on them.
    """
    secret = party.secret or secrets.token_hex(32).encode()
    links = NodeLinks(
        party.here,
        party.names,
        address=party.address,
        secret=secret,
        digest=party.digest,
        file=party.file,
        timeout_s=party.node_timeout_s,
    )
    told_secret = None if party.secret_file else secret.hex()
    async with links:
        await links.announce(party.directory, Rendezvous(host=links.address, port=links.port, secret=told_secret))
        if (stopped := await _gather(links)) is not None:
            links.exit_code = 128 + stopped
            return links.exit_code
        plan = await anyio.to_thread.run_sync(plan_over, links.all_nodes)
        with told(plan) as callbacks:
            return await run_agent(plan, place, wish=wish, nodes=links, **callbacks)


async def _gather(links: NodeLinks) -> signal.Signals | None:
    """Wait until all nodes have come.

    :returns: the signal that has ended that; None: they are there.
    :raises StartupError: one does not come.
    """
    stopped: signal.Signals | None = None
    error: TrtdisaggError | None = None

    async def gather() -> None:
        nonlocal error
        try:
            await links.gather(GATHER_TIMEOUT_S)
        except TrtdisaggError as e:
            error = e
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            tasks.start_soon(gather)
            async for number in signals:
                stopped = number
                tasks.cancel_scope.cancel()
    if error is not None:
        raise error
    return stopped


def servers_on(plan: Plan, node: str) -> Plan:
    """The part of a plan that one node has to carry by itself."""
    mine = [replace(server, nodes=[]) for server in plan.servers if set(server.nodes) == {node}]
    return replace(plan, servers=mine)


# --- the others -----------------------------------------------------------------------------------------------------


async def run_node(party: Party, place: Place, on_event: Callable[[str], None]) -> int:
    """Carry out what the head says. To be called in the main thread.

    :returns: exit code of the command.
    :raises StartupError: the head is not found, or does not let this node in.
    """
    raise_open_files()
    membership = Membership(
        node=party.here,
        host=discover(),
        digest=party.digest,
        file=party.file,
        directory=party.directory,
        secret=party.secret,
        address=party.address if party.network else None,
        timeout_s=GATHER_TIMEOUT_S,
    )
    return await run_node_agent(membership, place, on_event=on_event)


def node_place(party: Party, run: str, name: str) -> Place:
    """Where a node agent has its sockets and spec files."""
    return Place.of(f"{run} {party.here}", f"{name}-{party.here}")
