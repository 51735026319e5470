"""The dashboard's feed from a scripted agent, and the page with everything on it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from helpers.browser import browser_page, needs_browser
from helpers.statuses import BUSY
from msgspec.structs import replace

from trtdisagg.net import open_sockets
from trtdisagg.proxy.dashboard import open_dashboard
from trtdisagg.proxy.dashboard_feed import NO_AGENT, DashboardFeed
from trtdisagg.proxy.http.http_server import serving

pytestmark = pytest.mark.anyio

SECRET_PATHS = replace(BUSY, servers=[replace(s, log_file="/home/me/x.log") for s in BUSY.servers])


class Agent:
    """An agent's control socket.

    :ivar num_streams: open now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_streams = self.num_opened = 0
        self.changed = asyncio.Event()
        self.up_s = 0.0

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.num_opened += 1
        self.num_streams += 1
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                changed = self.changed
                await answer.write(msgspec.json.encode(replace(SECRET_PATHS, up_s=self.up_s)) + b"\n")
                await changed.wait()
        finally:
            self.num_streams -= 1
            self.change()

    def change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def publish(self, up_s: float) -> None:
        self.up_s = up_s
        self.change()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.add_routes([web.get("/status/stream", self.stream)])
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.path)).start()
        yield
        await runner.cleanup()


def up_s(state: bytes) -> float:
    value: float = msgspec.json.decode(state)["up_s"]
    return value


async def test_browsers_share_one_stream_and_without_them_there_is_none(short_path: Path) -> None:
    agent = Agent(short_path / "a")
    feed = DashboardFeed(str(agent.path))
    async with asyncio.timeout(60), agent.running(), feed.running():
        assert agent.num_opened == 0
        async with contextlib.aclosing(feed.watch()) as one, contextlib.aclosing(feed.watch()) as other:
            assert up_s(await anext(one)) == up_s(await anext(other)) == 0
            agent.publish(7)
            assert up_s(await anext(one)) == 7
            assert agent.num_opened == 1
            for i in range(3):
                agent.publish(8 + i)
                assert up_s(await anext(one)) == 8 + i
            assert up_s(await anext(other)) == 10, "one who is slow misses some"
        while agent.num_streams:
            await agent.changed.wait()
        agent.publish(20)
        async with contextlib.aclosing(feed.watch()) as late:
            assert up_s(await anext(late)) == 20, "and not what was true when others looked"


async def test_paths_stay_on_the_machine(short_path: Path) -> None:
    agent = Agent(short_path / "a")
    feed = DashboardFeed(str(agent.path))
    async with asyncio.timeout(60), agent.running(), feed.running(), contextlib.aclosing(feed.watch()) as states:
        text = (await anext(states)).decode()
    assert "context-0" in text
    assert "/home/me" not in text
    assert "/etc/prod.yaml" not in text
    assert "4242" not in text


async def test_an_agent_that_is_away_is_found_again(short_path: Path) -> None:
    agent = Agent(short_path / "a")
    feed = DashboardFeed(str(agent.path))
    async with asyncio.timeout(60), feed.running(), contextlib.aclosing(feed.watch()) as states:
        assert b"does not answer" in await anext(states)
        async with agent.running():
            assert up_s(await anext(states)) == 0
        assert b"does not answer" in await anext(states)


async def test_a_proxy_started_by_hand_says_so() -> None:
    feed = DashboardFeed(None)
    async with asyncio.timeout(60), feed.running(), contextlib.aclosing(feed.watch()) as states:
        assert msgspec.json.decode(await anext(states)) == {"error": NO_AGENT}


async def test_the_policy_names_exactly_what_is_in_the_page() -> None:
    async with open_dashboard(None) as pages:
        answer = await pages["GET", "/dashboard"](None)  # type: ignore[arg-type]
    assert isinstance(answer, web.Response)
    policy = answer.headers["Content-Security-Policy"]
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text or "", re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy


@contextlib.asynccontextmanager
async def served(control_socket: str | None) -> AsyncIterator[str]:
    """:returns: URL of a dashboard."""
    (sock,) = open_sockets("127.0.0.1", 0, stuck_timeout_s=20)
    async with open_dashboard(control_socket) as pages:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await pages[request.method, request.path](request)

        async with serving(handle, [sock], 1024):
            yield f"http://127.0.0.1:{sock.getsockname()[1]}/dashboard"


@pytest.mark.browser
@needs_browser
async def test_everything_is_shown_at_every_width(tmp_path: Path, short_path: Path) -> None:
    agent = Agent(short_path / "a")
    async with agent.running(), served(str(agent.path)) as url, browser_page(tmp_path) as page:
        await page.open(url, width=1280, height=800)
        await page.until("document.querySelectorAll('#servers tr[data-server]').length === 4")
        for width, dark in ((1280, False), (1280, True), (400, False), (400, True)):
            await page.look(width, 800, dark=dark)
            text = await page.evaluate("document.body.innerText")
            for fact in (
                "prod",
                "degraded",
                "killed by SIGKILL",
                "4 requests to finish, cut short in 17 s",
                "generation-10 is 2.4 times slower per token",
                "autoscale: holds",
                "generation-20 (10.0.0.2:8003)",
                "cpu 0-3,8",
                "100%",
                "1.2 s",
                "12.3",
            ):
                assert fact in text, (width, fact)
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
            await keep(await page.picture(), f"dashboard-{width}-{'dark' if dark else 'light'}.png")
        assert await page.evaluate("document.querySelectorAll('#servers svg path').length") == 3
        assert page.messages == []


async def keep(picture: bytes, name: str) -> None:
    """For people to look at, where they say they want to: pictures are not compared."""
    assert picture.startswith(b"\x89PNG")
    if directory := os.environ.get("TRTDISAGG_TEST_PICTURES"):
        await asyncio.to_thread(Path(directory, name).write_bytes, picture)


@pytest.mark.browser
@needs_browser
async def test_a_page_without_an_agent_says_so(tmp_path: Path) -> None:
    async with served(None) as url, browser_page(tmp_path) as page:
        await page.open(url, width=400, height=600)
        await page.until(f"document.getElementById('state').textContent === {NO_AGENT!r}")
