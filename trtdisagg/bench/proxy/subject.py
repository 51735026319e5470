"""The proxy under test: a real process between two scripted servers. Ours is started by its spec file as `up` does it,
any other by the command that the user gives."""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from trtdisagg.bench.program import MeasureError, last_words
from trtdisagg.bench.proxy.requests import MODEL, PATH
from trtdisagg.bench.proxy.scripts import make_script
from trtdisagg.protocol.proxy_spec import ModelSpec, ProxySpec, RouterSpec, UpstreamServer

if TYPE_CHECKING:
    from trtdisagg._load import Worker

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
_LOOK_S = 0.05


class Subject:
    """One that answers.

    :param name: for people.
    :param port: where clients come in.
    """

    def __init__(self, name: str, port: int, process: psutil.Process) -> None:
        self.name = name
        self.port = port
        self._process = process

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return sum(_cpu_s(process) for process in self._tree())

    def rss_mb(self) -> float:
        return sum(p.memory_info().rss for p in self._tree()) / 1e6

    def _tree(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]


@contextlib.contextmanager
def started(command: str | None) -> Iterator[Subject]:
    """A proxy with two servers of its own, while the block runs.

    :param command: of a peer, with `{context}` and `{generation}` (host:port) and `{port}` in it; None: ours.
    :raises MeasureError: when it does not answer, with its last words.
    """
    from trtdisagg._load import Worker

    context, generation = (Worker(make_script(role, ours=command is None)) for role in ("context", "generation"))
    port = _free_port()
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as output:
        if command is None:
            argv = _our_command(Path(directory), context, generation, port)
        else:
            argv = _peer_command(command, context, generation, port)
        with _running(argv, output.fileno()) as process:
            try:
                _wait_ready(process, port)
            except MeasureError as e:
                raise MeasureError(f"{shlex.join(argv)}: {e}{last_words(output)}") from None
            yield Subject(command or "trtdisagg", port, psutil.Process(process.pid))


def _our_command(directory: Path, context: Worker, generation: Worker, port: int) -> list[str]:
    router = RouterSpec(type="load_balancing")
    spec = ProxySpec(
        cluster="bench",
        port=port,
        servers=[
            UpstreamServer(name="context-0", role="context", model=MODEL, url=f"127.0.0.1:{context.port}"),
            UpstreamServer(name="generation-0", role="generation", model=MODEL, url=f"127.0.0.1:{generation.port}"),
        ],
        models={MODEL: ModelSpec(context_router=router, generation_router=router)},
        parent_pid=os.getpid(),
    )
    file = directory / "proxy.json"
    file.write_bytes(msgspec.json.encode(spec))
    return [sys.executable, "-m", "trtdisagg", "proxy", "--spec", str(file)]


def _peer_command(command: str, context: Worker, generation: Worker, port: int) -> list[str]:
    addresses = {"context": f"127.0.0.1:{context.port}", "generation": f"127.0.0.1:{generation.port}"}
    return [_filled(word, {**addresses, "port": str(port)}) for word in shlex.split(command)]


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


@contextlib.contextmanager
def _running(argv: list[str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    except OSError as e:
        raise MeasureError(f"{argv[0]} cannot be started: {e.strerror or e}") from e
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Until it answers a request."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    answer = "nothing"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MeasureError(f"it ended with exit code {process.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, text = _ask(port)
            if status == 200:
                return
            answer = f"{status} {text}"
        time.sleep(_LOOK_S)
    raise MeasureError(f"it did not answer a request within {READY_TIMEOUT_S:g} s, at last with {answer}")


def _ask(port: int) -> tuple[int, str]:
    body = msgspec.json.encode(
        {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "Are you there?"}]}
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(200).decode(errors="replace")


def _cpu_s(process: psutil.Process) -> float:
    """To the nanosecond where the kernel tells it, of the threads that live; elsewhere to 10 ms."""
    try:
        tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        times = process.cpu_times()
        return times.user + times.system


def _free_port() -> int:
    """One that was free a moment ago: a peer takes a number, not a socket."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
