"""MPI as the rest of the process can live with it: in a world of its own, with errors returned, and never finished.

`MPI_Finalize` waits for all processes that were ever connected, also for those that died; the kernel cleans up instead.

What a peer did not take or send is never waited for: its request and its buffer are laid aside until MPI is done with
them, which may be never.
"""

from __future__ import annotations

import ctypes
import itertools
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdisagg.cache.transports.mpi_pmi import managed
from trtdisagg.errors import HandoverError, StartupError

MEET_TIMEOUT_S = 5
_THREAD_MULTIPLE = 3
_SHARED = " /dev/shm/mpich_shm_"
Bytes = NDArray[np.uint8]


class Library:
    """MPI, initialized. One for a process."""

    def __init__(self, mpi: Any, process: str) -> None:
        self.process = process
        """Names this process to others; a peer with the same name is ourselves."""
        self.alone = mpi.COMM_SELF
        """To reach ourselves."""
        self._mpi = mpi
        self._tags = itertools.count(1)
        self._lock = threading.Lock()
        self._laid_aside: list[tuple[Any, Bytes]] = []
        mpi.COMM_WORLD.Set_errhandler(mpi.ERRORS_RETURN)
        mpi.COMM_SELF.Set_errhandler(mpi.ERRORS_RETURN)

    def new_tag(self) -> int:
        """For the messages of one link."""
        return next(self._tags) % 32768  # what every MPI has; only links to ourselves share a communicator

    @contextmanager
    def open_port(self) -> Iterator[str]:
        """A name by which one peer connects."""
        with self._reported():
            name = self._mpi.Open_port()
        try:
            yield name
        finally:
            self._mpi.Close_port(name)

    def accept(self, port: str) -> Any:
        """
        :return: the communicator in which the peer is rank 0.
        :raises HandoverError: when it does not come.
        """
        return self._meet("Accept", port)

    def connect(self, port: str) -> Any:
        """As `accept`, from the other side."""
        return self._meet("Connect", port)

    def free(self, comm: Any) -> None:
        """Give a communicator back; MPI lets go of it when nothing in it is underway."""
        if comm != self.alone:
            with self._reported():
                comm.Free()

    def is_done(self, request: Any) -> bool:
        """
        :raises HandoverError: when it failed.
        """
        with self._reported():
            return bool(request.Test())

    def send(self, comm: Any, data: Bytes, tag: int) -> Any:
        with self._reported():
            return comm.Isend([data, self._mpi.BYTE], 0, tag)

    def receive(self, comm: Any, into: Bytes, tag: int) -> Any:
        with self._reported():
            return comm.Irecv([into, self._mpi.BYTE], 0, tag)

    def lay_aside(self, request: Any, buffer: Bytes) -> None:
        """Keep what a peer may still read or write, and drop what nobody can any more."""
        with self._lock:
            self._laid_aside.append((request, buffer))
            self._laid_aside = [one for one in self._laid_aside if not self._is_over(one[0])]

    def _is_over(self, request: Any) -> bool:
        try:
            return self.is_done(request)
        except HandoverError:
            return True

    def _meet(self, how: str, port: str) -> Any:
        info = self._mpi.Info.Create({"timeout": str(MEET_TIMEOUT_S)})
        try:
            with self._reported():
                with self._lock:
                    alone = self.alone.Dup()  # several threads must not meet peers in one communicator
                try:
                    comm = getattr(alone, how)(port, info)
                finally:
                    alone.Free()
                comm.Set_errhandler(self._mpi.ERRORS_RETURN)
                return comm
        finally:
            info.Free()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except self._mpi.Exception as e:
            raise HandoverError(f"mpi: {e}") from e


_loading = threading.Lock()
_loaded: list[Library] = []


def load() -> Library:
    """
    :raises StartupError: when MPI is not installed, is not MPICH, or does not start.
    """
    with _loading:
        if not _loaded:
            _loaded.append(_initialized())
        return _loaded[0]


def _initialized() -> Library:
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as e:  # RuntimeError: no libmpi
        reason = str(e).splitlines()[0]
        raise StartupError(f"transport mpi: {reason}; pip install 'trtdisagg[mpi]', or choose backend NIXL") from e
    if not (version := MPI.Get_library_version()).startswith("MPICH"):
        raise StartupError(
            f"transport mpi: needs MPICH (pip install mpich), and mpi4py found {version.splitlines()[0]}"
        )
    if MPI.Is_initialized():
        raise StartupError("transport mpi: MPI runs in this process already; start it without mpirun")
    process = secrets.token_hex(16)
    level = ctypes.c_int()
    with managed(process):
        # Not mpi4py's own, which keeps the GIL from the thread that answers.
        error = ctypes.CDLL(MPI.__file__).MPI_Init_thread(None, None, _THREAD_MULTIPLE, ctypes.byref(level))
    if error or level.value != _THREAD_MULTIPLE:
        raise StartupError(f"transport mpi: MPI_Init_thread says {error}, and gives thread level {level.value}")
    _unlink_shared_memory()
    return Library(MPI, process)


def _unlink_shared_memory() -> None:
    """Of MPICH, a MiB for the processes of our world on this host: there are none, and nobody would clean up."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if _SHARED in line}
    for path in paths:
        Path(path).unlink(missing_ok=True)
