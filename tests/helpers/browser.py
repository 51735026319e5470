"""A headless Chromium, driven over its own debugging protocol: no driver, no library."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers.cluster import runtime_directory
from helpers.waiting import DEADLINE_S

_NAMES = ("chromium", "chromium-headless-shell", "google-chrome")
_PROGRAM = next((program for program in map(shutil.which, _NAMES) if program), None)
_LOOK_AGAIN_S = 0.05

needs_browser = pytest.mark.skipif(_PROGRAM is None, reason="Chromium is not installed")


class Page:
    """One page of a browser.

    :ivar messages: what its console said: errors, and what its security policy forbade.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.messages: list[str] = []
        self._socket = socket
        self._loaded = asyncio.Event()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif said["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                self.messages.append(str(said["params"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        said = await asyncio.wait_for(self._answers[number], DEADLINE_S)
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, url: str, *, width: int, height: int, dark: bool = False) -> None:
        for domain in ("Page", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.look(width, height, dark=dark)
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), DEADLINE_S)

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait until an expression of the page is true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not await self.evaluate(expression):
                    await asyncio.sleep(_LOOK_AGAIN_S)  # a page tells nobody that it has changed
                return
        raise AssertionError(f"never came true: {expression}\n{await self.evaluate('document.body.innerText')}")

    async def picture(self) -> bytes:
        """:returns: a PNG of the whole page."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextlib.asynccontextmanager
async def browser_page(directory: Path) -> AsyncIterator[Page]:
    """A page in a browser of its own, which is gone at the end.

    :param directory: for what the browser keeps.
    """
    assert _PROGRAM is not None
    process = await asyncio.create_subprocess_exec(
        _PROGRAM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
        f"--user-data-dir={directory / 'browser'}",
        "--remote-debugging-port=0",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(runtime_directory(directory))},  # it has a socket there
    )
    try:
        port = await asyncio.wait_for(_debugging_port(process), DEADLINE_S)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                (target,) = [t for t in await answer.json(content_type=None) if t["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                yield page
                listening.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _debugging_port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    said = b""
    async for line in process.stderr:
        said += line
        if found := re.search(rb"DevTools listening on ws://127.0.0.1:(\d+)/", line):
            return int(found[1])
    raise AssertionError(f"the browser ended before it listened: {said.decode()}")
