"""mpi4py, as whoever needs it finds it: not initialized, and never finished by itself. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from trtdisagg.errors import StartupError


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
