"""The sockets by which ranks come together: within a host a unix socket, across hosts TCP with a secret.

    one host         gang_socket: rank 0 opens it, 0600, and removes it when all have come
    several hosts    gang_address: bound by the agent beside rank 0, who inherits it as gang_fd

A host that vanishes says nothing, so TCP connections are kept alive: their end is noticed within `VANISHED_S`. Only
on `kv` this also holds for data that is underway: there somebody reads at all times. A rank that is far behind may not
take steps for minutes, and the kernel cannot tell that from a host that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from trtdisagg.engine.http.listen import resolve
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.net import is_loopback, split_address
from trtdisagg.protocol.spec import EngineSpec

LOOK_EVERY_S = 0.05
"""For a socket that is not there yet."""
VANISHED_S = 8
"""Without a sign of the other host's kernel."""
_ASK_EVERY_S = 2
_CONNECT_TIMEOUT_S = 5.0
_NOT_THERE_YET = {errno.ENOENT, errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""Or of a server that was there before; over a network, whatever may pass."""


def check_meeting(spec: EngineSpec, *, has_secret: bool) -> None:
    """
    :raises ConfigError: when the other ranks cannot, or must not, be met as the spec says.
    """
    if spec.parallel.num_ranks == 1:
        return
    if (spec.gang_socket is None) == (spec.gang_address is None):
        found = "no" if spec.gang_socket is None else "more than one"
        raise ConfigError(
            f"{spec.name} has {spec.parallel.num_ranks} ranks, and its spec {found} place where they could meet: "
            "gang_socket within a host, gang_address across hosts"
        )
    if spec.gang_address is None:
        return
    if not has_secret:
        raise ConfigError(f"the ranks of {spec.name} meet over the network, and there is no secret: name a secret_file")
    if spec.rank == 0 and spec.gang_fd is None:
        raise ConfigError(f"rank 0 of {spec.name} has inherited no gang_fd that listens on {spec.gang_address}")
    if is_loopback(_numeric(spec.host)) and not is_loopback(_numeric(split_address(spec.gang_address)[0])):
        raise ConfigError(
            f"rank {spec.rank} of {spec.name} has the host {spec.host}, which only this machine can reach, and rank 0 "
            f"is at {spec.gang_address}: each rank needs an address that the others can reach"
        )


@contextlib.contextmanager
def listening(spec: EngineSpec) -> Iterator[socket.socket]:
    """Where rank 0 lets the others in.

    :raises StartupError: when it cannot be opened.
    """
    if spec.gang_fd is not None:
        try:
            listener = socket.socket(fileno=spec.gang_fd)
        except OSError as e:
            raise StartupError(
                f"{spec.name} has not inherited the socket for its ranks, descriptor {spec.gang_fd}: {e.strerror or e}"
            ) from e
        with listener:
            listener.listen(2 * spec.parallel.num_ranks)
            yield listener
        return
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


def accept(listener: socket.socket) -> socket.socket | None:
    """Who comes next; None: nobody within the listener's timeout."""
    try:
        return listener.accept()[0]
    except TimeoutError:
        return None


def connect(spec: EngineSpec, end_s: float) -> socket.socket:
    """Another rank's connection to rank 0.

    :param end_s: when rank 0 must be there, as `time.monotonic` has it.
    :raises StartupError: when it is not, or cannot be reached.
    """
    where = spec.meeting_place
    while True:
        try:
            return _connect(spec)
        except OSError as e:
            if not (isinstance(e, TimeoutError) or e.errno in _NOT_THERE_YET):
                raise StartupError(f"rank 0 of {spec.name} cannot be reached at {where}: {e.strerror or e}") from e
            if time.monotonic() > end_s:
                raise StartupError(f"rank 0 of {spec.name} does not listen on {where}: {e.strerror or e}") from e
        time.sleep(LOOK_EVERY_S)


def stay_in_touch(sock: socket.socket, *, is_always_read: bool) -> None:
    """Have the kernel end a connection to a host that has vanished.

    :param is_always_read: by the other side, so that what it does not take for `VANISHED_S` does not reach it.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASK_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_EVERY_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, VANISHED_S // _ASK_EVERY_S - 1)
    if is_always_read:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_S * 1000)


async def open_stream(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection, for the event loop."""
    sock.settimeout(0)
    if sock.family == socket.AF_UNIX:
        return await asyncio.open_unix_connection(sock=sock)
    return await asyncio.open_connection(sock=sock)


def host_of(sock: socket.socket) -> str | None:
    """Where the other side is; None: here, or gone."""
    try:
        peer = sock.getpeername()
    except OSError:
        return None
    return str(peer[0]) if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def _connect(spec: EngineSpec) -> socket.socket:
    if spec.gang_address is not None:
        return socket.create_connection(split_address(spec.gang_address), timeout=_CONNECT_TIMEOUT_S)
    assert spec.gang_socket is not None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(spec.gang_socket)
    except BaseException:
        sock.close()
        raise
    return sock


def _forget_old(path: Path) -> None:
    """Remove what a server left there that was killed."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            path.unlink()


def _numeric(host: str) -> str:
    return resolve(host)[1][0]
