"""The first bytes of an answer: what counts as such. And what becomes of the others."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from aiohttp import HttpVersion10, HttpVersion11

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.http1 import ResponseParser
from trtdisagg.proxy.door.visit import Visit
from trtdisagg.proxy.http.upstream import Connection
from trtdisagg.proxy.path.answer import _Passage
from trtdisagg.proxy.path.client_stream import ClientStream
from trtdisagg.proxy.path.failures import LegFailedError
from trtdisagg.proxy.path.said import DONE, Said

pytestmark = pytest.mark.anyio


class Pieces:
    """A connection that brings these, and then nothing more."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    async def next_piece(self) -> bytes:
        return self._pieces.pop(0)


async def first_of(*pieces: bytes) -> bytes:
    member, nobody = Member(name="generation-0", role="generation", model="m", url="h:1"), None
    server, client, said = Pieces(*pieces), nobody, nobody
    passage: Any = _Passage(member, client, said)  # type: ignore[arg-type]
    events: bytes = await passage.first_events(server)
    return events


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_a_comment_is_no_answer_yet(end: bytes) -> None:
    ping, event = b": ping" + 2 * end, b"data: {}" + 2 * end
    assert await first_of(event) == event
    assert await first_of(event[:3], event[3:]) == event[:3]
    assert await first_of(ping, ping[:2], ping[2:], event) == 2 * ping + event
    with pytest.raises(LegFailedError, match="empty"):
        await first_of(ping, ping)


class Wire:
    """Either side's socket: takes everything."""

    version = HttpVersion11

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def get_write_buffer_size(self) -> int:
        return 0


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = [b'data: {"choices":[{"text":"]]}"}],"seam":[%d,[%d]]}\n\n' % (i, i) for i in range(40)]
ERROR = b'data: {"error":{"message":"gone"}}\n\n'


@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
@pytest.mark.parametrize("last", [DONE, ERROR])
@pytest.mark.parametrize("seed", range(20))
async def test_however_a_stream_comes_its_events_go_on_and_are_kept(version: Any, last: bytes, seed: int) -> None:
    rng = random.Random(seed)
    request: Any = Wire()
    request.version = version
    wire: Any = Wire()
    client, said = ClientStream(request, Visit(None)), Said()
    client._transport = wire
    server = Connection(asyncio.get_running_loop())
    server.connection_made(Wire())  # type: ignore[arg-type]
    server.send(b"a request")
    server.data_received(HEAD)
    member = Member(name="generation-0", role="generation", model="m", url="h:1")
    passage = _Passage(member, client, said)
    pump = asyncio.create_task(server.pump(passage.feed, passage.drain, 10, passage.chunk_sink()))
    await asyncio.sleep(0)
    stream = framed(rng, b"".join(EVENTS) + last) + b"0\r\n\r\n"
    for piece in cut(rng, stream, num=rng.choice([0, 3, 60])):
        server.data_received(piece)
    if last == ERROR:
        with pytest.raises(LegFailedError, match="gone"):
            await pump
    else:
        await pump
        assert client.is_complete
        assert said.num_events == len(EVENTS) + 1
    expected = b"".join(EVENTS) + (DONE if last == DONE else b"")
    assert sent(wire, version) == expected
    if last == ERROR:
        assert said.token_ids() == list(range(len(EVENTS)))
        assert said.num_events == len(EVENTS)


def framed(rng: random.Random, body: bytes) -> bytes:
    """In chunks that nearly always end where an event does."""
    ends = [i + 2 for i in range(len(body)) if body.startswith(b"\n\n", i) and rng.random() < 0.8]
    parts = cut(rng, body, at=[*ends, *rng.sample(range(len(body)), rng.choice([0, 2]))])
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def cut(rng: random.Random, data: bytes, num: int = 0, at: list[int] | None = None) -> list[bytes]:
    """Where chunks end, or anywhere."""
    chunk_ends = [i + 2 for i in range(len(data)) if data.startswith(b"\r\n", i)]
    where = at if at is not None else [*chunk_ends[1::2], *rng.sample(range(len(data)), num)]
    stops = sorted({*where, len(data)})
    return [data[i:j] for i, j in zip([0, *stops], stops, strict=False) if data[i:j]]


def sent(wire: Wire, version: Any) -> bytes:
    data = b"".join(wire.sent)
    return data if version == HttpVersion10 else ResponseParser().feed(HEAD + data)
