"""The life of an engine process, with an engine that needs no loading."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import pytest
from fakes.executor import FakeExecutor
from helpers import tiny_tokenizer
from helpers.http_face import SPEC, make_tokenizer
from helpers.ports import free_port

from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.serve import Loaded, Server
from trtdisagg.errors import ConfigError, StartupError, TrtdisaggError
from trtdisagg.protocol.commands import SwitchRole, encode_command
from trtdisagg.protocol.reports import Beat, Loading, Ready, Report, Reporter, decode_report
from trtdisagg.protocol.spec import EngineSpec, Role

pytestmark = pytest.mark.anyio

ROLES: tuple[Role, ...] = ("context", "generation", "both")
GOOD = {"model": "tiny", "prompt": "Hi"}


ReportKind = TypeVar("ReportKind", Loading, Ready, Beat)


class Process:
    """A server that runs in this process, and the agent's view of it."""

    def __init__(self) -> None:
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.closed = False
        self.executor: FakeExecutor

    @asynccontextmanager
    async def open_engine(
        self, spec: EngineSpec, secret: bytes, delivery: Delivery, stage: Callable[[str], None]
    ) -> AsyncIterator[Loaded]:
        stage("weights")
        await self.may_load.wait()
        tokenizer = make_tokenizer()
        self.executor = FakeExecutor(delivery.deliver, tokenizer.encode("Hello"), eos=tiny_tokenizer.EOS_ID)
        try:
            yield Loaded(self.executor, tokenizer)
        finally:
            self.closed = True

    @asynccontextmanager
    async def running(self, spec: EngineSpec = SPEC) -> AsyncIterator[asyncio.Task[int]]:
        read_fd, report_fd = os.pipe()
        command_fd, self._commands = os.pipe()
        with os.fdopen(read_fd, "rb") as self._reports:
            reporter = Reporter(report_fd)
            spec = msgspec.structs.replace(spec, command_fd=command_fd)
            task = asyncio.create_task(Server(spec, reporter, self.open_engine).run())
            try:
                yield task
            finally:
                task.cancel()
                await asyncio.wait([task])
                reporter.close()
                self.end_commands()

    def command(self, line: bytes) -> None:
        os.write(self._commands, line)

    def end_commands(self) -> None:
        if self._commands >= 0:
            os.close(self._commands)
            self._commands = -1

    async def report(self, kind: type[ReportKind]) -> ReportKind:
        """The next report of a kind."""
        while True:
            line = await asyncio.wait_for(asyncio.to_thread(self._reports.readline), 60)
            if isinstance(report := decode_report(line), kind):
                return report


@asynccontextmanager
async def client(ready: Report) -> AsyncIterator[aiohttp.ClientSession]:
    assert isinstance(ready, Ready)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(f"http://{ready.host}:{ready.port}", timeout=timeout) as session:
        yield session


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_from_loading_to_drained() -> None:
    process = Process()
    async with process.running() as task:
        ready = await process.report(Ready)
        assert (ready.max_seq_len, ready.num_blocks, ready.tokens_per_block) == (200, 100, 8)
        (warm_up,) = process.executor.requests
        assert warm_up.sampling.max_tokens == 2
        await process.report(Beat)
        async with client(ready) as session:
            process.executor.steps_itself = False
            process.executor.enqueued.clear()
            asking = asyncio.create_task(session.post("/v1/completions", json=GOOD))
            await process.executor.enqueued.wait()
            terminate()
            await process.report(Beat)
            async with session.get("/health") as answer:
                assert answer.status == 503
                assert "draining" in await answer.text()
            assert not task.done()
            process.executor.step(6)
            async with await asking as answer:
                assert (await answer.json())["choices"][0]["text"] == "Hello"
        assert await asyncio.wait_for(task, 60) == 0
        assert process.closed


async def test_held_blocks_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    process = Process()
    async with process.running() as task:
        await process.report(Ready)
        process.executor.num_held_blocks = 2
        terminate()
        for _ in range(2):
            await process.report(Beat)
        assert not task.done()
        assert "draining; waits for: 2 blocks held for generation servers" in caplog.text
        process.executor.num_held_blocks = 0
        assert await asyncio.wait_for(task, 60) == 0
        assert "drained" in caplog.messages


async def test_second_signal_ends_streams_with_an_error() -> None:
    """Also when the engine does not: it is not asked."""
    process = Process()
    async with process.running() as task, client(await process.report(Ready)) as session:
        process.executor.steps_itself = False
        process.executor.enqueued.clear()
        asking = asyncio.create_task(session.post("/v1/completions", json={**GOOD, "stream": True}))
        await process.executor.enqueued.wait()
        process.executor.step()
        async with await asking as answer:
            terminate()
            while (await session.get("/health")).status != 503:
                pass
            terminate()
            text = await answer.text()
        assert text.startswith('data: {"id"')
        assert "The server is shutting down" in text
        assert await asyncio.wait_for(task, 60) == 128 + signal.SIGTERM


async def test_second_signal_ends_at_once() -> None:
    process = Process()
    async with process.running() as task:
        await process.report(Ready)
        process.executor.num_held_blocks = 2
        terminate()
        await process.report(Beat)
        terminate()
        assert await asyncio.wait_for(task, 60) == 128 + signal.SIGTERM
        assert process.closed


async def test_signal_while_it_loads_ends_it() -> None:
    process = Process()
    process.may_load.clear()
    async with process.running() as task:
        await process.report(Loading)
        terminate()
        assert await asyncio.wait_for(task, 60) == 128 + signal.SIGTERM


async def test_health_says_that_it_loads() -> None:
    process, port = Process(), free_port()
    process.may_load.clear()
    async with process.running(msgspec.structs.replace(SPEC, port=port)):
        await process.report(Loading)
        async with client(Ready(host="127.0.0.1", port=port)) as session, session.get("/health") as answer:
            assert answer.status == 503
            assert "starting" in await answer.text()


async def test_an_engine_that_hangs_beats_on_without_progress(caplog: pytest.LogCaptureFixture) -> None:
    process = Process()
    async with process.running():
        await process.report(Ready)
        process.executor.reason = "it hangs"
        await process.report(Beat)
        while not (first := await process.report(Beat)).is_working:
            pass
        then = await process.report(Beat)
        assert (then.progress, then.is_working) == (first.progress, True)
        assert "it hangs" in caplog.text
        process.executor.reason = None
        while (await process.report(Beat)).is_working:
            pass


@pytest.mark.parametrize("old", ROLES)
@pytest.mark.parametrize("new", ROLES)
async def test_switches_role_with_all_else_as_it_was(old: Role, new: Role) -> None:
    process = Process()
    async with process.running(msgspec.structs.replace(SPEC, role=old)) as task:
        ready = await process.report(Ready)
        assert ready.role == old
        process.command(encode_command(SwitchRole(role=new)))
        assert await process.report(Ready) == msgspec.structs.replace(ready, role=new)
        async with client(ready) as session:
            async with session.get("/server_info") as answer:
                assert (await answer.json())["role"] == new
            async with session.get("/metrics") as answer:
                assert (
                    f'trtdisagg_server_role{{model="tiny",role="{new}",server="context-0"}} 1.0' in await answer.text()
                )
            for request_type in ("context_only", "context_and_generation"):
                body = {**GOOD, "disaggregated_params": {"request_type": request_type}}
                async with session.post("/v1/completions", json=body) as answer:
                    assert answer.status == 200
        assert not task.done()


async def test_a_role_that_comes_while_it_loads_is_the_one_it_is_ready_in() -> None:
    process = Process()
    process.may_load.clear()
    async with process.running(msgspec.structs.replace(SPEC, role="context")):
        await process.report(Loading)
        process.command(encode_command(SwitchRole(role="generation")))
        await process.report(Beat)
        await process.report(Beat)
        process.may_load.set()
        assert (await process.report(Ready)).role == "generation"


async def test_nobody_commands_any_more(caplog: pytest.LogCaptureFixture) -> None:
    process = Process()
    async with process.running():
        await process.report(Ready)
        process.command(b"dance\n")
        process.end_commands()
        await process.report(Beat)
        await process.report(Beat)
        assert "is not understood" in caplog.text


async def test_engine_that_cannot_generate_is_not_ready() -> None:
    process = Process()
    opened = process.open_engine

    @asynccontextmanager
    async def broken(*args: object) -> AsyncIterator[Loaded]:
        async with opened(*args) as loaded:  # type: ignore[arg-type]
            process.executor.error = "NaN"
            yield loaded

    process.open_engine = broken  # type: ignore[method-assign]
    async with process.running() as task:
        with pytest.raises(StartupError, match="no token could be generated: NaN"):
            await asyncio.wait_for(task, 60)
        assert process.closed


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_open_to_others_without_a_secret_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="there is no secret"):
        await Server(msgspec.structs.replace(SPEC, host=host), Reporter(None), Process().open_engine).run()


async def test_open_to_others_with_a_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    process = Process()
    spec = msgspec.structs.replace(SPEC, host="0.0.0.0", secret_file=str(secret))
    async with process.running(spec):
        ready = await process.report(Ready)
        async with client(Ready(host="127.0.0.1", port=ready.port)) as session:
            headers = {"Authorization": "Bearer s3cret"}
            async with session.post("/v1/completions", json=GOOD, headers=headers) as answer:
                assert answer.status == 200
            async with session.post("/v1/completions", json=GOOD) as answer:
                assert answer.status == 401


async def test_port_in_use_is_said_with_its_holder() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = msgspec.structs.replace(SPEC, port=taken.getsockname()[1])
        with pytest.raises(StartupError, match=rf"in use by pid {os.getpid()} \("):
            await Server(spec, Reporter(None), Process().open_engine).run()


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("\n", "is empty")])
def test_secret_that_is_none(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    spec = msgspec.structs.replace(SPEC, secret_file=str(path))
    with pytest.raises(TrtdisaggError, match=message):
        Server(spec, Reporter(None), Process().open_engine)
