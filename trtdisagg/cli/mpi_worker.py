"""`trtdisagg mpi-worker`: becomes a rank of the engine half, which is a program of its own and is not imported here."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

import click
import msgspec
from msgspec.structs import replace

from trtdisagg.cli.mpi_launch import Launch, read_launch
from trtdisagg.cli.terminal import say
from trtdisagg.config.key_types import Backend
from trtdisagg.config.load import Loaded, load
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.mpi import WorldServer, WorldSpec
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.host import discover
from trtdisagg.supervisor.mpi_world import Seat, check_number, my_gpu, part_of, seats
from trtdisagg.supervisor.nvml import Gpu
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.server_plan import AMONG_RANKS
from trtdisagg.supervisor.survey import survey

_DEPRECATED = (
    "mpi-worker is deprecated: nothing is started anew, and all servers end when one process does; "
    "`trtdisagg up` keeps the same file up"
)


@click.command()
@click.option("-c", "--config", "--config_file", required=True, metavar="FILE", help="Cluster file with urls.")
def command(config: str) -> None:
    """Be one rank of the servers of a file, started by mpirun; deprecated.

    `mpirun -n N trtdisagg mpi-worker -c FILE`: N is the sum of tensor_parallel_size * pipeline_parallel_size over all
    servers, the context servers' ranks first. `trtdisagg proxy -c FILE` beside it routes to them.
    """
    launch = read_launch(os.environ)
    try:
        loaded = load(config)
        everyone = seats(loaded.cluster)
        check_number(everyone, launch.size)
    except ConfigError as e:
        if launch.rank > 0:
            sys.exit(e.exit_code)  # process 0 says it for all
        raise
    seat = everyone[launch.rank]
    host = discover()
    gpu = None if seat.slot.section.gpus == [] else my_gpu(host, launch.local_rank)
    plan = _plan(loaded, seat, launch, default_backend="DEFAULT" if gpu else "MPI")
    if launch.rank == 0:
        say(_DEPRECATED, *loaded.no_effect)
    if seat.rank == 0:
        say(*plan.notices)
    [child] = plan.servers
    assert isinstance(child.spec, EngineSpec)
    parent_pid = os.getppid() if launch.by_mpirun else None
    engine = replace(child.spec, rank=seat.rank, secret_file=plan.secret_file, parent_pid=parent_pid)
    spec = WorldSpec(servers=_servers(everyone), engine=engine, gpu=gpu.uuid if gpu else None)
    _become(spec, _environment(child, gpu))


def _plan(loaded: Loaded, seat: Seat, launch: Launch, *, default_backend: Backend) -> Plan:
    """Of one server, as this process sees it."""
    group, _, number = seat.slot.name.rpartition("-")
    return survey(
        loaded.cluster,
        name=loaded.name,
        file=loaded.path,
        with_proxy=False,
        default_backend=default_backend,
        numbers={group: [int(number)]},
        part=lambda host: part_of(host, seat, local_rank=launch.local_rank, local_size=launch.local_size),
    )


def _servers(everyone: Sequence[Seat]) -> list[WorldServer]:
    sizes = Counter(seat.slot.name for seat in everyone)
    return [WorldServer(name=name, num_ranks=size) for name, size in sizes.items()]


def _environment(child: ChildPlan, gpu: Gpu | None) -> dict[str, str]:
    """As a server's rank has it, but for what takes its other ranks to be on this machine."""
    held = {name: value for name, value in child.env.items() if AMONG_RANKS.get(name) != value}
    return {**os.environ, **held, "CUDA_VISIBLE_DEVICES": gpu.id if gpu else ""}


def _become(spec: WorldSpec, environment: dict[str, str]) -> NoReturn:
    """Its spec is in memory, where nobody has to remove it."""
    fd = os.memfd_create("trtdisagg-spec", 0)
    os.write(fd, msgspec.json.encode(spec))
    os.lseek(fd, 0, os.SEEK_SET)
    sys.stdout.flush()
    argv = [sys.executable, "-m", "trtdisagg.engine.mpi", "--spec-fd", str(fd)]
    os.execve(sys.executable, argv, environment)  # noqa: S606 (no shell wanted)
