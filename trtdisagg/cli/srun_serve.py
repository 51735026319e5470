"""`srun -n4 trtdisagg serve MODEL --tp_size 4`: each task is a rank of one server; the first of them leads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
from msgspec.structs import replace

from trtdisagg.cli.foreground import lines_of
from trtdisagg.cli.terminal import say
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.net import is_loopback
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.slurm.allocation import Allocation, read_allocation
from trtdisagg.slurm.srun import NodesOf, Party, digest_of, node_place, run_head, run_node
from trtdisagg.slurm.tasks import apart, check_number, machine_of, task_names
from trtdisagg.supervisor.nodes.rendezvous import default_directory
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.slots import bind_host

_OWN = "127.0.0.1"
"""Where tasks of one machine reach each other."""


def serve_in_step(
    cluster: ClusterFile,
    place: Place,
    plan_over: Callable[[NodesOf], Plan],
    *,
    host: str,
    rendezvous: Path | None,
    network: str | None,
) -> int:
    """Be this task's rank of the one server of a cluster file; in the first task, be its supervisor as well.

    :param plan_over: makes the plan of it.
    :param host: where clients find it, on the machine of the first task.
    :param rendezvous, network: as of `up --srun`.
    :returns: exit code of the command, the same for all tasks.
    :raises ConfigError: there is not a task for each rank.
    """
    allocation = read_allocation(os.environ)
    section = cluster.context_servers or cluster.generation_servers
    assert section is not None
    _check(section, allocation, host, has_secret=cluster.secret_file is not None)
    party = _party(cluster, allocation, rendezvous, network)
    if not party.is_head:
        say_here: Callable[[str], None] = functools.partial(_event, party)
        return anyio.run(run_node, party, node_place(party, allocation.run, "serve"), say_here)

    def told(plan: Plan) -> AbstractContextManager[Mapping[str, Any]]:
        say(*plan.notices)
        return lines_of(plan, place, on_ready=lambda _: None)

    def plan_over_tasks(nodes_of: NodesOf) -> Plan:
        return _with_clients_at(host, plan_over(lambda mine: apart(nodes_of(mine))))

    return anyio.run(functools.partial(run_head, party, place, plan_over_tasks, wish=None, told=told))


def _check(section: ServerSection, allocation: Allocation, host: str, *, has_secret: bool) -> None:
    tp_size, pp_size = section.tensor_parallel_size, section.pipeline_parallel_size
    check_number(tp_size * pp_size, tp_size, pp_size, allocation.num_tasks)
    if not (has_secret or is_loopback(host)):
        raise ConfigError(f"--host {host}: others can reach it, so clients have to know a secret: name a --secret_file")


def _party(cluster: ClusterFile, allocation: Allocation, rendezvous: Path | None, network: str | None) -> Party:
    names = task_names(allocation)
    on_one_machine = len(allocation.nodes) == 1
    return Party(
        names=names,
        here=f"{allocation.node}:{allocation.local_id}",
        hosts=[machine_of(name) for name in names],
        digest=digest_of(cluster, names),
        file="its command line",
        directory=rendezvous or default_directory(allocation.job_id, allocation.step_id),
        network=network or (f"{_OWN}/32" if on_one_machine else None),
        secret_file=cluster.secret_file,
        node_timeout_s=cluster.supervision.node_timeout_s,
    )


def _event(party: Party, text: str) -> None:
    say(*(f"{party.here}: {line}" for line in text.splitlines()))


def _with_clients_at(host: str, plan: Plan) -> Plan:
    """Its ranks are at the addresses of their tasks, which only they know the secret of."""

    def moved(spec: EngineSpec) -> EngineSpec:
        return replace(spec, client_host=bind_host(host), clients_know_secret=not is_loopback(host))

    servers = [replace(s, spec=moved(s.spec)) for s in plan.servers if isinstance(s.spec, EngineSpec)]
    return replace(plan, servers=servers)
