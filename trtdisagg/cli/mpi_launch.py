"""What `mpirun` or `srun` says to a process about its place among those that it has started.

Open MPI     OMPI_COMM_WORLD_RANK   ..._SIZE               ..._LOCAL_RANK    ..._LOCAL_SIZE
MPICH        PMI_RANK               PMI_SIZE               MPI_LOCALRANKID   MPI_LOCALNRANKS
Slurm        SLURM_PROCID           SLURM_STEP_NUM_TASKS   SLURM_LOCALID     SLURM_STEP_TASKS_PER_NODE
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.slurm.allocation import is_step, read_allocation

_NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


class Launch(NamedTuple):
    rank: int
    size: int
    local_rank: int
    """Among those on this machine."""
    local_size: int
    by_mpirun: bool = True
    """Our parent is there as long as mpirun is, and nobody else ends us with it."""


def read_launch(env: Mapping[str, str]) -> Launch:
    """
    :raises StartupError: nobody has started several processes.
    :raises ConfigError: a variable does not hold what is written there.
    """
    for names in _NAMES:
        if all(name in env for name in names):
            try:
                rank, size, local_rank, local_size = (int(env[name]) for name in names)
                return Launch(rank, size, local_rank, local_size)
            except ValueError:
                raise ConfigError(
                    f"{', '.join(f'{name}={env[name]}' for name in names)}: not all are numbers"
                ) from None
    if is_step(env):
        given = read_allocation(env)
        local_size = next(node.num_tasks for node in given.nodes if node.name == given.node)
        return Launch(given.proc_id, given.num_tasks, given.local_id, local_size, by_mpirun=False)
    raise StartupError(
        "mpi-worker is one of several processes: start it as `mpirun -n N trtdisagg mpi-worker -c FILE`, or by srun "
        "with --mpi=pmix (Open MPI) or --mpi=pmi2 (MPICH)"
    )
