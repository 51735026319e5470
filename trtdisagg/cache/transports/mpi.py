"""KV by MPI: the holder packs what is asked for and sends it, piece by piece, and the other side unpacks. Deprecated.

MPI has no word for "one-sided, and the other may die". So a message never goes into the pool itself: a peer that froze
in the middle of one may go on much later, and then writes into a buffer that nobody uses any more (`mpi_library`).
What goes beside MPI is in `mpi_stream`, the holder in `mpi_serving`.

A peer that is killed costs its link, by shared memory and by TCP; but MPICH has been seen to end our process, too.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections import deque
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from trtdisagg.cache.copying import copy_runs
from trtdisagg.cache.greeting import prove
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.movers.pieces import as_asked, out_of_slot, pieces
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports.base import check_bounds
from trtdisagg.cache.transports.mpi_library import MEET_TIMEOUT_S, Bytes, Library, Peer, load
from trtdisagg.cache.transports.mpi_serving import NONCE_BYTES, PIECE_BYTES, PIECES_UNDERWAY, Pauses, Server
from trtdisagg.cache.transports.mpi_stream import Greeting, Meeting, Read, Stream
from trtdisagg.errors import HandoverError, StartupError
from trtdisagg.protocol.memory import Memory, MpiMemory, Region

_KEY_BYTES = 32
_PROBE_BYTES = 64
_PROBE_TIMEOUT_S = 5.0


class _Asked(NamedTuple):
    piece: Runs
    request: Any
    buffer: Bytes


class MpiLink:
    """A rank of a peer that we have met. What fails once has failed for good.

    :param met: the peer, and the tag of its messages.
    """

    def __init__(self, pool: KvPool, library: Library, stream: Stream, met: tuple[Peer, int], theirs: Region) -> None:
        self._pool = pool
        self._library = library
        self._stream = stream
        self._peer, self._tag = met
        self._theirs = theirs
        self._turn = threading.Lock()
        self._buffers = [np.empty(PIECE_BYTES, np.uint8) for _ in range(PIECES_UNDERWAY)]
        self._error: HandoverError | None = None
        self._give_up_at: float | None = None

    def read(self, runs: Runs) -> None:
        check_bounds(runs, local_bytes=self._pool.region.num_bytes, remote_bytes=self._theirs.num_bytes)
        with self._turn:
            if self._error is not None:
                raise self._error
            underway: deque[_Asked] = deque()
            try:
                self._read(runs, underway)
            except HandoverError as e:
                self._error = e
                self._stream.end()
                for asked in underway:
                    self._library.lay_aside(asked.request, asked.buffer)
                raise

    def write(self, runs: Runs) -> None:
        raise NotImplementedError  # whoever holds, sends

    def probe(self) -> None:
        """Read a few bytes of the peer's pattern: then both are known to be in the same communicator."""
        self._give_up_at = time.monotonic() + _PROBE_TIMEOUT_S
        mine, theirs = self._pool.region, self._theirs
        self.read(np.array([[mine.sink_offset, theirs.pattern_offset, _PROBE_BYTES]], np.int64))
        self._give_up_at = None

    def abort(self) -> None:
        self._give_up_at = time.monotonic()

    def close(self) -> None:
        self._stream.close()
        self._library.free(self._peer)

    def _read(self, runs: Runs, underway: deque[_Asked]) -> None:
        for piece in pieces(runs, PIECE_BYTES):
            if len(underway) == PIECES_UNDERWAY:
                self._take(underway)
            underway.append(self._ask(piece))
            self._buffers.append(self._buffers.pop(0))
        while underway:
            self._take(underway)

    def _ask(self, piece: Runs) -> _Asked:
        buffer = self._buffers[0]
        request = self._library.receive(self._peer, buffer[: int(piece[:, 2].sum())], self._tag)
        asked = _Asked(piece, request, buffer)
        try:
            self._stream.send(Read(as_asked(piece)))
        except HandoverError:
            self._library.lay_aside(request, buffer)
            raise
        return asked

    def _take(self, underway: deque[_Asked]) -> None:
        """Wait for the oldest piece and unpack it."""
        piece, request, buffer = underway[0]
        pauses = Pauses()
        while not self._library.is_done(request):
            if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
                raise HandoverError("mpi: the read was given up")
            pauses.take()
            if self._stream.wait(0) and not self._library.is_done(request):
                self._stream.receive(Meeting)  # raises: it is the peer's end, or why it cannot
                raise HandoverError("mpi: the peer meets us again")
        underway.popleft()
        here = (self._pool.address, self._pool.region.num_bytes)
        copy_runs(here, (buffer.ctypes.data, len(buffer)), out_of_slot(piece, 0))


class MpiTransport:
    """Our pool for peers, and theirs for us.

    :param pool: open, on the host, and open until `close`.
    """

    memory_type: ClassVar[type[Memory]] = MpiMemory
    can_write: ClassVar[bool] = False

    def __init__(self, pool: KvPool, library: Library, server: Server, memory: MpiMemory) -> None:
        self.pool = pool
        self._library = library
        self._server = server
        self._memory = memory

    @classmethod
    def open(cls, pool: KvPool, host: str) -> Self:
        """
        :raises StartupError: when MPI does not start here, or nobody can listen on `host`.
        """
        if pool.device.type != "cpu":
            raise StartupError(f"transport mpi: needs the KV pool in host memory, and it is on {pool.device}; use NIXL")
        library = load()
        key = secrets.token_bytes(_KEY_BYTES)
        server = Server(pool, library, key)
        try:
            port = server.open(host)
        except OSError as e:
            raise StartupError(f"transport mpi: cannot listen on {host}: {e}") from e
        return cls(pool, library, server, MpiMemory(host=host, port=port, key=key, region=pool.region))

    def describe(self) -> MpiMemory:
        return self._memory

    def connect(self, memory: Memory) -> MpiLink:
        assert isinstance(memory, MpiMemory)
        try:
            sock = socket.create_connection((memory.host, memory.port), timeout=MEET_TIMEOUT_S)
        except OSError as e:
            raise HandoverError(f"mpi: {memory.host}:{memory.port} cannot be reached: {e}") from e
        stream = Stream(sock)
        try:
            link = self._meet(stream, memory)
        except HandoverError:
            stream.close()
            raise
        try:
            link.probe()
        except HandoverError:
            link.close()
            raise
        return link

    def set_serving(self, is_serving: bool) -> None:
        """Threads wait until they are asked."""

    def close(self) -> None:
        self._server.close()

    def _meet(self, stream: Stream, memory: MpiMemory) -> MpiLink:
        nonce = stream.receive_raw(NONCE_BYTES)
        stream.send(Greeting(prove(nonce, memory.key), self._library.process))
        meeting = stream.receive(Meeting)
        peer = self._library.within(meeting.process) if meeting.port is None else self._library.connect(meeting.port)
        if peer is None:
            raise HandoverError("mpi: the peer takes itself for one of our world, and is not")
        return MpiLink(self.pool, self._library, stream, (peer, meeting.tag), memory.region)
