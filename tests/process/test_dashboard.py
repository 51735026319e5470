"""The dashboard: over HTTP, and as a browser shows it, on a whole cluster of fake engines."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import pytest
from helpers.browser import Page, browser_page, needs_browser
from helpers.cluster import REPOSITORY, Cluster, running
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    command = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
    text = f"""\
name: shown
model: fake
port: {free_port()}
command: {command}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 2}}
"""
    with running(tmp_path, text) as it:
        yield it


def states_of(url: str, count: int) -> list[dict[str, object]]:
    """The first events of the page's stream."""
    found = []
    with urllib.request.urlopen(f"{url}/dashboard/events", timeout=DEADLINE_S) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["X-Request-Id"]
        while len(found) < count:
            line = stream.readline()
            if line.startswith(b"data: "):
                found.append(json.loads(line.removeprefix(b"data: ")))
    return found


def test_the_page_allows_nothing_but_itself_and_the_stream_tells_no_paths(cluster: Cluster) -> None:
    with urllib.request.urlopen(f"{cluster.url}/dashboard", timeout=DEADLINE_S) as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    first, second = states_of(cluster.url, 2)
    assert first["state"] == second["state"] == "ready"
    assert first["up_s"] != second["up_s"]
    assert str(cluster.directory) not in json.dumps([first, second])
    assert {s["name"] for s in first["servers"]} == {"proxy", "context-0", "generation-0", "generation-1"}  # type: ignore[attr-defined]


@pytest.mark.anyio
@pytest.mark.browser
@needs_browser
async def test_a_browser_sees_a_server_die_and_come_back(cluster: Cluster, tmp_path: Path) -> None:
    url = f"{cluster.url}/dashboard"
    async with browser_page(tmp_path) as page:
        await page.open(url, width=1280, height=800)
        await page.until("document.querySelectorAll('#servers tr[data-server]').length === 4")
        assert await page.evaluate("document.getElementById('cluster').textContent") == "shown"
        await page.until(f"{cell('generation-1', 'state')} === 'ready'")

        before = int(await words(page, "generation-1", "pid"))
        os.kill(before, signal.SIGKILL)
        await page.until("document.getElementById('events').textContent.includes('killed by SIGKILL')")
        await page.until(f"{cell('generation-1', 'restarts')} === '1' && {cell('generation-1', 'state')} === 'ready'")
        assert int(await words(page, "generation-1", "pid")) != before

        for width in (1280, 700, 400):
            await page.look(width, 900, dark=width == 700)
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
        assert page.messages == [], "no error, and nothing that the policy forbids"

        await anyio.to_thread.run_sync(lambda: cluster.down("--force"))
        await page.until("document.getElementById('state').textContent === 'The proxy does not answer.'")
    await anyio.to_thread.run_sync(cluster.up)  # for the fixture to take down


def cell(server: str, column: str) -> str:
    """An expression for the text of a cell."""
    return f'document.querySelector(\'[data-server="{server}"] [data-label="{column}"]\').textContent'


async def words(page: Page, server: str, column: str) -> str:
    text: str = await page.evaluate(cell(server, column))
    return text
