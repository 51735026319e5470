"""What a real engine says it has in its cache, and what the proxy makes of a prompt: the same names for the same KV."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, make_spec, started

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ModelSpec, RouterSpec
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.index.index import Index
from trtdisagg.proxy.path.request import decode_incoming
from trtdisagg.proxy.routing.ask import Ask
from trtdisagg.proxy.texts import texts
from trtdisagg.proxy.texts.texts import Texts
from trtdisagg.registry.members import Roster

pytestmark = pytest.mark.anyio
PROMPT = "the end of all and then some"


class World:
    """An engine, and what a proxy knows of it."""

    def __init__(self, engine: Engine, model: Path) -> None:
        self.engine = engine
        info = msgspec.json.decode(engine.get("/server_info"), type=Member)
        self.member = msgspec.structs.replace(info, url=engine.url.removeprefix("http://"))
        roster, deadlines = Roster(), Deadlines()
        spec = ModelSpec(generation_router=RouterSpec(type="kv_cache_aware"), model_path=str(model))
        self.index = Index({"tiny": spec}, roster, Pool(), deadlines)
        self.texts = Texts({"tiny": str(model)}, deadlines, num_processes=1, routed=["tiny"])
        roster.replace("agent", [self.member])

    async def match(self, **fields: Any) -> int | None:
        """Tokens of a prompt that the engine has."""
        body = msgspec.json.encode({"model": "tiny", **fields})
        incoming = decode_incoming(body, chat="messages" in fields, request_id="test")
        reading = await self.texts.read_for_routing(incoming, self.index.roots)
        assert reading is not None
        return self.index.match(self.member, Ask(model="tiny", chains=reading.chains))

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.01)

    async def compute(self, **fields: Any) -> int:
        """Have the engine compute a prompt, and wait until it has told; returns the prompt's tokens."""
        before = self.index.followed()[0].num_blocks
        usage = (await asyncio.to_thread(self.engine.post, **fields))["usage"]
        await self.until(lambda: self.index.followed()[0].num_blocks > before)
        return int(usage["prompt_tokens"])


async def test_a_prompt_is_found_where_it_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "SHORT_TIMEOUT_S", 60.0)  # it is not to go on unread
    model = tiny_model.write(tmp_path / "model")
    with started(make_spec(model, "both-0"), tmp_path) as engine:
        await asyncio.to_thread(engine.ready)
        world = World(engine, model)
        tasks = [asyncio.create_task(part.run()) for part in (world.texts, world.index)]
        try:
            await world.until(lambda: world.index.roots("tiny") != ())
            assert await world.match(prompt=PROMPT) == 0
            num_tokens = await world.compute(prompt=PROMPT, max_tokens=1)
            assert await world.match(prompt=PROMPT) == num_tokens // 8 * 8
            assert await world.match(prompt=PROMPT + " and more of it") == num_tokens // 8 * 8
            assert await world.match(prompt="not " + PROMPT) == 0
            assert await world.match(prompt=PROMPT, cache_salt="mine") == 0
            num_tokens = await world.compute(prompt=PROMPT, max_tokens=1, cache_salt="mine")
            assert await world.match(prompt=PROMPT, cache_salt="mine") == num_tokens // 8 * 8
            assert await world.match(messages=[{"role": "user", "content": PROMPT}]) == 0
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks)
