"""A proxy in the design of `trtllm-serve disaggregated`: FastAPI and uvicorn towards clients, aiohttp towards servers,
requests are pydantic models. What a measurement does not need (most fields, retries, errors) is left out.

    python tests/peers/fastapi_proxy.py --context HOST:PORT --generation HOST:PORT --port PORT
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict

parser = argparse.ArgumentParser()
parser.add_argument("--context", required=True)
parser.add_argument("--generation", required=True)
parser.add_argument("--port", type=int, required=True)


class DisaggregatedParams(BaseModel):
    model_config = ConfigDict(extra="forbid")
    request_type: str
    first_gen_tokens: list[int] | None = None
    ctx_request_id: int | None = None
    disagg_request_id: int | None = None
    encoded_opaque_state: str | None = None
    draft_tokens: list[int] | None = None
    ctx_usage: dict[str, Any] | None = None


class Message(BaseModel):
    role: str
    content: str


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    model: str
    messages: list[Message]
    max_tokens: int | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int = 1
    user: str | None = None
    prompt_token_ids: list[int] | None = None
    disaggregated_params: DisaggregatedParams | None = None


class Choice(BaseModel):
    index: int
    message: Message
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None
    disaggregated_params: DisaggregatedParams | None = None


class ChatAnswer(BaseModel):
    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: dict[str, Any]
    prompt_token_ids: list[int] | None = None


class Proxy:
    """Both legs, one after the other."""

    def __init__(self, context: str, generation: str) -> None:
        self._context, self._generation = (f"http://{url}/v1/chat/completions" for url in (context, generation))
        self._ids = itertools.count(1 << 40)
        self._session: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as self._session:
            yield

    async def chat(self, request: ChatRequest) -> Response:
        first = await self._prefill(request)
        choice = first.choices[0]
        if choice.finish_reason not in ("length", "not_finished") or choice.disaggregated_params is None:
            return JSONResponse(first.model_dump(exclude_none=True))
        params = choice.disaggregated_params.model_copy(update={"request_type": "generation_only"})
        update = {"disaggregated_params": params, "prompt_token_ids": first.prompt_token_ids}
        asked = request.model_copy(update=update).model_dump(exclude_none=True)
        if request.stream:
            return StreamingResponse(self._stream(asked), media_type="text/event-stream")
        async with self._session.post(self._generation, json=asked) as response:
            response.raise_for_status()
            answer = ChatAnswer(**await response.json())
        return JSONResponse(answer.model_dump(exclude_none=True))

    async def _prefill(self, request: ChatRequest) -> ChatAnswer:
        params = DisaggregatedParams(request_type="context_only", disagg_request_id=next(self._ids))
        update = {"disaggregated_params": params, "stream": False, "stream_options": None}
        asked = request.model_copy(update=update).model_dump(exclude_none=True)
        async with self._session.post(self._context, json=asked) as response:
            response.raise_for_status()
            return ChatAnswer(**await response.json())

    async def _stream(self, asked: dict[str, Any]) -> AsyncIterator[bytes]:
        async with self._session.post(self._generation, json=asked) as response:
            response.raise_for_status()
            async for piece in response.content.iter_any():
                yield piece


def main() -> None:
    args = parser.parse_args()
    proxy = Proxy(args.context, args.generation)
    app = FastAPI(lifespan=proxy.lifespan)
    app.post("/v1/chat/completions")(proxy.chat)
    uvicorn.run(app, host="127.0.0.1", port=args.port, loop="uvloop", http="httptools", log_level="warning")


if __name__ == "__main__":
    main()
