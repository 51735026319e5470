"""`GET /kv_events`: a snapshot, then what changes, for each listener by itself."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from helpers import tiny_model
from helpers.http_face import Face, http_face
from helpers.real_face import RealFace, real_face

from trtdisagg.engine.http import kv_feed
from trtdisagg.engine.http.kv_feed import Feed
from trtdisagg.protocol.kv_events import KvChange, KvSnapshot
from trtdisagg.text.block_hash import extend_chain, root_hash

pytestmark = pytest.mark.anyio

ONE, TWO, THREE = (bytes([i]) * 16 for i in range(1, 4))


class Following:
    """Somebody who keeps count."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self.sequence = 0

    async def message(self) -> KvSnapshot | KvChange:
        (size,) = struct.unpack(">I", await self._answer.content.readexactly(4))
        body = await self._answer.content.readexactly(size)
        message = msgspec.msgpack.decode(body, type=KvSnapshot | KvChange)
        if isinstance(message, KvChange):
            self.sequence += 1
            assert message.sequence == self.sequence
        return message

    async def next(self) -> KvSnapshot | KvChange:
        """The next message that is no heartbeat."""
        message = await self.message()
        while isinstance(message, KvChange) and not (message.stored or message.removed):
            message = await self.message()
        return message


@asynccontextmanager
async def following(face: Face | RealFace) -> AsyncIterator[Following]:
    async with face.session.get("/kv_events") as answer:
        assert (answer.status, answer.content_type) == (200, "application/msgpack")
        yield Following(answer)


async def test_a_snapshot_and_then_what_changes() -> None:
    async with http_face() as face, following(face) as first:
        blocks = face.executor.blocks
        snapshot = await first.next()
        assert snapshot == KvSnapshot(incarnation="i", tokens_per_block=8, root_model="weights", sequence=0, hashes=b"")
        blocks.stored(b"", ONE, [])
        blocks.stored(ONE, TWO, [])
        blocks.tell()
        assert await first.next() == KvChange(sequence=1, stored=ONE + TWO)
        async with following(face) as second:
            late = await second.next()
            assert isinstance(late, KvSnapshot)
            assert late.hashes == ONE + TWO
            blocks.removed(TWO)
            blocks.stored(ONE, THREE, [])
            blocks.tell()
            assert await second.next() == KvChange(sequence=1, stored=THREE, removed=TWO)
        assert await first.next() == KvChange(sequence=2, stored=THREE, removed=TWO)


async def test_a_heartbeat_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_feed, "HEARTBEAT_S", 0.01)
    async with http_face() as face, following(face) as follower:
        await follower.message()
        for i in range(1, 4):
            assert await follower.message() == KvChange(sequence=i)
        face.executor.blocks.stored(b"", ONE, [])
        face.executor.blocks.tell()
        change = await follower.next()
        assert isinstance(change, KvChange)
        assert change.stored == ONE


async def test_a_server_that_ends_does_not_wait_for_those_who_listen() -> None:
    async with http_face(shutdown_timeout_s=60) as face, following(face) as follower:
        await follower.next()
        async with asyncio.timeout(60):
            await face.cleanup()
        with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError)):
            await follower.next()
        assert face.executor.num_listeners == 0


async def test_a_listener_that_leaves_is_forgotten() -> None:
    async with http_face() as face:
        async with following(face) as follower:
            await follower.next()
            assert face.executor.num_listeners == 1
        async with asyncio.timeout(60):
            await face.executor.left.wait()
        assert face.executor.num_listeners == 0


async def test_a_listener_that_is_too_slow_is_cut_off() -> None:
    was_cut_off = []
    feed = Feed(lambda: was_cut_off.append(True), max_waiting_bytes=200)
    feed.put(b"x" * 1000, b"")  # a snapshot may be large
    assert await feed.take() == [(b"x" * 1000, b"")]
    for i in range(10):
        feed.put(bytes([i]) * 16, b"")
    await asyncio.sleep(0)
    assert was_cut_off == [True]


async def test_a_listener_that_does_not_read_ends_and_holds_nobody_up() -> None:
    async with http_face() as face, following(face) as other, face.session.get("/kv_events") as deaf:
        await other.next()
        async with asyncio.timeout(60):
            num_told = 0
            while not face.executor.left.is_set():
                face.executor.blocks.stored(b"", num_told.to_bytes(1 << 16, "big"), [])
                face.executor.blocks.tell()
                num_told += 1
                assert isinstance(await other.next(), KvChange)
        assert face.executor.num_listeners == 1
        assert num_told * (1 << 16) > kv_feed.MAX_WAITING_BYTES
        with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError)):
            await deaf.content.readexactly(1 << 40)


async def test_an_engine_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_feed, "SNAPSHOT_TIMEOUT_S", 0.01)
    async with http_face() as face:
        monkeypatch.setattr(face.executor, "listen", lambda _: None)
        async with face.session.get("/kv_events") as answer:
            assert answer.status == 503
            assert "said nothing of its blocks" in await answer.text()


async def test_a_prompt_that_was_computed_is_found_by_whoever_follows(tmp_path: Path) -> None:
    prompt = [*range(10, 30)]
    async with real_face(tiny_model.write(tmp_path / "tiny")) as face, following(face) as follower:
        snapshot = await follower.message()
        assert isinstance(snapshot, KvSnapshot)
        chain: list[bytes] = []
        extend_chain(chain, root_hash(snapshot.root_model, "pepper"), prompt, snapshot.tokens_per_block, len(prompt))
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, "cache_salt": "pepper"}
        assert (await face.post("/v1/completions", body))[0] == 200
        change = await follower.next()
        assert isinstance(change, KvChange)
        assert change.stored == b"".join(chain)
        async with following(face) as late:
            snapshot = await late.message()
            assert isinstance(snapshot, KvSnapshot)
            assert snapshot.hashes == change.stored


async def test_only_who_knows_the_secret_may_listen() -> None:
    async with http_face(secret=b"together") as face, face.session.get("/kv_events") as answer:
        assert answer.status == 401
