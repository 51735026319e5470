"""Whether MPI is there to be tested."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_mpi = pytest.mark.skipif(find_spec("mpi4py") is None, reason="pip install 'trtdisagg[mpi]'")
