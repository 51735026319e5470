"""A real proxy in front of fake engines, each a process of its own, told of each other as an agent would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from helpers.cluster import runtime_directory
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S

from trtdisagg.protocol.commands import Command, encode_command
from trtdisagg.protocol.control import Member, Members, Need, Told
from trtdisagg.protocol.proxy_spec import ProxySpec, UpstreamServer
from trtdisagg.protocol.reports import Ready, Report, decode_report
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.registry.client import put_body

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
PROXY = [sys.executable, "-m", "trtdisagg", "proxy"]
MODEL = "fake-model"


class Child:
    """One process and the reports it sends; ended, if it still runs, with the `with` block."""

    def __init__(
        self, argv: Sequence[str], spec: EngineSpec | ProxySpec, file: Path, *, pass_fds: Sequence[int] = ()
    ) -> None:
        read_fd, write_fd = os.pipe()
        command_fd, self._commands = os.pipe()
        self._pipe = read_fd
        self._unread = b""
        self.log = file.with_suffix(".log")
        fds = {"report_fd": write_fd, "parent_pid": os.getpid()}
        if isinstance(spec, EngineSpec):
            fds["command_fd"] = command_fd
        file.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, **fds)))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, "--spec", str(file)],
                pass_fds=[write_fd, command_fd, *pass_fds],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        os.close(write_fd)
        os.close(command_fd)
        self.url = ""

    def command(self, command: Command) -> None:
        os.write(self._commands, encode_command(command))

    def next_report(self) -> Report:
        """The next report; a child that ends first is an error with its log."""
        deadline = time.monotonic() + DEADLINE_S
        while b"\n" not in self._unread:
            readable, _, _ = select.select([self._pipe], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"no report within {DEADLINE_S} s\n{self.log.read_text()}"
            data = os.read(self._pipe, 65536)
            assert data, f"the child ended\n{self.log.read_text()}"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return decode_report(line)

    @contextlib.contextmanager
    def reports(self) -> Iterator[Iterator[Report]]:
        """All reports from now on, until the child ends; for a thread that does nothing else."""
        with os.fdopen(os.dup(self._pipe), "rb") as pipe:
            yield (decode_report(line) for line in pipe)

    def wait_ready(self) -> Ready:
        while not isinstance(report := self.next_report(), Ready):
            pass
        self.url = f"{report.host}:{report.port}"
        return report

    def stop(self) -> int:
        """Ask it to end and wait until it has; returns its exit code."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._pipe)
        os.close(self._commands)


class FakeEngine(Child):
    """A fake engine, and its routes for tests."""

    def __init__(self, directory: Path, name: str, flags: Sequence[str] = (), **fields: Any) -> None:
        role = fields.pop("role", name.partition("-")[0])
        defaults: dict[str, Any] = {
            "incarnation": f"{name}.1",
            "model": MODEL,
            "model_path": "none",
            "max_seq_len": 4096,
            "num_blocks": 1000,
            "port": free_port(),  # nobody else's, should it come back
        }
        self.spec = EngineSpec(cluster="test", name=name, role=role, **{**defaults, **fields})
        super().__init__([*ENGINE, *flags], self.spec, directory / f"{name}.json")
        self.foreign = "--foreign" in flags

    @property
    def member(self) -> Member:
        spec = self.spec
        return Member(
            name=spec.name,
            role=spec.role,
            model=spec.model,
            url=self.url,
            incarnation=spec.incarnation,
            wire_version=None if self.foreign else spec.wire_version,
        )

    @property
    def upstream(self) -> UpstreamServer:
        return UpstreamServer(name=self.spec.name, role=self.spec.role, model=None, url=self.url)

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.url}/fake/{path}", data)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def state(self) -> Any:
        return self.ask("state")

    async def wait(self, counter: str, at_least: int = 1) -> Any:
        """Wait until a counter of the engine is so high; returns its state then."""
        return await asyncio.to_thread(self.ask, f"wait?name={counter}&at_least={at_least}")


class Serving:
    """A proxy and the engines it was told of."""

    def __init__(self, proxy: Child, engines: dict[str, FakeEngine], socket: str | None) -> None:
        self.proxy = proxy
        self.engines = engines
        self.socket = socket

    @property
    def url(self) -> str:
        return f"http://{self.proxy.url}"

    def __getitem__(self, name: str) -> FakeEngine:
        return self.engines[name]

    def tell(
        self,
        *members: Member,
        needs: dict[str, list[Need]] | None = None,
        coming: dict[str, list[Need]] | None = None,
        ttl_ms: int = 600_000,
    ) -> Told:
        """Tell the proxy who may be routed to, as the agent does."""
        told = Members(members=list(members), needs=needs or {}, coming=coming or {}, ttl_ms=ttl_ms)
        return self.tell_raw(msgspec.json.encode(told))

    def tell_raw(self, body: bytes) -> Told:
        assert self.socket is not None
        # In a thread of its own, so that tests with and without an event loop can call it.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, put_body(self.socket, body)).result()


@contextlib.contextmanager
def serving(
    directory: Path, engines: dict[str, Sequence[str]], *, fixed: bool = False, **fields: Any
) -> Iterator[Serving]:
    """A proxy in front of engines that are ready.

    :param engines: name -> how it misbehaves; the name begins with the role.
    :param fixed: the proxy knows the engines by address instead of being told; it still has to find them.
    :param fields: of the proxy's spec; of all engines' specs with `engine_` before the name.
    """
    engine_fields = {k.removeprefix("engine_"): fields.pop(k) for k in list(fields) if k.startswith("engine_")}
    socket = None if fixed else str(runtime_directory(directory) / "members.sock")
    with contextlib.ExitStack() as stack:
        started = {}
        for name, flags in engines.items():
            started[name] = FakeEngine(directory, name, flags, **engine_fields)
            stack.callback(started[name].close)
        if not fixed:
            proxy = _start_proxy(directory, stack, members_socket=socket, **fields)
        for engine in started.values():
            engine.wait_ready()
        if fixed:
            proxy = _start_proxy(directory, stack, servers=[e.upstream for e in started.values()], **fields)
        proxy.wait_ready()
        both = Serving(proxy, started, socket)
        if not fixed:
            both.tell(*(e.member for e in started.values()))
        yield both
        assert "Traceback" not in (log := proxy.log.read_text()), log


def _start_proxy(directory: Path, stack: contextlib.ExitStack, **fields: Any) -> Child:
    spec = ProxySpec(**{"cluster": "test", "port": 0, **fields})
    proxy = Child(PROXY, spec, directory / "proxy.json", pass_fds=spec.listen_fds)
    stack.callback(proxy.close)
    return proxy
