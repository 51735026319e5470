"""MPI as the rest of the process can live with it: with errors returned, and in one of two worlds.

    alone        MPICH; each process is a world of its own, which meets others one by one, and is never finished:
                 `MPI_Finalize` waits for all that were ever connected, also for those that died
    one world    any MPI, whose `mpirun` has started all of them (`engine.mpi`); they reach each other as they are

What a peer did not take or send is never waited for: its request and its buffer are laid aside until MPI is done with
them, which may be never.
"""

from __future__ import annotations

import ctypes
import itertools
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trtdisagg.cache.installed_mpi import import_mpi, unlink_shared_memory
from trtdisagg.cache.transports.mpi_pmi import managed
from trtdisagg.errors import HandoverError, StartupError

MEET_TIMEOUT_S = 5
_THREAD_MULTIPLE = 3
Bytes = NDArray[np.uint8]


class Peer(NamedTuple):
    """Another process, or this one, as messages find it."""

    comm: Any
    rank: int
    is_met: bool = False
    """The communicator was made for this meeting."""


class Library:
    """MPI, initialized. One for a process.

    :param process: names this process to others.
    :param members: those of our world, ourselves among them, by name.
    """

    def __init__(self, mpi: Any, process: str, members: Mapping[str, Peer], *, is_alone: bool) -> None:
        self.process = process
        self._members = members
        self._is_alone = is_alone
        self._mpi = mpi
        self._tags = itertools.count(1)
        self._lock = threading.Lock()
        self._laid_aside: list[tuple[Any, Bytes]] = []
        for comm in (mpi.COMM_WORLD, mpi.COMM_SELF, *(peer.comm for peer in members.values())):
            comm.Set_errhandler(mpi.ERRORS_RETURN)

    def new_tag(self) -> int:
        """For the messages of one link."""
        return next(self._tags) % 32768  # what every MPI has; of us, each link within our world has one of its own

    def within(self, process: str) -> Peer | None:
        """A process of our world; None: it is in another, and has to be met."""
        return self._members.get(process)

    @contextmanager
    def open_port(self) -> Iterator[str]:
        """A name by which one peer connects.

        :raises HandoverError: when we are not alone in our world: then others do not meet us.
        """
        if not self._is_alone:
            raise HandoverError("mpi: the peer was started by another mpirun")
        with self._reported():
            name = self._mpi.Open_port()
        try:
            yield name
        finally:
            self._mpi.Close_port(name)

    def accept(self, port: str) -> Peer:
        """
        :raises HandoverError: when the peer does not come.
        """
        return self._meet("Accept", port)

    def connect(self, port: str) -> Peer:
        """As `accept`, from the other side."""
        return self._meet("Connect", port)

    def free(self, peer: Peer) -> None:
        """Give back what a meeting made; MPI lets go of it when nothing in it is underway."""
        if peer.is_met:
            with self._reported():
                peer.comm.Free()

    def is_done(self, request: Any) -> bool:
        """
        :raises HandoverError: when it failed.
        """
        with self._reported():
            return bool(request.Test())

    def send(self, peer: Peer, data: Bytes, tag: int) -> Any:
        with self._reported():
            return peer.comm.Isend([data, self._mpi.BYTE], peer.rank, tag)

    def receive(self, peer: Peer, into: Bytes, tag: int) -> Any:
        with self._reported():
            return peer.comm.Irecv([into, self._mpi.BYTE], peer.rank, tag)

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

    def _meet(self, how: str, port: str) -> Peer:
        info = self._mpi.Info.Create({"timeout": str(MEET_TIMEOUT_S)})
        try:
            with self._reported():
                with self._lock:
                    alone = self._mpi.COMM_SELF.Dup()  # several threads must not meet peers in one communicator
                try:
                    comm = getattr(alone, how)(port, info)
                finally:
                    alone.Free()
                comm.Set_errhandler(self._mpi.ERRORS_RETURN)
                return Peer(comm, 0, is_met=True)
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
    """The library of this process, started where it is not yet: then in a world of its own.

    :raises StartupError: when MPI is not installed, is not MPICH, or does not start.
    """
    with _loading:
        if not _loaded:
            _loaded.append(_alone())
        return _loaded[0]


def join_world(mpi: Any, comm: Any, processes: Sequence[str]) -> None:
    """Let `load` give the world that this process was started in.

    :param mpi: `mpi4py.MPI`, initialized for several threads.
    :param comm: for KV alone.
    :param processes: the name of each of its processes, in order.
    """
    members = {name: Peer(comm, rank) for rank, name in enumerate(processes)}
    with _loading:
        assert not _loaded
        _loaded.append(Library(mpi, processes[comm.Get_rank()], members, is_alone=False))


def _alone() -> Library:
    try:
        mpi = import_mpi()
    except StartupError as e:
        raise StartupError(f"transport mpi: {e.message}, or choose backend NIXL") from e
    if not (version := mpi.Get_library_version()).startswith("MPICH"):
        raise StartupError(
            f"transport mpi: needs MPICH (pip install mpich), and mpi4py found {version.splitlines()[0]}"
        )
    if mpi.Is_initialized():
        raise StartupError("transport mpi: MPI runs in this process already; start it without mpirun")
    process = secrets.token_hex(16)
    level = ctypes.c_int()
    with managed(process):
        # Not mpi4py's own, which keeps the GIL from the thread that answers.
        error = ctypes.CDLL(mpi.__file__).MPI_Init_thread(None, None, _THREAD_MULTIPLE, ctypes.byref(level))
    if error or level.value != _THREAD_MULTIPLE:
        raise StartupError(f"transport mpi: MPI_Init_thread says {error}, and gives thread level {level.value}")
    unlink_shared_memory()
    return Library(mpi, process, {process: Peer(mpi.COMM_SELF, 0)}, is_alone=True)
