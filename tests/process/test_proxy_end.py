"""How a proxy ends: what runs is answered, who comes waits for its successor, and a second signal breaks off aloud."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes import words
from helpers.cluster import runtime_directory
from helpers.serving import DEADLINE_S, MODEL, PROXY, Child, Serving, serving

from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.reports import Failed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket as the agent opens it: it stays open whatever becomes of the proxy."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        yield sock


class Client:
    """One connection that is kept open; its requests are written by hand, so that nothing is tried again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, cluster: Serving) -> Client:
        host, port = cluster.proxy.url.split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, method: str, path: str, fields: Any = None) -> tuple[int, dict[str, str], bytes]:
        body = json.dumps(fields).encode() if fields is not None else b""
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(DEADLINE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
            answer = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, answer

    async def is_closed(self) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            closed = await self.reader.read() == b""
        await self.close()
        return closed

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def body(prompt: str, num_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": num_tokens, "stream": stream}


async def read(http: aiohttp.ClientSession, cluster: Serving, fields: dict[str, Any]) -> tuple[int, str]:
    """Ask and read to the end: status and body, of a stream the text of its events if it ended well."""
    async with http.post(f"{cluster.url}/v1/completions", json=fields) as answer:
        text = await answer.text()
    if answer.status != 200 or not text.endswith("data: [DONE]\n\n"):
        return answer.status, text
    events = [json.loads(e.removeprefix("data: ")) for e in text.split("\n\n")[:-2]]
    return answer.status, "".join(c["text"] for e in events for c in e["choices"])


async def test_sigterm_drains(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": ["--hold-generation"]}) as cluster:
        asking = asyncio.create_task(read(http, cluster, body("drained", 5)))
        await cluster["generation-0"].wait("fetched")
        quiet, busy = await Client.connect(cluster), await Client.connect(cluster)
        cluster.proxy.process.send_signal(signal.SIGTERM)
        assert await quiet.is_closed()
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(cluster)
        assert await busy.is_closed()
        assert cluster.proxy.process.poll() is None, "one request runs"
        cluster["generation-0"].ask("go", {})
        assert await asking == (200, words.answer("drained", 5))
        assert cluster.proxy.process.wait(DEADLINE_S) == 0
        assert not (runtime_directory(tmp_path) / "members.sock").exists()


async def test_who_is_connected_is_answered_once_more_and_told_to_go(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}) as cluster:
        clients = [await Client.connect(cluster) for _ in range(3)]
        for client in clients:
            assert (await client.ask("GET", "/livez"))[0] == 200
        curious, late, quiet = clients
        begun = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        asked = json.dumps(body("late", 3, stream=False)).encode()
        late.writer.write(begun % len(asked) + asked[:-1])
        await until_in_flight(http, cluster, 1)
        cluster.proxy.process.send_signal(signal.SIGTERM)
        assert [told for told in await ask_to_the_end(curious) if told != (200, None)] in ([], [(503, "close")])
        assert await quiet.is_closed()
        late.writer.write(asked[-1:])
        status, headers, answer = await late.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert json.loads(answer)["choices"][0]["text"] == words.answer("late", 3)
        assert await late.is_closed()
        assert cluster.proxy.process.wait(DEADLINE_S) == 0


async def ask_to_the_end(client: Client) -> list[tuple[int, str | None]]:
    """Ask how the proxy is until the connection ends: after the answer that says so, or before, where a slow client was
    quiet for too long."""
    told = []
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            status, headers, answer = await client.ask("GET", "/health")
            assert json.loads(answer)["status"] == {200: "ok", 503: "draining"}[status]
            told.append((status, headers.get("connection")))
    with contextlib.suppress(ConnectionError):
        await client.close()
    return told


async def test_a_second_signal_ends_it_and_everybody_is_told(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    engines = {"context-0": [], "generation-0": ["--hold-generation"]}
    with serving(tmp_path, engines) as cluster:
        begun = [asyncio.create_task(read(http, cluster, body(f"begun {i}", 5))) for i in range(3)]
        whole = [asyncio.create_task(read(http, cluster, body(f"whole {i}", 5, stream=False))) for i in range(3)]
        await cluster["generation-0"].wait("fetched", 6)
        slow = await Client.connect(cluster)
        slow.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await until_in_flight(http, cluster, 7)
        cluster.proxy.process.send_signal(signal.SIGTERM)
        while "draining" not in cluster.proxy.log.read_text():
            await asyncio.sleep(0.01)
        cluster.proxy.process.send_signal(signal.SIGTERM)
        for status, text in await asyncio.gather(*begun):
            assert status == 200
            assert json.loads(text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "no_server_ready"
        for status, text in await asyncio.gather(*whole):
            assert (status, json.loads(text)["error"]["code"]) == (503, "no_server_ready")
        assert (await asyncio.wait_for(slow.reader.readline(), DEADLINE_S)).startswith(b"HTTP/1.1 503 ")
        await slow.close()
        assert await asyncio.to_thread(cluster.proxy.process.wait, DEADLINE_S) == 128 + signal.SIGTERM
        await cluster["generation-0"].wait("cancelled", 6)


async def until_in_flight(http: aiohttp.ClientSession, cluster: Serving, number: int) -> None:
    page = ""
    while f"trtdisagg_proxy_requests_in_flight {float(number)}" not in page:
        async with http.get(f"{cluster.url}/metrics") as answer:
            page = await answer.text()


async def test_who_comes_while_one_proxy_ends_is_answered_by_the_next(
    tmp_path: Path, http: aiohttp.ClientSession, listening: socket.socket, num_rounds: int
) -> None:
    fd = listening.fileno()
    engines = {"context-0": ["--token-delay-ms=5"], "generation-0": ["--token-delay-ms=5"]}
    with serving(tmp_path, engines, listen_fds=[fd]) as cluster:
        assert cluster.proxy.url.endswith(f":{listening.getsockname()[1]}")
        stop = asyncio.Event()
        num_answered = 0

        async def client(number: int) -> None:
            nonlocal num_answered
            while not stop.is_set():
                prompt = f"client {number} request {num_answered}"
                fields = body(prompt, 6, stream=number % 3 > 0)
                status, text = await read(http, cluster, fields)
                if number % 3 == 0:
                    text = json.loads(text)["choices"][0]["text"]
                assert (status, text) == (200, words.answer(prompt, 6))
                num_answered += 1

        members = [engine.member for engine in cluster.engines.values()]
        proxies = [cluster.proxy]
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(9):
                    tasks.create_task(client(number))
                for i in range(1 + num_rounds):
                    before = num_answered
                    while num_answered < before + 30:
                        await asyncio.sleep(0.01)
                    assert await asyncio.to_thread(proxies[-1].stop) == 0
                    spec = ProxySpec(cluster="test", listen_fds=[fd], members_socket=cluster.socket)
                    proxies.append(Child(PROXY, spec, tmp_path / f"proxy-{i}.json", pass_fds=[fd]))
                    await asyncio.to_thread(proxies[-1].wait_ready)
                    await asyncio.to_thread(cluster.tell, *members)
                stop.set()
        finally:
            for proxy in proxies[1:]:
                proxy.close()
        assert cluster["context-0"].state()["context"] == num_answered


async def test_a_successor_keeps_its_members_socket(tmp_path: Path, listening: socket.socket) -> None:
    fd = listening.fileno()
    with serving(tmp_path, {"both-0": []}, listen_fds=[fd]) as cluster:
        spec = ProxySpec(cluster="test", listen_fds=[fd], members_socket=cluster.socket)
        successor = Child(PROXY, spec, tmp_path / "successor.json", pass_fds=[fd])
        try:
            successor.wait_ready()
            assert await asyncio.to_thread(cluster.proxy.stop) == 0
            await asyncio.to_thread(cluster.tell, cluster["both-0"].member)
            client = await Client.connect(cluster)
            assert (await client.ask("GET", "/health"))[0] == 200
            await client.close()
        finally:
            successor.close()


def test_a_descriptor_that_does_not_listen_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as idle, socket.socket(socket.AF_UNIX) as other:
        for sock, message in ((idle, "is no socket that listens"), (other, "is no TCP socket")):
            proxy = Child(
                PROXY, ProxySpec(cluster="test", listen_fds=[fd := sock.fileno()]), tmp_path / "p.json", pass_fds=[fd]
            )
            try:
                report = proxy.next_report()
                assert isinstance(report, Failed)
                assert f"descriptor {fd} {message}" in report.message
                assert proxy.process.wait(DEADLINE_S) == 1
            finally:
                proxy.close()
