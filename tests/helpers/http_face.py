"""An engine's HTTP face over an executor without a model, on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from fakes.executor import FakeExecutor
from helpers import tiny_tokenizer

from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.routes import make_app
from trtdisagg.engine.http.service import Service
from trtdisagg.protocol.spec import EngineSpec, TransferSpec
from trtdisagg.text.tokenizer import Tokenizer

SPEC = EngineSpec(
    cluster="c",
    name="context-0",
    role="both",
    incarnation="i",
    model="tiny",
    model_path="/nowhere",
    max_seq_len=200,
    num_blocks=100,
    tokens_per_block=8,
    transfer=TransferSpec(transports=["local"]),
    max_body_bytes=10_000,
)


def make_tokenizer(chat_template: str = tiny_tokenizer.CHAT_TEMPLATE) -> Tokenizer:
    return Tokenizer(
        tiny_tokenizer.byte_level(),
        name="tiny",
        eos_token_ids=frozenset({tiny_tokenizer.EOS_ID}),
        special_tokens={},
        chat_template=chat_template,
    )


class Face:
    """What a test talks to."""

    def __init__(
        self, session: aiohttp.ClientSession, service: Service, executor: FakeExecutor, runner: web.AppRunner
    ) -> None:
        self.session = session
        self.cleanup = runner.cleanup
        self.service = service
        self.executor = executor

    async def post(self, path: str, body: object, **kwargs: Any) -> tuple[int, Any]:
        async with self.session.post(path, data=_data(body), **kwargs) as answer:
            return answer.status, json.loads(await answer.read())

    async def complete(self, prompt: object = "Hi", **fields: Any) -> Any:
        """Choice and usage of a completion that must succeed."""
        status, body = await self.post("/v1/completions", {"model": "tiny", "prompt": prompt, **fields})
        assert status == 200, body
        return body

    @asynccontextmanager
    async def reading(
        self, path: str, body: object, *, num_tokens: int = 1, **kwargs: Any
    ) -> AsyncIterator[EventReader]:
        """Begin a stream with so many tokens."""
        posting = asyncio.create_task(self._open(path, body, **kwargs))
        await self.executor.enqueued.wait()
        self.executor.step(num_tokens)
        async with await posting as answer:
            assert answer.status == 200, await answer.text()
            yield EventReader(self.executor, answer)

    async def _open(self, path: str, body: object, **kwargs: Any) -> aiohttp.ClientResponse:
        return await self.session.post(path, data=_data(body), **kwargs)

    async def events(self, path: str, body: object) -> list[Any]:
        """The events of a stream, the last one `[DONE]`."""
        async with self.session.post(path, data=_data(body)) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.content_type == "text/event-stream"
            return parse_events(await answer.text())


class EventReader:
    """A stream whose tokens come when the test says so."""

    def __init__(self, executor: FakeExecutor, answer: aiohttp.ClientResponse) -> None:
        self._executor = executor
        self._answer = answer

    async def next(self) -> Any:
        """The next event that the server sends."""
        return parse_events((await self._answer.content.readuntil(b"\n\n")).decode())[0]

    async def after(self, num_tokens: int) -> Any:
        """Have the engine compute tokens, and read an event."""
        self._executor.step(num_tokens)
        return await self.next()


def parse_events(text: str) -> list[Any]:
    lines = text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@asynccontextmanager
async def http_face(
    script: str = "Hello world",
    *,
    spec: EngineSpec = SPEC,
    secret: bytes = b"",
    steps_itself: bool = True,
    chat_template: str = tiny_tokenizer.CHAT_TEMPLATE,
    shutdown_timeout_s: float = 0.1,
) -> AsyncIterator[Face]:
    """Serve `script` as the answer to everything."""
    tokenizer = make_tokenizer(chat_template)
    delivery = Delivery(asyncio.get_running_loop())
    service = Service(spec, delivery)
    executor = FakeExecutor(
        delivery.deliver, tokenizer.encode(script), eos=tiny_tokenizer.EOS_ID, steps_itself=steps_itself
    )
    service.open(executor, tokenizer, secret)
    app = make_app(service, secret=secret, address=lambda: ("127.0.0.1", 1234))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=shutdown_timeout_s)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}", timeout=aiohttp.ClientTimeout(total=20)) as session:
            yield Face(session, service, executor, runner)
    finally:
        await runner.cleanup()


def _data(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
