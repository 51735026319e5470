from __future__ import annotations

import pytest

from trtdisagg.cli.mpi_launch import Launch, read_launch
from trtdisagg.errors import ConfigError, StartupError

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_RANK": "5",
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "PMI_RANK": "5",  # of --mpi=pmi2
    "PMI_SIZE": "8",
}
BATCH = {"SLURM_JOB_ID": "17", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}


@pytest.mark.parametrize("env", [OPEN_MPI, MPICH, SLURM, {**BATCH, **OPEN_MPI}, {**BATCH, **MPICH}])
def test_every_launcher_says_who_we_are(env: dict[str, str]) -> None:
    """mpirun within a batch script comes before what Slurm says of the script."""
    assert read_launch(env) == Launch(5, 8, local_rank=1, local_size=4, by_mpirun=env is not SLURM)


@pytest.mark.parametrize("env", [{}, BATCH])
def test_a_process_that_nobody_started_with_others_is_told_how(env: dict[str, str]) -> None:
    with pytest.raises(StartupError, match=r"mpirun -n N trtdisagg mpi-worker -c FILE.*--mpi=pmix"):
        read_launch(env)


def test_what_is_no_number_is_said() -> None:
    with pytest.raises(ConfigError, match=r"PMI_RANK=x.*not all are numbers"):
        read_launch({**MPICH, "PMI_RANK": "x"})
