"""Which rank of which server each process of an MPI world is, and what of its machine it may use. Pure.

mpirun -n 4     0              1              2               3
seats           context-0      context-1      generation-0    generation-0
                rank 0         rank 0         rank 0          rank 1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.division import num_ranks
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nvml import Gpu
from trtdisagg.supervisor.slots import Slot, slots

_ORDER: list[Role] = ["context", "both", "generation"]


class Seat(NamedTuple):
    """Of one process."""

    slot: Slot
    rank: int


def seats(cluster: ClusterFile) -> list[Seat]:
    """One for each process, in order.

    :raises ConfigError: when the file asks for what a world of processes that mpirun has started cannot give.
    """
    if cluster.disagg_cluster.cluster_uri is not None:
        raise ConfigError(
            "disagg_cluster: the servers of mpi-worker are those that mpirun has started, none joins or leaves; take "
            "the section out, or use `trtdisagg up` and `trtdisagg join`"
        )
    if cluster.autoscale.enabled:
        raise ConfigError("autoscale: the servers of mpi-worker are those that mpirun has started; use `trtdisagg up`")
    everything = sorted(slots(cluster), key=lambda slot: _ORDER.index(slot.role))
    for slot in everything:
        _check(slot)
    return [Seat(slot, rank) for slot in everything for rank in range(num_ranks(slot.section))]


def _check(slot: Slot) -> None:
    if slot.model is None:
        raise ConfigError(f"{slot.path}: mpi-worker loads a model, and the file names none; add `model:`")
    if not slot.port:
        raise ConfigError(f"{slot.path}.urls: mpi-worker's servers listen where the file says; add a url for each")
    if slot.section.command:
        raise ConfigError(f"{slot.path}.command: mpi-worker is the built-in engine; use `trtdisagg up` for others")
    for name, places in (("cores", slot.section.cores), ("gpus", slot.section.gpus)):
        if places:
            raise ConfigError(f"{slot.path}.{name}: mpirun says where its processes run, each has a place of its own")


def check_number(wanted: Sequence[Seat], num_processes: int) -> None:
    """
    :raises ConfigError: when mpirun has started more or fewer than there are ranks; says which those are.
    """
    if num_processes == len(wanted):
        return
    sizes: dict[str, int] = {}
    for slot, _ in wanted:
        sizes[slot.name] = sizes.get(slot.name, 0) + 1
    words = ", ".join(f"{name} ({size} rank{'s' * (size > 1)})" for name, size in sizes.items())
    raise ConfigError(
        f"mpirun has started {num_processes} process{'es' * (num_processes > 1)}, and the file has {len(wanted)} ranks "
        f"(tensor_parallel_size * pipeline_parallel_size of each server): {words}; start it with -n {len(wanted)}"
    )


def part_of(host: Host, seat: Seat, *, local_rank: int, local_size: int) -> Host:
    """The machine as the whole server of a process would see it, if it were here and had all ranks of it on parts like
    this one's: its sizes are then those that the process has room for.

    :param local_rank: among the processes of this machine.
    :raises StartupError: when there are GPUs, and none for this one.
    """
    number = num_ranks(seat.slot.section)
    gpu = None if seat.slot.section.gpus == [] else my_gpu(host, local_rank)
    may_be_elsewhere = seat.rank > 0  # the url is rank 0's
    return replace(
        host,
        memory_bytes=host.memory_bytes * number // local_size,
        gpus=[replace(gpu, id=f"{gpu.id}/{rank}") for rank in range(number)] if gpu else [],
        local_names=host.local_names | {seat.slot.host} if may_be_elsewhere else host.local_names,
    )


def my_gpu(host: Host, local_rank: int) -> Gpu | None:
    """The GPU of a process; None: there are none. Where it sees a single one, whoever has started it has chosen.

    :raises StartupError: when there are GPUs, and none for this one.
    """
    if len(host.gpus) <= 1:
        return host.gpus[0] if host.gpus else None
    if local_rank >= len(host.gpus):
        raise StartupError(f"process {local_rank} of this machine has no GPU: there are {len(host.gpus)}, one for each")
    return host.gpus[local_rank]
