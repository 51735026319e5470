"""The store inside the proxy over real sockets: as our client asks it, and as TensorRT-LLM's does."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from trtdisagg.errors import RegistryError, TrtdisaggError
from trtdisagg.protocol.proxy_spec import RegistrySpec
from trtdisagg.proxy.http.http_server import serving
from trtdisagg.proxy.members import callers, store_door
from trtdisagg.proxy.members.members_door import open_members_door
from trtdisagg.proxy.members.store_door import Held, StoreDoor
from trtdisagg.proxy.members.store_follower import StoreFollower, held_by_others
from trtdisagg.proxy.workers.fellows import Fellows
from trtdisagg.registry.http_store import HttpStore
from trtdisagg.registry.leases import MAX_VALUE_BYTES

pytestmark = pytest.mark.anyio
PREFIX = "/trtllm-disagg/prod/"


class Running:
    def __init__(self, sock: socket.socket, secret: str | None) -> None:
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.told: list[Mapping[str, str]] = []
        self.uses = {"i": 3}
        self.door = StoreDoor(
            RegistrySpec(uri="http://h:1", cluster_name="prod", heartbeat_s=1, inactive_s=2),
            cluster="test",
            secret=secret,
            on_entries=self._take,
            in_use=self._in_use,
        )
        self._changed = anyio.Event()

    async def _in_use(self) -> Mapping[str, int]:
        return self.uses

    def _take(self, entries: Mapping[str, str]) -> None:
        self.told.append(entries)
        self._changed.set()

    async def until_told(self, *keys: str) -> None:
        with anyio.fail_after(60):
            while not self.told or set(self.told[-1]) != set(keys):
                self._changed = anyio.Event()
                await self._changed.wait()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self.door.pages[request.method, request.path](request)
        except TrtdisaggError as e:
            return web.json_response({"error": {"message": e.message}}, status=e.http_status)


@contextlib.asynccontextmanager
async def running(secret: str | None = None, held: Held | None = None) -> AsyncIterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        it = Running(sock, secret)
        it.door.open(held or Held())
        async with serving(it.handle, [sock], 1 << 20), anyio.create_task_group() as tasks:
            tasks.start_soon(it.door.run)
            yield it
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def client(it: Running, secret: str | None = None) -> AsyncIterator[HttpStore]:
    store = HttpStore(it.url, secret)
    try:
        yield store
    finally:
        await store.close()


async def test_our_client() -> None:
    async with running() as it, client(it) as store:
        about = await store.about()
        assert (about.cluster, about.cluster_name, about.heartbeat_s, about.inactive_s) == ("test", "prod", 1, 2)
        lease = await store.put({f"{PREFIX}members/a": "m", f"{PREFIX}workers/a": "ü"}, 60)
        await it.until_told(f"{PREFIX}members/a", f"{PREFIX}workers/a")
        assert it.told[-1][f"{PREFIX}workers/a"] == "ü"
        assert await store.renew(lease)
        assert await store.in_use() == {"i": 3}
        await store.drop(lease)
        await it.until_told()
        assert [len(entries) for entries in it.told] == [1, 2, 1, 0]
        assert f"{PREFIX}members/a" in it.told[2], "who is listed is described as long as it is"
        assert not await store.renew(lease)
        await store.drop(lease)


async def test_a_lease_that_nobody_renews_ends() -> None:
    async with running() as it, client(it) as store:
        await store.put({f"{PREFIX}a": "1"}, 0.05)
        await store.put({f"{PREFIX}b": "1", "/elsewhere": "1"}, 60)
        await it.until_told(f"{PREFIX}b")


async def test_a_proxy_that_did_not_run_forgets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_door, "LATE_S", 0.1)
    async with running() as it, client(it) as store:
        await store.put({f"{PREFIX}a": "1"}, 0.5)
        await it.until_told(f"{PREFIX}a")
        time.sleep(1)  # noqa: ASYNC251 (the whole loop stands still)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert set(it.told[-1]) == {f"{PREFIX}a"}
        await it.until_told()


async def test_tensorrt_llms_client() -> None:
    """Its requests to the letter, with all the defaults it sends."""
    async with running() as it, aiohttp.ClientSession(it.url) as http:

        async def ask(method: str, path: str, body: Any = None, **params: Any) -> tuple[int, Any]:
            async with http.request(method, path, json=body, params=params) as answer:
                return answer.status, (await answer.json()).get("result")

        key = f"{PREFIX}workers/CONTEXT-h:1-17-2-003"
        item = {"key": key, "value": "v", "expire_time": -1, "ttl": 10, "overwrite_if_exists": False}
        assert await ask("POST", "/set", item) == (200, True)
        assert await ask("POST", "/set", item) == (400, False)
        assert await ask("GET", "/expire", key=key, ttl="10") == (200, True)
        assert await ask("GET", "/get", key=key) == (200, "v")
        assert await ask("GET", "/get_prefix", key_prefix=PREFIX, keys_only="0") == (200, {key: "v"})
        assert await ask("GET", "/get_prefix", key_prefix=PREFIX, keys_only="1") == (200, {key: ""})
        assert await ask("DELETE", "/delete", key=key) == (200, True)
        assert (await ask("GET", "/expire", key=key, ttl="10"))[0] == 404
        assert (await ask("DELETE", "/delete", key=key))[0] == 404
        assert (await ask("GET", "/get", key=key))[0] == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"key": "k", "value": 3}, "value"),
        ({"key": "k", "val": "v"}, "unknown field"),
        ({"value": "v"}, "key"),
        ({"key": "k", "expire_time": 12.0}, "say `ttl`"),
        ({"key": "k", "value": "v" * (MAX_VALUE_BYTES + 1)}, "at most"),
    ],
)
async def test_what_cannot_be_stored_is_a_400(body: dict[str, Any], words: str) -> None:
    async with running() as it, aiohttp.ClientSession(it.url) as http, http.post("/set", json=body) as answer:
        assert answer.status == 400
        assert words in (await answer.json())["error"]["message"]
        assert it.told == []


async def test_a_body_without_end_is_not_read() -> None:
    body = b"x" * (store_door.MAX_BODY_BYTES + 1)
    async with running() as it, aiohttp.ClientSession(it.url) as http, http.post("/set", data=body) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("secret", [None, "wrong"])
async def test_the_secret_is_asked_for(secret: str | None) -> None:
    async with running("sesame") as it:
        async with client(it, secret) as store:
            for ask in (store.about, store.in_use, lambda: store.put({"k": "v"}, 1), lambda: store.renew('[1, "k"]')):
                with pytest.raises(RegistryError, match="401 The cluster's secret is missing or wrong"):
                    await ask()
        async with client(it, "sesame") as store:
            await store.put({f"{PREFIX}k": "v"}, 60)
        await it.until_told(f"{PREFIX}k")


async def test_without_a_secret_only_this_host_is_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_is_from_here", lambda _: False)
    async with running() as it, client(it) as store:
        with pytest.raises(RegistryError, match="403 This cluster has no secret"):
            await store.put({"k": "v"}, 1)


async def test_a_restart_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdisagg.registry.http_store.LOOK_S", 0.01)
    async with running() as it, client(it) as store, anyio.create_task_group() as tasks:
        noticed = anyio.Event()

        async def wait() -> None:
            await store.until_restarted()
            noticed.set()

        tasks.start_soon(wait)
        with anyio.move_on_after(0.2) as waiting:
            await noticed.wait()
        assert waiting.cancelled_caught, "it is the same still"
        it.door._about = type(it.door._about)(
            id="another", cluster="test", cluster_name="prod", heartbeat_s=1, inactive_s=2
        )
        with anyio.fail_after(60):
            await noticed.wait()


async def test_who_is_no_proxy_says_nothing_useful() -> None:
    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"detail": "Not Found"}, status=404)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(handle, [sock], 1000):
            store = HttpStore(f"http://127.0.0.1:{sock.getsockname()[1]}")
            with pytest.raises(RegistryError, match="takes no registrations"):
                await store.about()
            await store.close()


# --- of a proxy of several processes ---------------------------------------------------------------------------------


class Source:
    """Takes what a follower knows, in a real one's place."""

    def __init__(self) -> None:
        self.entries: Mapping[str, str] | None = None
        self.away: list[str] = []

    def take(self, entries: Mapping[str, str]) -> None:
        self.entries = entries

    def store_away(self, why: str) -> None:
        self.away.append(why)


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not is_so():
            await anyio.sleep(0.005)


async def test_followers_know_all_pass_on_what_they_are_asked_and_give_it_back(short_path: Path) -> None:
    key, first = f"{PREFIX}workers/a", str(short_path / "first.sock")
    source, fellows = Source(), Fellows("me")
    follower = StoreFollower(fellows, source, prefix=PREFIX, secret="sesame")  # type: ignore[arg-type]
    fellows.take([first, "me"])
    async with running(secret="sesame") as store, anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run)
        await until(lambda: bool(source.away))
        with socket.create_server(("127.0.0.1", 0)) as sock:
            front = f"http://127.0.0.1:{sock.getsockname()[1]}"

            async def handle(request: web.BaseRequest) -> web.StreamResponse:
                try:
                    return await follower.client_pages[request.method, request.path](request)
                except TrtdisaggError as e:
                    return web.json_response({"error": {"message": e.message}}, status=e.http_status)

            async with open_members_door(first, store.door.fellow_pages), serving(handle, [sock], 1 << 20):
                for secret, is_right in (("sesame", True), (None, False)):
                    asking = HttpStore(front, secret)
                    if is_right:
                        await asking.put({key: "v", "other": "w"}, 60)
                        assert await asking.in_use() == store.uses
                    else:
                        with pytest.raises(RegistryError, match="401"):
                            await asking.put({key: "x"}, 60)
                    await asking.close()
                await until(lambda: source.entries == {key: "v"})
        tasks.cancel_scope.cancel()
    mine = str(short_path / "mine.sock")
    async with open_members_door(mine, follower.fellow_pages):
        fellows.take([first, mine])
        held = await held_by_others(fellows)
    assert held.entries == {key: ("v", 60), "other": ("w", 60)}
    async with running(held=held) as successor:
        await successor.until_told(key)
        async with client(successor) as store_client:
            assert await store_client.renew(json.dumps([60, key])), "it is known still"


@pytest.mark.parametrize(
    ("secret", "headers", "status"),
    [
        (None, {}, 404),
        (None, {"Origin": "https://elsewhere.example.org"}, 403),
        ("word", {"Origin": "https://elsewhere.example.org", "Authorization": "Bearer word"}, 404),
        ("word", {"Authorization": "Bearer \udcff"}, 401),
        ("word", {}, 401),
    ],
)
async def test_who_may_ask(secret: str | None, headers: dict[str, str], status: int) -> None:
    async with running(secret) as it:
        host, port = it.url.removeprefix("http://").split(":")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"GET /get?key={PREFIX}no HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n"
        async with await anyio.connect_tcp(host, int(port)) as client:
            await client.send(head.encode(errors="surrogateescape"))
            answer = await client.receive()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
