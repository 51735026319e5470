"""mpi4py, as whoever needs it finds it: not initialized, and never finished by itself. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtdisagg.errors import StartupError

_SHARED = " /dev/shm/mpich_shm_"


def import_mpi() -> Any:
    """
    :return: `mpi4py.MPI`.
    :raises StartupError: when it, or an MPI, is not installed.
    """
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as e:  # RuntimeError: no libmpi
        raise StartupError(f"MPI: {str(e).splitlines()[0]}; pip install 'trtdisagg[mpi]'") from e
    return MPI


def unlink_shared_memory() -> None:
    """Of MPICH, a MiB for the processes of our world on this host, once all of them have it: MPICH takes its name away
    when it is finished, and a process that is killed never is."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if _SHARED in line}
    for path in paths:
        Path(path).unlink(missing_ok=True)
