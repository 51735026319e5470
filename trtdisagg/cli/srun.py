"""`trtdisagg up --srun`: this task's part of a cluster that a Slurm step runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
from msgspec.structs import replace

from trtdisagg.cli.foreground import lines_of, run_with_lines
from trtdisagg.cli.terminal import say
from trtdisagg.config.load import Loaded
from trtdisagg.slurm.allocation import Allocation, gpu_notice, read_allocation
from trtdisagg.slurm.srun import NodesOf, Party, digest_of, homes_by_slurm, node_place, run_head, run_node, servers_on
from trtdisagg.slurm.waiting import agent_of, wait_for_agent
from trtdisagg.supervisor.doctor import before_start
from trtdisagg.supervisor.nodes.rendezvous import default_directory
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.run_files import RunFiles
from trtdisagg.supervisor.survey import survey
from trtdisagg.supervisor.wish import Wish


def up_in_step(
    wish: Wish, run_dir: Path | None, rendezvous: Path | None, network: str | None, rejoin: str | None
) -> int:
    """Be the agent of this task's node, or wait for it.

    :param run_dir: the folder of the run; see `RunFiles`.
    :param rendezvous: a directory that all nodes see; None: one under the user's state directory.
    :param network: by which the nodes reach each other; see `own_address`.
    :param rejoin: another step of this job, whose cluster runs and lacks this node's agent.
    :returns: exit code of the command, the same for all tasks of all nodes.
    :raises StartupError: this is no task of a step.
    """
    allocation = read_allocation(os.environ)
    if rejoin is not None:
        allocation = replace(allocation, step_id=rejoin)
    homes = homes_by_slurm(wish.loaded.cluster, allocation.nodes)
    if not allocation.is_agent:
        return wait_for_agent(allocation.run, allocation.node)
    if notice := gpu_notice(os.environ):
        say(f"{allocation.node}: {notice}")
    directory = rendezvous or default_directory(allocation.job_id, allocation.step_id)
    party = _party(wish.loaded, allocation, homes, directory=directory, network=network)
    with agent_of(allocation.run, allocation.node, allocation.num_waiting) as agent:
        if rejoin is not None or not party.is_head:
            place = node_place(party, allocation.run, wish.loaded.name)
            agent.exit_code = anyio.run(run_node, party, place, functools.partial(_event, party))
            return agent.exit_code
        with RunFiles(run_dir, wish.loaded.cluster.hostname).of_a_run() as files:
            is_alone = len(party.names) == 1
            agent.exit_code = _alone(wish, files.serves) if is_alone else _lead(party, wish, files.serves)
            files.ended(agent.exit_code)
        return agent.exit_code


def _party(loaded: Loaded, allocation: Allocation, homes: Mapping[str, Sequence[str]] | None, **means: Any) -> Party:
    """
    :param homes: where each server is to be; None: the head alone will know.
    """
    names, secret_file = [node.name for node in allocation.nodes], loaded.cluster.secret_file
    return Party(
        names=names,
        here=allocation.node,
        hosts=names,
        digest=digest_of(loaded.fingerprint, names, homes),
        file=str(loaded.path),
        secret_file=None if secret_file is None else str(loaded.path.parent / Path(secret_file).expanduser()),
        node_timeout_s=loaded.cluster.supervision.node_timeout_s,
        **means,
    )


def _event(party: Party, text: str) -> None:
    say(*(f"{party.here}: {line}" for line in text.splitlines()))


def _alone(wish: Wish, on_ready: Callable[[str], None]) -> int:
    """The step has one node: as without Slurm."""
    place = _place(wish.loaded)
    plan = _plan_over(wish.loaded, lambda _: ())
    _tell(wish.loaded, plan, place)
    return run_with_lines(plan, place, wish, on_ready=on_ready)


def _lead(party: Party, wish: Wish, on_ready: Callable[[str], None]) -> int:
    place = _place(wish.loaded)

    def told(plan: Plan) -> AbstractContextManager[Mapping[str, Any]]:
        _tell(wish.loaded, plan, place, servers_on(plan, party.here))
        return lines_of(plan, place, on_ready=on_ready)

    plan_over = functools.partial(_plan_over, wish.loaded)
    return anyio.run(functools.partial(run_head, party, place, plan_over, wish=wish, told=told))


def _place(loaded: Loaded) -> Place:
    return Place.of(loaded.path, loaded.name)


def _plan_over(loaded: Loaded, nodes_of: NodesOf) -> Plan:
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path, nodes_of=nodes_of)
    return replace(plan, fingerprint=loaded.fingerprint)


def _tell(loaded: Loaded, plan: Plan, place: Place, here: Plan | None = None) -> None:
    """
    :param here: what this node has to carry; None: all of it.
    """
    say(*loaded.no_effect, *plan.notices, *before_start(here or plan, place))
