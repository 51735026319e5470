"""The pool and its connections against a server that does just what a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from trtdisagg.proxy.http import pool as pool_module
from trtdisagg.proxy.http.pool import Pool, UnreachableError
from trtdisagg.proxy.http.upstream import HIGH_WATER_BYTES, BrokenError, ChunkSink, Connection, SilentError

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Script = Callable[["Scripted", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Scripted:
    """A server that runs a script for each connection."""

    def __init__(self) -> None:
        self.url = ""
        self.listener: asyncio.Server
        self.requests: list[bytes] = []
        self.num_connections = 0
        self.num_closed = 0
        self.closed = asyncio.Event()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
        self.requests.append(head + await reader.readexactly(length))
        return self.requests[-1]


@contextlib.asynccontextmanager
async def scripted(pool: Pool, script: Script) -> AsyncIterator[Scripted]:
    server = Scripted()
    handlers: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            handlers.add(task)
        server.num_connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(server, reader, writer)
            await writer.drain()
        server.num_closed += 1
        server.closed.set()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    listener = server.listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server.url = f"{host}:{port}"
    async with asyncio.timeout(60):
        yield server
        listener.close()
        pool.close_idle()
        await asyncio.gather(*handlers)


async def always_ok(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await server.request(reader)
        writer.write(OK)


def answering(*pieces: bytes, then_hang: bool = False) -> Script:
    """Answers one request with these bytes, then closes, or reads until the other side does."""

    async def script(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then_hang:
            await reader.read()

    return script


async def ask(pool: Pool, server: Scripted) -> tuple[int, bytes]:
    head, body = await pool.exchange(server.url, "POST", "/p", b"{}", "id-1").fetch(10**6)
    return head.status, body


@pytest.fixture
async def pool() -> Pool:
    return Pool("swordfish")


async def test_a_connection_is_used_again(pool: Pool) -> None:
    async with scripted(pool, always_ok) as server:
        assert [await ask(pool, server) for _ in range(3)] == [(200, b"ok")] * 3
        assert server.num_connections == 1
        head = server.requests[0].decode().split("\r\n")
        assert head[0] == "POST /p HTTP/1.1"
        assert {f"Host: {server.url}", "Authorization: Bearer swordfish", "X-Request-Id: id-1"} <= set(head)
        assert server.requests[0].endswith(b"\r\n\r\n{}")
        pool.close_idle()
        await server.closed.wait()


async def test_requests_at_once_have_connections_of_their_own(pool: Pool) -> None:
    async with scripted(pool, always_ok) as server:
        await asyncio.gather(*(ask(pool, server) for _ in range(5)))
        assert server.num_connections == 5


async def test_an_idle_connection_that_the_server_closed_is_replaced_unseen(pool: Pool) -> None:
    async def closes_when_asked_again(
        server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await server.request(reader)
        writer.write(OK)
        if server.num_connections == 1:
            await server.request(reader)
        else:
            await always_ok(server, reader, writer)

    async with scripted(pool, closes_when_asked_again) as server:
        assert await ask(pool, server) == (200, b"ok")
        assert await ask(pool, server) == (200, b"ok")
        assert server.num_connections == 2
        assert len(server.requests) == 3


async def test_who_is_given_up_is_not_asked_again(pool: Pool) -> None:
    has_come = asyncio.Event()

    async def answers_once(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(OK)
        await server.request(reader)
        has_come.set()
        await reader.read()

    async with scripted(pool, answers_once) as server:
        await ask(pool, server)
        exchange = pool.exchange(server.url, "POST", "/p", b"{}")
        asking = asyncio.create_task(exchange.__aenter__())
        await has_come.wait()
        exchange.give_up()
        with pytest.raises(BrokenError):
            await asking
        assert len(server.requests) == 2


async def test_a_server_that_ends_with_a_request_has_seen_it(pool: Pool) -> None:
    async def answers_once(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(OK)
        await server.request(reader)
        listener.close()

    async with scripted(pool, answers_once) as server:
        listener = server.listener
        await ask(pool, server)
        with pytest.raises(BrokenError):
            await ask(pool, server)
        with pytest.raises(UnreachableError):
            await ask(pool, server)


async def test_what_nobody_asked_for_is_not_the_next_answer(pool: Pool) -> None:
    more, has_more = asyncio.Event(), asyncio.Event()

    async def says_more(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(OK)
        if server.num_connections == 1:
            await more.wait()
            writer.write(b"HTTP/1.1 200 OK\r\n")
            await writer.drain()
            has_more.set()
            await server.request(reader)
            writer.write(b"Content-Length: 4\r\n\r\nevil")

    async with scripted(pool, says_more) as server:
        assert await ask(pool, server) == (200, b"ok")
        [(_, idle)] = pool._idle[server.url]
        more.set()
        await has_more.wait()
        while idle.is_reusable:  # until it has come
            await asyncio.sleep(0)
        assert await ask(pool, server) == (200, b"ok")
        assert server.num_connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        CHUNKED + b"5\r\nab",
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_is_an_error(pool: Pool, answer: bytes) -> None:
    async with scripted(pool, answering(answer)) as server:
        with pytest.raises(BrokenError):
            await ask(pool, server)
        assert server.num_connections == 1, "a fresh connection is not tried twice"


@pytest.mark.parametrize("answer", [OK.replace(b"200 OK", b"200 OK\r\nConnection: close"), OK + b"HTTP/1.1 200 OK"])
async def test_a_connection_that_cannot_be_used_again_is_closed(pool: Pool, answer: bytes) -> None:
    async with scripted(pool, answering(answer, then_hang=True)) as server:
        assert await ask(pool, server) == (200, b"ok")
        await server.closed.wait()


async def test_leaving_before_the_end_closes_the_connection(pool: Pool) -> None:
    async with scripted(pool, answering(CHUNKED + b"2\r\nab\r\n", then_hang=True)) as server:
        async with pool.exchange(server.url, "POST", "/p") as (_, connection):
            assert await connection.next_piece() == b"ab"
        await server.closed.wait()


async def test_being_cancelled_closes_the_connection(pool: Pool) -> None:
    async with scripted(pool, answering(then_hang=True)) as server:
        asking = asyncio.create_task(ask(pool, server))
        while not server.requests:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.closed.wait()


async def test_a_redirect_is_an_answer_like_any_other(pool: Pool) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with scripted(pool, answering(moved)) as server:
        assert await ask(pool, server) == (302, b"")
        assert len(server.requests) == 1


async def test_an_answer_over_the_limit_is_refused(pool: Pool) -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000
    async with (
        scripted(pool, answering(long)) as server,
        pool.exchange(server.url, "POST", "/p") as (_, connection),
    ):
        with pytest.raises(BrokenError, match="longer than 2000"):
            await connection.read(2000)


async def test_nobody_there(pool: Pool) -> None:
    async with scripted(pool, always_ok) as server:
        url = server.url
    for bad in (url, "no-such-host.invalid:1", "127.0.0.1:port", "127.0.0.1"):
        with pytest.raises(UnreachableError):
            async with pool.exchange(bad, "POST", "/p"):
                pass


async def test_connecting_has_a_deadline(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", lambda *_: asyncio.sleep(3600))
    with pytest.raises(UnreachableError, match=r"within 0\.05 s"):
        await pool.connect("127.0.0.1:1")


async def test_old_idle_connections_are_closed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(pool, always_ok) as server:
        await ask(pool, server)
        pool.close_old()
        assert server.num_closed == 0
        monkeypatch.setattr(pool_module, "MAX_IDLE_S", -1)
        pool.close_old()
        await server.closed.wait()
        assert await ask(pool, server) == (200, b"ok")
        assert server.num_connections == 2


# --- pumping --------------------------------------------------------------------------------------------------------


async def no_need() -> None:
    raise AssertionError("the sink was never full")


async def test_a_pump_passes_every_byte_on_and_the_connection_goes_back(pool: Pool) -> None:
    pieces = [b"%x\r\n%b\r\n" % (n, b"x" * n) for n in range(1, 300)]
    async with scripted(pool, answering(CHUNKED, *pieces, b"0\r\n\r\n", then_hang=True)) as server:
        got = bytearray()
        async with pool.exchange(server.url, "POST", "/p") as (_, connection):
            await connection.pump(lambda data: got.extend(data) is None, no_need, 10)
            assert connection.is_reusable
        assert len(got) == sum(range(1, 300))


async def test_whole_chunks_are_passed_on_as_they_came_unless_they_are_not_taken(pool: Pool) -> None:
    pieces = [b"%x\r\n%b\r\n" % (n, b"x" * n) for n in range(1, 300)]
    async with scripted(pool, answering(CHUNKED, *pieces, b"0\r\n\r\n", then_hang=True)) as server:
        framed, got = [], bytearray()

        def take(chunks: bytes) -> bool:
            framed.append(chunks)
            return len(framed) % 2 == 0

        async with pool.exchange(server.url, "POST", "/p") as (_, connection):
            chunk_sink = ChunkSink(b"x\r\n", take)
            await connection.pump(lambda data: got.extend(data) is None, no_need, 10, chunk_sink)
            assert connection.is_reusable
        num_passed = sum(chunks.count(b"x") for chunks in framed[1::2])
        assert got.count(b"x") + num_passed == sum(range(1, 300))


async def test_a_full_sink_stops_the_server_until_it_is_drained(pool: Pool) -> None:
    total = 16 * 2**20

    async def endless(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()
            server.num_closed += 1

    async with scripted(pool, endless) as server:
        num_bytes = 0
        num_while_full: list[int] = []

        def sink(data: bytes) -> bool:
            nonlocal num_bytes
            num_bytes += len(data)
            return False

        async def drain() -> None:
            before = num_bytes
            await asyncio.sleep(0)
            num_while_full.append(num_bytes - before)

        async with pool.exchange(server.url, "POST", "/p") as (_, connection):
            await connection.pump(sink, drain, 10)
        assert num_bytes == total
        assert num_while_full
        assert set(num_while_full) == {0}


async def test_pieces_that_nobody_takes_stop_the_server(pool: Pool) -> None:
    many = [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 200
    async with (
        scripted(pool, answering(CHUNKED, *many, b"0\r\n\r\n")) as server,
        pool.exchange(server.url, "POST", "/p") as (_, connection),
    ):
        while connection._reading:
            await asyncio.sleep(0)
        assert connection._num_kept_bytes < HIGH_WATER_BYTES + 2**20
        assert len(await connection.read(200 * 65536)) == 200 * 65536


async def test_silence_has_a_deadline_counted_from_the_last_piece(pool: Pool) -> None:
    async def slower_and_slower(server: Scripted, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(CHUNKED)
        for _ in range(6):
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.3)
        await reader.read()

    async with scripted(pool, slower_and_slower) as server:
        got = bytearray()
        async with pool.exchange(server.url, "POST", "/p") as (_, connection):
            with pytest.raises(SilentError):
                await connection.pump(lambda data: got.extend(data) is None, no_need, 1.2)
        assert got == b"xxxxxx"


async def test_a_pump_that_breaks_off_says_so_behind_what_came(pool: Pool) -> None:
    async with scripted(pool, answering(CHUNKED + b"2\r\nab\r\n5\r\ncd")) as server:
        got = bytearray()
        async with pool.exchange(server.url, "POST", "/p") as (_, connection):
            with pytest.raises(BrokenError, match="before the end"):
                await connection.pump(lambda data: got.extend(data) is None, no_need, 10)
        assert got == b"abcd"


class NoWire(asyncio.Transport):
    """A transport that notes whether it is to read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


async def test_a_connection_that_brought_much_at_once_reads_on_for_the_next_request() -> None:
    connection, wire = Connection(asyncio.get_running_loop()), NoWire()
    connection.connection_made(wire)
    body = bytes(2 * HIGH_WATER_BYTES)
    for _ in range(2):
        connection.send(b"GET / HTTP/1.1\r\n\r\n")
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert not wire.reads
        assert await connection.read(10**6) == body
        assert wire.reads
        assert connection.is_reusable
