"""How the ranks of a server meet: rank 0 listens, the others come, twice each.

What blocks here runs in threads of its own, and each who comes is greeted in one: over a network strangers come, too,
and whoever says nothing keeps nobody out.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import NamedTuple

from trtdisagg.engine.gang.frames import Frames, StreamEndedError
from trtdisagg.engine.gang.greeting import NotAdmittedError, Seat, admit, hear, introduce
from trtdisagg.engine.gang.messages import Channel, FromFollower, FromLeader
from trtdisagg.engine.gang.sockets import LOOK_EVERY_S, accept, connect, listening, stay_in_touch
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import EngineSpec

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 120.0
"""From the start of the first rank to that of the last, on a machine that is busy starting them all."""
GREETING_TIMEOUT_S = 10.0
MAX_FROM_FOLLOWER_BYTES = 1 << 20
"""A spec is the longest of what they say."""

Members = dict[Seat, Frames[FromFollower]]


class Place(NamedTuple):
    """What a follower got: its two connections to rank 0."""

    steps: Frames[FromLeader]
    kv: Frames[FromLeader]


class Gathering:
    """Rank 0's side. `gather` in a thread; `close` from any ends it."""

    def __init__(self, spec: EngineSpec, secret: bytes, timeout_s: float = JOIN_TIMEOUT_S) -> None:
        self._spec = spec
        self._secret = secret
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._is_over = False
        """Nobody is let in any more."""
        self._members: Members = {}
        self._refusals: list[str] = []

    def close(self) -> None:
        self._closed.set()

    def gather(self) -> Members:
        """Let in all other ranks of the server.

        :raises StartupError: when the socket cannot be opened, or ranks are missing at the deadline, with their numbers
            and what became of those that were refused.
        """
        end_s = time.monotonic() + self._timeout_s
        try:
            with listening(self._spec) as listener:
                listener.settimeout(LOOK_EVERY_S)
                while missing := self._missing():
                    if self._closed.is_set() or time.monotonic() > end_s:
                        raise StartupError(self._what_is_missing(missing))
                    if sock := accept(listener):
                        greeting = threading.Thread(target=self._greet, args=[sock], name="greet", daemon=True)
                        greeting.start()
                        greeting.join(LOOK_EVERY_S)  # a rank is in by then
            return self._members
        except BaseException:
            with self._lock:
                self._is_over = True
                for stream in self._members.values():
                    stream.close()
            raise

    def _missing(self) -> set[Seat]:
        channels: list[Channel] = ["steps", "kv"]
        wanted = {Seat(rank, channel) for rank in range(1, self._spec.parallel.num_ranks) for channel in channels}
        with self._lock:
            return wanted - self._members.keys()

    def _greet(self, sock: socket.socket) -> None:
        sock.settimeout(GREETING_TIMEOUT_S)
        stream: Frames[FromFollower] = Frames(sock, FromFollower, MAX_FROM_FOLLOWER_BYTES)
        try:
            asked = hear(stream)
            with self._lock:  # two may want the same seat
                if self._is_over:
                    raise NotAdmittedError("it came too late")
                seat = admit(stream, asked, self._spec, self._secret, set(self._members))
                stay_in_touch(sock, is_always_read=seat.channel == "kv")
                self._members[seat] = stream
        except (NotAdmittedError, StreamEndedError) as e:
            log.warning("%s: a rank was not let in: %s", self._spec.name, e)
            stream.close()
            with self._lock:
                self._refusals.append(str(e))

    def _what_is_missing(self, missing: set[Seat]) -> str:
        ranks = ", ".join(str(rank) for rank in sorted({seat.rank for seat in missing}))
        with self._lock:
            refusals = "; ".join(dict.fromkeys(self._refusals))
        why = f"; refused: {refusals}" if refusals else ""
        return f"{self._spec.name}: rank {ranks} did not come within {self._timeout_s:g} s{why}"


def join(spec: EngineSpec, secret: bytes, timeout_s: float = JOIN_TIMEOUT_S) -> Place:
    """A follower's side: wait for rank 0 and be let in.

    :raises StartupError: when rank 0 is not there at the deadline, or who is there is not it.
    :raises ConfigError: when rank 0 refuses us, with the reason.
    """
    end_s = time.monotonic() + timeout_s
    steps = _enter(spec, secret, "steps", end_s)
    try:
        return Place(steps, _enter(spec, secret, "kv", end_s))
    except BaseException:
        steps.close()
        raise


def _enter(spec: EngineSpec, secret: bytes, channel: Channel, end_s: float) -> Frames[FromLeader]:
    sock = connect(spec, end_s)
    stream: Frames[FromLeader] = Frames(sock, FromLeader)
    try:
        stay_in_touch(sock, is_always_read=channel == "kv")
        sock.settimeout(max(LOOK_EVERY_S, end_s - time.monotonic()))
        introduce(stream, spec, secret, channel)
        return stream
    except StreamEndedError as e:
        stream.close()
        raise StartupError(f"rank 0 of {spec.name} did not let rank {spec.rank} in: {e}") from e
    except BaseException:
        stream.close()
        raise
