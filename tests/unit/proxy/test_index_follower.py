"""A server's block events as they should be, and all the ways in which they may not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.frames import frame
from trtdisagg.protocol.kv_events import KvChange, KvSnapshot
from trtdisagg.protocol.proxy_spec import ModelSpec, RouterSpec
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.index import follower as follower_module
from trtdisagg.proxy.index.index import EXPECTED_S, Index
from trtdisagg.proxy.routing.ask import Ask
from trtdisagg.registry.members import Roster

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ROOT = ("weights", 32)
CHAIN = [1, 2, 3, 4]
ASK = Ask(model="m", chains={ROOT: CHAIN})
AWARE = RouterSpec(type="kv_cache_aware")


def hashes(*keys: int) -> bytes:
    return b"".join(key.to_bytes(8, "little") + bytes(8) for key in keys)


def snapshot(*keys: int, **fields: Any) -> KvSnapshot:
    known: dict[str, Any] = {"incarnation": "c.1", "tokens_per_block": 32, "root_model": "weights", "sequence": 0}
    return KvSnapshot(**{**known, **fields}, hashes=hashes(*keys))


def change(sequence: int, *, stored: tuple[int, ...] = (), removed: tuple[int, ...] = ()) -> KvChange:
    return KvChange(sequence=sequence, stored=hashes(*stored), removed=hashes(*removed))


class Teller:
    """A server that tells what a test has it tell."""

    def __init__(self) -> None:
        self.url = ""
        self.head = HEAD
        self.first: list[Any] = [snapshot(1, 2)]
        self.streams: list[asyncio.StreamWriter] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /kv_events ")
            writer.write(self.head)
            self.streams.append(writer)
            if self.head == HEAD:
                self.tell(*self.first)
            await reader.read()
        writer.close()

    def tell(self, *messages: Any) -> None:
        self.tell_raw(b"".join(frame(msgspec.msgpack.encode(m)) for m in messages))

    def tell_raw(self, data: bytes) -> None:
        if data:
            self.streams[-1].write(b"%x\r\n%b\r\n" % (len(data), data))


class World:
    """An index that follows one server."""

    def __init__(self, roster: Roster, teller: Teller) -> None:
        self.teller = teller
        self.roster = roster
        self.member = Member(name="context-0", role="context", model="m", url=teller.url, incarnation="c.1")
        spec = ModelSpec(context_router=AWARE, model_path="somewhere")
        self.index = Index({"m": spec, "unread": ModelSpec(context_router=AWARE)}, roster, Pool(), Deadlines())

    def match(self) -> int | None:
        return self.index.match(self.member, ASK)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def world(teller: Teller) -> AsyncIterator[World]:
    server = await asyncio.start_server(teller.connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    teller.url = f"{host}:{port}"
    roster = Roster()
    world = World(roster, teller)
    roster.replace("agent", [world.member])
    task = asyncio.create_task(world.index.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.wait([task])
        server.close()
        await server.wait_closed()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(follower_module, "MAX_DELAY_S", 0.02)
    monkeypatch.setattr(follower_module, "NO_EVENTS_DELAY_S", 0.02)


async def test_a_snapshot_and_what_changes() -> None:
    async with world(teller := Teller()) as w:
        await w.until(lambda: w.match() == 64)
        assert w.index.roots("m") == (ROOT,)
        teller.tell(change(1, stored=(3,)), change(2), change(3, stored=(4,), removed=(3,)))
        await w.until(lambda: len(teller.streams) == 1 and w.index.followed()[0].num_blocks == 3)
        assert w.match() == 64
        teller.tell(change(4, stored=(3,), removed=(3,)))
        await w.until(lambda: w.match() == 128)
        assert w.index.match(w.member, Ask(model="m", chains={("weights", 64): CHAIN})) is None
        (followed,) = w.index.followed()
        assert (followed.state, followed.num_blocks, followed.num_lost) == ("following", 4, 0)


async def test_frames_in_any_pieces() -> None:
    teller = Teller()
    teller.first = []
    async with world(teller) as w:
        await w.until(lambda: len(teller.streams) == 1)
        message = frame(msgspec.msgpack.encode(snapshot(*range(1, 20_000))))
        for i in range(0, len(message), 7777):
            teller.tell_raw(message[i : i + 7777])
        await w.until(lambda: w.match() == 128)
        assert w.index.followed()[0].num_blocks == 19_999


@pytest.mark.parametrize(
    "bad",
    [
        frame(msgspec.msgpack.encode(change(2))),
        frame(msgspec.msgpack.encode(change(0))),
        frame(msgspec.msgpack.encode(KvChange(sequence=1, stored=b"short"))),
        frame(msgspec.msgpack.encode(snapshot(1, incarnation="c.2"))),
        frame(msgspec.msgpack.encode(snapshot(1, wire_version=0))),
        frame(b"\xc1"),
        b"HTTP is something else",
    ],
)
async def test_what_is_not_right_begins_anew(bad: bytes) -> None:
    async with world(teller := Teller()) as w:
        await w.until(lambda: w.match() == 64)
        teller.first = [snapshot(1)]
        teller.tell_raw(bad)
        await w.until(lambda: w.match() == 32)
        assert len(teller.streams) == 2
        assert w.index.followed()[0].num_lost == 1


async def test_without_a_server_nothing_is_known() -> None:
    async with world(teller := Teller()) as w:
        await w.until(lambda: w.match() == 64)
        teller.head = b"HTTP/1.1 503 Draining\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        teller.streams[-1].transport.abort()
        await w.until(lambda: len(teller.streams) > 3)
        assert w.match() is None
        assert w.index.roots("m") == ()
        teller.head = HEAD
        await w.until(lambda: w.match() == 64)


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "SILENCE_S", 0.05)
    async with world(teller := Teller()) as w:
        await w.until(lambda: w.match() == 64)
        await w.until(lambda: len(teller.streams) >= 2)


async def test_a_server_that_has_no_events_is_said_to_have_none(caplog: pytest.LogCaptureFixture) -> None:
    teller = Teller()
    teller.head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with world(teller) as w:
        await w.until(lambda: len(teller.streams) > 2)
        assert w.match() is None
        assert w.index.followed()[0].state == "no_events"
        assert caplog.text.count("context-0 tells nothing of its cache") == 1
        teller.head = HEAD
        await w.until(lambda: w.match() == 64)
        assert w.index.followed()[0].state == "following"


async def test_who_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    async with world(teller := Teller()) as w:
        assert "Prompts for `unread` are not read" in caplog.text
        await w.until(lambda: w.match() == 64)
        generation = msgspec.structs.replace(w.member, name="generation-0", role="generation", incarnation="g.1")
        unread = msgspec.structs.replace(w.member, name="x", model="unread", incarnation="u.1")
        other = msgspec.structs.replace(w.member, name="y", model="other", incarnation="o.1")
        w.roster.replace("agent", [w.member, generation, unread, other])
        await asyncio.sleep(0)
        assert [f.member.name for f in w.index.followed()] == ["context-0"]
        assert len(teller.streams) == 1
        assert w.index.num_unknown() == 1  # of what nobody can read, nobody knows what is cached
        w.roster.replace("agent", [generation])
        await w.until(lambda: w.index.followed() == [])
        assert w.match() is None


async def test_a_prompt_counts_from_the_moment_it_is_routed() -> None:
    async with world(Teller()) as w:
        w.index.expect(ASK, None, w.member)
        assert w.match() is None
        await w.until(lambda: w.match() == 64)
        w.index.expect(ASK, None, w.member)
        assert w.match() == 128
        assert EXPECTED_S < 60
