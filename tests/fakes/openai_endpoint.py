"""An OpenAI endpoint in this process, which answers and misbehaves as it is told; for clients that look from outside.

async with Endpoint(answer=streamed(3)) as endpoint:
    ... endpoint.url, endpoint.asked
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from fakes.tiny_http import Connection, HttpServer, Request, Response

Answer = Callable[[dict[str, Any], Connection], Awaitable[Response | None]]
MODEL = "fake-model"


class Endpoint:
    """
    :ivar answer: of what is asked; another may be put in its place at any time.
    :ivar asked: bodies, in order, but for those of the first words.
    :ivar headers: of the last request.
    :ivar most_at_once: requests that were answered at the same time.
    """

    def __init__(self, answer: Answer, models: tuple[str, ...] = (MODEL,)) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.most_at_once = 0
        self._models = models
        self._num_running = 0
        self._server = HttpServer(self._handle, max_body_bytes=1 << 20)

    async def __aenter__(self) -> Endpoint:
        self.url = f"http://127.0.0.1:{await self._server.listen('127.0.0.1', 0)}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def num_connections(self) -> int:
        return len(self._server.connections)

    async def _handle(self, request: Request) -> Response | None:
        self.headers = request.headers
        if request.path == "/v1/models":
            return Response(json.dumps({"object": "list", "data": [{"id": name} for name in self._models]}).encode())
        body = json.loads(request.body)
        if is_greeting(body):
            return await self.greeted(body, request.connection)
        self.asked.append(body)
        self._num_running += 1
        self.most_at_once = max(self.most_at_once, self._num_running)
        try:
            return await self.answer(body, request.connection)
        finally:
            self._num_running -= 1

    async def greeted(self, body: dict[str, Any], connection: Connection) -> Response | None:
        """The answer to the first words; as to all others, where that is an answer."""
        return await streamed(1)(body, connection) if body["stream"] else whole(body, 1)


def is_greeting(body: dict[str, Any]) -> bool:
    return body.get("prompt") == "Hello" or body.get("messages") == [{"role": "user", "content": "Hello"}]


def usage(body: dict[str, Any], num_tokens: int) -> dict[str, int]:
    prompt = body.get("prompt") or body["messages"][-1]["content"]
    num_input = len(prompt.split()) if isinstance(prompt, str) else len(prompt)
    return {"prompt_tokens": num_input, "completion_tokens": num_tokens, "total_tokens": num_input + num_tokens}


def whole(body: dict[str, Any], num_tokens: int) -> Response:
    text = " ".join(f"t{i}" for i in range(num_tokens))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    return Response(json.dumps({"choices": [choice], "usage": usage(body, num_tokens)}).encode())


def event(value: dict[str, Any] | str) -> bytes:
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def chunk(body: dict[str, Any], text: str, **more: Any) -> dict[str, Any]:
    said = {"delta": {"content": text}} if "messages" in body else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": None, **said}], **more}


def end(body: dict[str, Any]) -> dict[str, Any]:
    said = {"delta": {}} if "messages" in body else {"text": ""}
    return {"choices": [{"index": 0, "finish_reason": "length", **said}]}


def streamed(
    num_tokens: int | None = None, *, tokens_per_chunk: int = 1, tells: bool = True, gate: asyncio.Event | None = None
) -> Answer:
    """A stream as it should be.

    :param num_tokens: None: as many as are asked for.
    :param tells: usage, as it is asked for.
    :param gate: the second chunk and what follows waits for it.
    """

    async def answer(body: dict[str, Any], connection: Connection) -> Response | None:
        wanted = num_tokens or body["max_tokens"]
        options = body.get("stream_options", {}) if tells else {}
        connection.begin_stream("text/event-stream")
        for so_far in range(tokens_per_chunk, wanted + 1, tokens_per_chunk):
            if so_far > tokens_per_chunk and gate is not None:
                await gate.wait()
            more = {"usage": usage(body, so_far)} if options.get("continuous_usage_stats") else {}
            await connection.write(event(chunk(body, f" t{so_far}", **more)))
        await connection.write(event(end(body)))
        if options.get("include_usage"):
            await connection.write(event({"choices": [], "usage": usage(body, wanted)}))
        await connection.write(event("[DONE]"))
        await connection.end_stream()
        return None

    return answer


def refused(status: int, message: str = "no") -> Answer:
    async def answer(_body: dict[str, Any], _connection: Connection) -> Response:
        return Response(json.dumps({"error": {"message": message}}).encode(), status)

    return answer


def raw(*pieces: bytes, then_closes: bool = True) -> Answer:
    """These bytes, and the end."""

    async def answer(_body: dict[str, Any], connection: Connection) -> None:
        connection.transport.write(b"".join(pieces))
        if then_closes:
            connection.transport.close()

    return answer


async def never(_body: dict[str, Any], _connection: Connection) -> None:
    await asyncio.Event().wait()


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[Endpoint]:
    """An endpoint on a thread of its own."""
    endpoint = Endpoint(answer)
    there, over = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with endpoint:
            there.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert there.wait(20)
    try:
        yield endpoint
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join(20)
