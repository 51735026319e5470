"""The holder's side of KV by MPI: listens, meets who knows the key, and sends what is asked for.

A thread for each peer, which sleeps on the stream while nothing is asked. It looks after messages of its own only until
they are taken, and no longer than `TAKEN_WITHIN_S`.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import threading
import time
from collections import deque
from typing import Any

import numpy as np

from trtdisagg.cache.copying import copy_runs
from trtdisagg.cache.greeting import prove
from trtdisagg.cache.movers.pieces import into_slot, read_asked
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports.mpi_library import MEET_TIMEOUT_S, Bytes, Library, Peer
from trtdisagg.cache.transports.mpi_stream import Greeting, Meeting, Read, Stream, Unable
from trtdisagg.errors import HandoverError
from trtdisagg.net import listen_anywhere

log = logging.getLogger(__name__)

NONCE_BYTES = 32
PIECE_BYTES = 4 << 20
"""Of one message."""
PIECES_UNDERWAY = 4
"""Of one link: one is packed, one unpacked, and what is between them travels."""
TAKEN_WITHIN_S = 30.0
_EAGERLY = 20
_PAUSE_S, _LONG_S, _LONG_PAUSE_S = 0.0001, 1.0, 0.01
_CLOSE_TIMEOUT_S = 2.0 * MEET_TIMEOUT_S


class Pauses:
    """How long to wait before MPI is asked again, which is also what moves it on: not at all at first, for TCP takes
    many steps; then ever longer, for a peer may be frozen."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._num_asked = 0

    def take(self) -> None:
        self._num_asked += 1
        if self._num_asked > _EAGERLY:
            time.sleep(_PAUSE_S if time.monotonic() - self._began < _LONG_S else _LONG_PAUSE_S)


class Visit:
    """One peer that reads."""

    def __init__(self, pool: KvPool, library: Library, key: bytes, stream: Stream) -> None:
        self._pool = pool
        self._library = library
        self._key = key
        self._stream = stream
        self._sent: deque[tuple[Any, Bytes, float]] = deque()
        """Request, what it sends, when it began."""
        self._free: list[Bytes] = []

    def run(self) -> None:
        """Until the peer ends it.

        :raises HandoverError: how it ended.
        """
        tag, peer = self._meet()
        self._free = [np.empty(PIECE_BYTES, np.uint8) for _ in range(PIECES_UNDERWAY)]
        try:
            while True:
                self._wait_for_wish()
                self._answer(self._stream.receive(Read), peer, tag)
        except HandoverError:
            for request, buffer, _ in self._sent:
                self._library.lay_aside(request, buffer)
            raise
        finally:
            self._library.free(peer)

    def _meet(self) -> tuple[int, Peer]:
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._stream.send_raw(nonce)
        greeting = self._stream.receive(Greeting)
        if not hmac.compare_digest(greeting.proof, prove(nonce, self._key)):
            raise HandoverError("mpi: the peer does not know the key")
        library = self._library
        tag = library.new_tag()
        if peer := library.within(greeting.process):
            self._stream.send(Meeting(library.process, None, tag))
            return tag, peer
        with library.open_port() as port:
            self._stream.send(Meeting(library.process, port, tag))
            return tag, library.accept(port)

    def _wait_for_wish(self) -> None:
        """Sleep until there is one and a buffer for it, or the peer has gone."""
        pauses = Pauses()
        while self._sent:
            self._see_what_was_taken()
            if self._stream.wait(0) and (self._free or self._stream.has_ended()):
                return
            pauses.take()
        self._stream.wait(None)

    def _see_what_was_taken(self) -> None:
        while self._sent:
            request, buffer, began = self._sent[0]
            if not self._library.is_done(request):
                if time.monotonic() - began > TAKEN_WITHIN_S:
                    raise HandoverError(f"mpi: the peer did not take a message within {TAKEN_WITHIN_S:g} s")
                return
            self._sent.popleft()
            self._free.append(buffer)

    def _answer(self, asked: Read, peer: Peer, tag: int) -> None:
        try:
            runs = into_slot(read_asked(asked.runs, PIECE_BYTES), 0)
            buffer = self._free[-1]
            pool = (self._pool.address, self._pool.region.num_bytes)
            copy_runs((buffer.ctypes.data, len(buffer)), pool, runs)
        except (HandoverError, IndexError) as e:
            self._stream.send(Unable(str(e)))
            raise HandoverError(f"mpi: the peer asked for what it cannot have: {e}") from e
        request = self._library.send(peer, buffer[: int(runs[:, 2].sum())], tag)
        self._sent.append((request, self._free.pop(), time.monotonic()))


class Server:
    """`open`, then `close`."""

    def __init__(self, pool: KvPool, library: Library, key: bytes) -> None:
        self._pool = pool
        self._library = library
        self._key = key
        self._is_closed = False
        self._streams: dict[Stream, threading.Thread] = {}
        self._lock = threading.Lock()

    def open(self, host: str) -> int:
        """
        :return: the port where we listen.
        """
        self._listener = listen_anywhere(host)
        self._thread = threading.Thread(target=self._listen, name="mpi-listen", daemon=True)
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """End all visits, and wait until nobody touches the pool."""
        self._is_closed = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes who listens
        self._thread.join()
        self._listener.close()
        with self._lock:
            visits = dict(self._streams)
        for stream in visits:
            stream.end()
        for thread in visits.values():
            thread.join(_CLOSE_TIMEOUT_S)

    def _listen(self) -> None:
        while not self._is_closed:
            try:
                sock, _ = self._listener.accept()
            except OSError as e:
                if self._is_closed:
                    return
                log.warning("a peer cannot read by mpi: %s", e)
                time.sleep(_LONG_S)  # out of descriptors, probably
                continue
            stream = Stream(sock)
            thread = threading.Thread(target=self._attend, args=(stream,), name="mpi-serve", daemon=True)
            with self._lock:
                self._streams[stream] = thread
            thread.start()

    def _attend(self, stream: Stream) -> None:
        try:
            Visit(self._pool, self._library, self._key, stream).run()
        except HandoverError as e:
            log.info("a peer reads no more: %s", e.message)
        finally:
            with self._lock:
                del self._streams[stream]
            stream.close()
