"""The proxy as a process: its limits, its reports, how it drains and ends, and clients that do not keep up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, PROXY, REPOSITORY, Child, Serving, serving

from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.reports import Beat, Failed, Ready

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


def body(prompt: str, num_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": num_tokens, "stream": stream}


def text_of(stream: bytes) -> str:
    assert stream.endswith(b"data: [DONE]\n\n")
    events = [e.removeprefix("data: ") for e in stream.decode().split("\n\n")[:-2]]
    return "".join(json.loads(e)["choices"][0]["text"] for e in events)


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_one_request_too_many_is_a_429(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"generation-0": ["--hold-generation"]}, max_in_flight=2) as cluster:
        url = f"{cluster.url}/v1/completions"
        asking = [asyncio.create_task(_read(http, url, body(f"p{i}", 3))) for i in range(2)]
        await cluster["generation-0"].wait("running", 2)
        async with http.post(url, json=body("one more", 3)) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["error"]["code"] == "queue_full"
        cluster["generation-0"].ask("go", {})
        assert [text_of(data) for data in await asyncio.gather(*asking)] == [words.answer(f"p{i}", 3) for i in range(2)]
        assert text_of(await _read(http, url, body("now", 3))) == words.answer("now", 3)


async def _read(http: aiohttp.ClientSession, url: str, fields: dict[str, Any]) -> bytes:
    async with http.post(url, json=fields) as answer:
        assert answer.status == 200
        return await answer.read()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_a_413(tmp_path: Path, http: aiohttp.ClientSession, chunked: bool) -> None:
    with serving(tmp_path, {"generation-0": []}, max_body_bytes=10_000) as cluster:
        url = f"{cluster.url}/v1/completions"
        large = json.dumps(body("x" * 20_000, 3)).encode()

        async def in_pieces() -> AsyncIterator[bytes]:
            for i in range(0, len(large), 1000):
                yield large[i : i + 1000]

        async with http.post(url, data=in_pieces() if chunked else large) as answer:
            assert answer.status == 413
            error = (await answer.json())["error"]
            assert error["code"] == "body_too_large"
            assert "10000 bytes" in error["message"]
        assert text_of(await _read(http, url, body("small", 3))) == words.answer("small", 3)


async def test_a_body_over_the_limit_is_not_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, {"generation-0": []}, max_body_bytes=10_000) as cluster:
        host, port = cluster.proxy.url.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10001\r\n"
        writer.write(head + b"Expect: 100-continue\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), DEADLINE_S)).startswith(b"HTTP/1.1 413 ")
        writer.close()
        await writer.wait_closed()


async def test_a_body_that_does_not_come_is_a_408(tmp_path: Path) -> None:
    with serving(tmp_path, {"generation-0": []}, first_token_timeout_s=0.5) as cluster:
        host, port = cluster.proxy.url.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"model": ')
        assert (await asyncio.wait_for(reader.readline(), DEADLINE_S)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()


# --- clients that do not keep up ------------------------------------------------------------------------------------

NUM_TOKENS = 60_000
"""A stream of some 12 MB: more than all socket buffers on its way hold."""


@contextlib.asynccontextmanager
async def slow_client(cluster: Serving) -> AsyncIterator[asyncio.StreamReader]:
    """Asks for a long stream and has not read of it yet; its receive buffer does not grow."""
    host, port = cluster.proxy.url.split(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    reader, writer = await asyncio.open_connection(sock=sock, limit=65536)
    data = json.dumps(body("slow", NUM_TOKENS)).encode()
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
    try:
        yield reader
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _stalled(cluster: Serving) -> int:
    """Wait until the engine is stopped by back-pressure; returns how many tokens it has made."""
    before, now = -1, 0
    while before != now or now == 0:
        await asyncio.sleep(0.3)
        before, now = now, cluster["generation-0"].state()["tokens"]
    return now


async def test_a_slow_client_slows_its_server_and_fills_no_memory(tmp_path: Path) -> None:
    with serving(tmp_path, {"generation-0": []}, engine_max_seq_len=10**6) as cluster:
        process = psutil.Process(cluster.proxy.process.pid)
        before = process.memory_info().rss
        async with slow_client(cluster) as reader:
            assert await _stalled(cluster) < NUM_TOKENS
            assert process.memory_info().rss - before < 4 * 2**20
            data = await reader.read()
        assert text_of(data.partition(b"\r\n\r\n")[2]) == words.answer("slow", NUM_TOKENS)


async def test_a_stuck_client_is_cut_off(tmp_path: Path) -> None:
    with serving(tmp_path, {"generation-0": []}, engine_max_seq_len=10**6, idle_timeout_s=1.0) as cluster:
        async with slow_client(cluster):
            state = await cluster["generation-0"].wait("cancelled")
            assert state["running"] == 0
            assert state["tokens"] < NUM_TOKENS


# --- reports, drain, end --------------------------------------------------------------------------------------------


async def test_it_reports_ready_then_beats_with_its_counts(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with serving(tmp_path, {"generation-0": []}) as cluster:
        await _read(http, f"{cluster.url}/v1/completions", body("p", 3))
        while (report := cluster.proxy.next_report()) and report.stats.num_requests_total == 0:
            assert isinstance(report, Beat)
        assert report.stats.num_requests_total == 1
        assert report.stats.num_failed_total == 0
        assert sum(report.stats.first_token_counts) == sum(report.stats.per_token_counts) == 1


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = Child(PROXY, ProxySpec(cluster="test", port=port), tmp_path / "proxy.json")
        try:
            report = proxy.next_report()
            assert isinstance(report, Failed)
            assert report.fatal
            assert f"127.0.0.1:{port}" in report.message
            assert f"pid {os.getpid()} " in report.message
            assert proxy.process.wait(DEADLINE_S) == 1
            assert "Traceback" not in proxy.log.read_text()
        finally:
            proxy.close()


def test_localhost_is_all_of_its_addresses_on_one_port(tmp_path: Path) -> None:
    proxy = Child(PROXY, ProxySpec(cluster="test", host="localhost", port=0), tmp_path / "proxy.json")
    try:
        report = proxy.next_report()
        assert isinstance(report, Ready)
        socket.create_connection(("127.0.0.1", report.port), timeout=DEADLINE_S).close()
        assert proxy.stop() == 0
    finally:
        proxy.close()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    spec = tmp_path / "proxy.json"
    parent = f"""
import os, pathlib, subprocess, sys
spec = '{{"cluster": "test", "port": 0, "report_fd": 1, "parent_pid": %d}}' % os.getpid()
pathlib.Path({str(spec)!r}).write_text(spec)
child = subprocess.Popen([{sys.executable!r}, "-m", "trtdisagg", "proxy", "--spec", {str(spec)!r}])
print(child.pid, flush=True)
child.wait()
"""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        while '"type":"ready"' not in process.stdout.readline():
            pass
        process.kill()
        child.wait(DEADLINE_S)
