"""The tasks of a node that are not its agent: they wait for its end, and end as it does.

    agent     binds a socket before it does anything else, and takes nobody in
              (and has all others by the time it ends, who may be late)
    others    connect, and read until there is an exit code, or the socket is gone with the agent: then it is 1

The socket is an abstract one: nothing is left of it when the agent is killed, and it is of this machine (or container)
alone. Whoever answers is only believed when it is of the same user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator

from trtdisagg.errors import StartupError, TrtdisaggError
from trtdisagg.net import BACKLOG

AGENT_TIMEOUT_S = 60.0
"""For the agent to be there: Slurm starts the tasks of a node together."""
_AGAIN_S = 0.05
LATE_S = 5.0
"""For a task that starts after the others: an agent whose cluster cannot be ends at once, and is to be found by all."""
_PEER = struct.Struct("3i")
"""SO_PEERCRED: pid, uid, gid."""
_KILLED = 1
_HELD_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""They reach all tasks of a step, and what follows from them the agent decides."""


def _address(run: str, node: str) -> bytes:
    return f"\0trtdisagg-{os.geteuid()}-{run}-{node}".encode()


class Agent:
    """The end of an agent, as others see it.

    :ivar exit_code: what they end with.
    """

    def __init__(self) -> None:
        self.exit_code = _KILLED


@contextlib.contextmanager
def agent_of(run: str, node: str, num_others: int) -> Iterator[Agent]:
    """Be the agent that the other tasks of a node wait for; an error's exit code is theirs, too.

    :param run: name of the step.
    :param num_others: tasks of the node that wait, or are about to.
    :raises StartupError: there is an agent of this node already.
    """
    agent = Agent()
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.bind(_address(run, node))
        except OSError as e:
            raise StartupError(f"another task of {node} is its agent already: {e.strerror}") from e
        sock.listen(BACKLOG)
        try:
            yield agent
        except TrtdisaggError as e:
            agent.exit_code = e.exit_code
            raise
        finally:
            _tell(sock, agent.exit_code, num_others)


def _tell(sock: socket.socket, exit_code: int, num_others: int) -> None:
    sock.settimeout(LATE_S)
    with contextlib.suppress(TimeoutError):
        for _ in range(num_others):
            waiter, _ = sock.accept()
            with waiter, contextlib.suppress(OSError):
                waiter.send(bytes([exit_code & 0xFF]))


def wait_for_agent(run: str, node: str, *, timeout_s: float = AGENT_TIMEOUT_S) -> int:
    """Wait for the end of this node's agent, whatever signal comes.

    :param timeout_s: for it to be there.
    :returns: its exit code; 1 when it was killed.
    :raises StartupError: it never came.
    """
    with socket.socket(socket.AF_UNIX) as sock, _signals_held():
        if not _connect(sock, _address(run, node), time.monotonic() + timeout_s):
            raise StartupError(f"the agent of {node}, its first task, was not there within {timeout_s:g} s")
        if _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1] != os.geteuid():
            raise StartupError(f"somebody else than the agent of {node} has its socket")
        try:
            told = sock.recv(1)
        except ConnectionResetError:
            told = b""
        return told[0] if told else _KILLED


def _connect(sock: socket.socket, address: bytes, deadline: float) -> bool:
    while time.monotonic() < deadline:
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            time.sleep(_AGAIN_S)  # nothing tells when an address is bound
        else:
            return True
    return False


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _HELD_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
