"""Where the ranks of a server meet: rank 0 opens a unix socket, the others come, twice each.

The socket's file is there until all have come, and no longer. What blocks here runs in threads of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trtdisagg.engine.gang.frames import Frames, StreamEndedError
from trtdisagg.engine.gang.greeting import NotAdmittedError, Seat, admit, introduce
from trtdisagg.engine.gang.messages import Channel, FromFollower, FromLeader
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import EngineSpec

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 120.0
"""From the start of the first rank to that of the last, on a machine that is busy starting them all."""
GREETING_TIMEOUT_S = 10.0
LOOK_EVERY_S = 0.05
"""For a socket that is not there yet."""

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

    def close(self) -> None:
        self._closed.set()

    def gather(self) -> Members:
        """Let in all other ranks of the server.

        :raises StartupError: when the socket cannot be opened, or ranks are missing at the deadline, with their numbers
            and what became of those that were refused.
        """
        channels: list[Channel] = ["steps", "kv"]
        wanted = {Seat(rank, channel) for rank in range(1, self._spec.parallel.num_ranks) for channel in channels}
        members: Members = {}
        refusals: list[str] = []
        end_s = time.monotonic() + self._timeout_s
        try:
            with _listening(self._spec) as listener:
                listener.settimeout(LOOK_EVERY_S)
                while missing := wanted - members.keys():
                    if self._closed.is_set() or time.monotonic() > end_s:
                        raise StartupError(self._what_is_missing(missing, refusals))
                    if sock := _next(listener):
                        refusals += self._greet(sock, members)
        except BaseException:
            for stream in members.values():
                stream.close()
            raise
        return members

    def _greet(self, sock: socket.socket, members: Members) -> list[str]:
        """
        :return: why who came was not let in; empty: it was.
        """
        sock.settimeout(GREETING_TIMEOUT_S)
        stream: Frames[FromFollower] = Frames(sock, FromFollower)
        try:
            seat = admit(stream, self._spec, self._secret, set(members))
        except (NotAdmittedError, StreamEndedError) as e:
            log.warning("%s: a rank was not let in: %s", self._spec.name, e)
            stream.close()
            return [str(e)]
        members[seat] = stream
        return []

    def _what_is_missing(self, missing: set[Seat], refusals: list[str]) -> str:
        ranks = ", ".join(str(rank) for rank in sorted({seat.rank for seat in missing}))
        why = f"; refused: {'; '.join(dict.fromkeys(refusals))}" if refusals else ""
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
    stream: Frames[FromLeader] = Frames(_connect(spec, end_s), FromLeader)
    try:
        stream.sock.settimeout(max(LOOK_EVERY_S, end_s - time.monotonic()))
        introduce(stream, spec, secret, channel)
        return stream
    except StreamEndedError as e:
        stream.close()
        raise StartupError(f"rank 0 of {spec.name} did not let rank {spec.rank} in: {e}") from e
    except BaseException:
        stream.close()
        raise


def _connect(spec: EngineSpec, end_s: float) -> socket.socket:
    assert spec.gang_socket is not None
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(spec.gang_socket)
            return sock
        except (FileNotFoundError, ConnectionRefusedError) as e:  # not there yet, or of a server that was there before
            sock.close()
            if time.monotonic() > end_s:
                raise StartupError(f"rank 0 of {spec.name} does not listen on {spec.gang_socket}") from e
            time.sleep(LOOK_EVERY_S)
        except OSError as e:
            sock.close()
            raise StartupError(
                f"rank 0 of {spec.name} cannot be reached at {spec.gang_socket}: {e.strerror or e}"
            ) from e


@contextlib.contextmanager
def _listening(spec: EngineSpec) -> Iterator[socket.socket]:
    assert spec.gang_socket is not None
    path = Path(spec.gang_socket)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        try:
            _forget_old(path)
            # Where only the owner may enter the directory nobody is quicker than chmod; and who is has no secret.
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(2 * spec.parallel.num_ranks)
        except OSError as e:
            raise StartupError(f"{spec.name} cannot open the socket {path} for its ranks: {e.strerror or e}") from e
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _forget_old(path: Path) -> None:
    """Remove what a server left there that was killed."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            path.unlink()


def _next(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except TimeoutError:
        return None
