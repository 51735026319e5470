"""An engine's HTTP face over the real engine: a tiny model, in float32, in this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from helpers.http_face import parse_events

from trtdisagg.engine.assemble import open_engine
from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.routes import make_app
from trtdisagg.engine.http.service import Service
from trtdisagg.engine.request import Output
from trtdisagg.protocol.spec import EngineSpec

TIMEOUT_S = 60


class RealFace:
    """What a test talks to."""

    def __init__(self, session: aiohttp.ClientSession, service: Service) -> None:
        self.session = session
        self._service = service

    @property
    def num_fetched(self) -> int:
        """So many requests had their KV from another server."""
        return self._service.stats().num_transfers_total

    async def events(self, path: str, body: object) -> list[Any]:
        """The events of a stream, the last one `[DONE]`."""
        async with self.session.post(path, data=json.dumps(body)) as answer:
            assert answer.status == 200, await answer.text()
            return parse_events(await answer.text())

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        async with self.session.post(path, data=json.dumps(body)) as answer:
            return answer.status, await answer.json()


class InStep(Delivery):
    """The engine waits until what a step gave has been answered, so each token is an event of its own."""

    def deliver(self, outputs: list[Output]) -> None:
        answered = threading.Event()
        super().deliver(outputs)
        self._loop.call_soon_threadsafe(answered.set)
        assert answered.wait(TIMEOUT_S)


@asynccontextmanager
async def real_face(model: Path, **changes: Any) -> AsyncIterator[RealFace]:
    """
    :param model: as tiny_model.py writes it.
    :param changes: of the spec.
    """
    fields: dict[str, Any] = {
        "cluster": "c",
        "name": "generation-0",
        "role": "both",
        "incarnation": "i",
        "model": "tiny",
        "model_path": str(model),
        "dtype": "float32",
        "max_seq_len": 256,
        "num_blocks": 256,
        "tokens_per_block": 8,
    }
    spec = EngineSpec(**{**fields, **changes})
    delivery = InStep(asyncio.get_running_loop())
    service = Service(spec, delivery)
    app = make_app(service, secret=b"", address=lambda: ("127.0.0.1", 1))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    async with open_engine(spec, b"", delivery, lambda _: None, lambda _: None) as loaded:
        service.open(loaded.engine, loaded.tokenizer, b"")
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with aiohttp.ClientSession(f"http://{host}:{port}", timeout=timeout) as session:
                yield RealFace(session, service)
        finally:
            await runner.cleanup()
