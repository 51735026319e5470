"""Talks to a running agent over its control socket: status, once or as it changes, events, down.

Plain sockets and http.client, because a command has to answer at once and an HTTP library takes longer to import than
the answer takes.
"""

from __future__ import annotations

import http.client
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trtdisagg.errors import NotRunningError, StartupError, TrtdisaggError
from trtdisagg.protocol.control import ClusterStatus, Done, DownRequest, Refused
from trtdisagg.protocol.trace import Traces
from trtdisagg.supervisor.place import Place

_TIMEOUT_S = 10.0


class ControlClient:
    """One cluster's agent, seen from a command. Each call is a connection of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def status(self) -> ClusterStatus:
        """What runs, and how it is.

        :raises NotRunningError: when no agent answers.
        """
        return msgspec.json.decode(self._request("GET", "/status"), type=ClusterStatus)

    def down(self, request: DownRequest | None = None) -> int:
        """Ask the cluster to go down; the answer comes at once, `wait_until_gone` waits for the deed.

        :returns: pid of the agent.
        :raises NotRunningError: when no agent answers.
        """
        pid = self.status().agent_pid
        self._request("POST", "/down", msgspec.json.encode(request or DownRequest()))
        return pid

    def ask(self, verb: str, request: msgspec.Struct, *, timeout_s: float | None = None) -> Done:
        """Have a verb carried out: `scale`, `drain`, `remove`, `restart`, `switch`, `apply`.

        :param timeout_s: for the answer; None: the agent has deadlines of its own.
        :raises NotRunningError: when no agent answers.
        :raises TrtdisaggError: when it refused, with its message and exit code.
        """
        body = msgspec.json.encode(request)
        return msgspec.json.decode(self._request("POST", f"/{verb}", body, timeout_s), type=Done)

    def traces(self, query: str) -> Traces:
        """What the proxy says of requests.

        :param query: `id=ID`, `last=N` or `slowest=N`.
        :raises NotRunningError: when no agent answers.
        """
        return msgspec.json.decode(self._request("GET", f"/traces?{query}"), type=Traces)

    def watch(self) -> Iterator[ClusterStatus]:
        """The status of now, and another one whenever something has changed, until the agent ends.

        :raises NotRunningError: when no agent answers.
        """
        for line in self._lines("/status/stream", timeout_s=None):
            yield msgspec.json.decode(line, type=ClusterStatus)

    def events(self, *, follow: bool = True) -> Iterator[str]:
        """What happened, then what happens: one JSON object a line, until the agent ends.

        :param follow: False: what happened only.
        :raises NotRunningError: when no agent answers.
        """
        yield from self._lines("/events" if follow else "/events?follow=0", None if follow else _TIMEOUT_S)

    def _lines(self, path: str, timeout_s: float | None) -> Iterator[str]:
        connection = _Connection(self._place.control_socket, timeout_s=timeout_s)
        try:
            answer = _answer(connection, "GET", path)
            if answer.status >= 400:
                raise _refusal(path, answer.read())
            for line in answer:
                yield line.decode().rstrip("\n")
        except (OSError, http.client.HTTPException) as e:
            raise NotRunningError(_not_running(self._place)) from e
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, body: bytes | None = None, timeout_s: float | None = _TIMEOUT_S
    ) -> bytes:
        connection = _Connection(self._place.control_socket, timeout_s=timeout_s)
        try:
            answer = _answer(connection, method, path, body)
            content = answer.read()
        except TimeoutError as e:
            raise StartupError(f"The agent of {self._place.run_dir.name} does not answer within {timeout_s:g} s") from e
        except (OSError, http.client.HTTPException) as e:
            raise NotRunningError(_not_running(self._place)) from e
        finally:
            connection.close()
        if answer.status >= 400:
            raise _refusal(path, content)
        return content


def wait_until_gone(pid: int, timeout_s: float) -> bool:
    """Wait for the end of a process, which need not be a child.

    :returns: False when the deadline passed first.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def _answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> http.client.HTTPResponse:
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    return connection.getresponse()


def _refusal(path: str, content: bytes) -> TrtdisaggError:
    try:
        refused = msgspec.json.decode(content, type=Refused)
    except msgspec.DecodeError:
        return StartupError(f"The agent refused {path}: {content.decode(errors='replace')}")
    error = TrtdisaggError(refused.message)
    error.exit_code = refused.exit_code
    return error


def _not_running(place: Place) -> str:
    name = place.run_dir.name.rpartition("-")[0]
    return (
        f"{name} is not running on {socket.gethostname()}: nobody answers at {place.control_socket}. A cluster on "
        "several nodes, or of a Slurm job, is asked on its first node"
    )


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, *, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
