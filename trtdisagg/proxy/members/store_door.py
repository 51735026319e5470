"""The store inside the proxy, as servers see it: TensorRT-LLM's routes, so that its workers can register here, too.

    POST   /set {key, value, ttl, overwrite_if_exists}      GET /get?key=      GET /get_prefix?key_prefix=
    GET    /expire?key=&ttl=                                DELETE /delete?key=
    GET    /registry -> About       GET /in_use -> {incarnation: requests}     ours

Answers are {"result": ...}: 200, or 404 where there is no such key. Who registers gets requests, so it is asked for the
cluster's secret; without one, only this host is listened to.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from trtdisagg.errors import BodyTooLargeError, RequestError
from trtdisagg.protocol.proxy_spec import RegistrySpec
from trtdisagg.proxy.http.client_connection import Handler
from trtdisagg.proxy.http.pages import Pages, json_page
from trtdisagg.proxy.http.whole_answer import AnyAnswer
from trtdisagg.proxy.members.callers import check_caller
from trtdisagg.registry.http_store import About
from trtdisagg.registry.leases import MAX_KEY_BYTES, MAX_VALUE_BYTES, Leases
from trtdisagg.registry.records import prefix_of

MAX_BODY_BYTES = 8 * (MAX_KEY_BYTES + MAX_VALUE_BYTES)
"""A byte takes at most six in JSON."""
ROUTES = (
    *(("GET", path) for path in ("/get", "/get_prefix", "/expire", "/registry", "/in_use")),
    ("POST", "/set"),
    ("DELETE", "/delete"),
)
ENTRIES = "/entries"
"""Where other processes of the proxy ask for everything."""
NEWS_S = 2.0
"""For how long a follower waits for a change at most."""
LATE_S = 1.0
"""A clock that rings so late means that this process did not run, rather than that nobody renewed."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """All that stands in a store, as the processes of a proxy tell each other."""

    id: str = ""
    """Of the store."""
    version: int = 0
    entries: dict[str, tuple[str, float | None]] = {}
    """By key: the value, and how many seconds it holds without a renewal; None: for ever."""


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    value: str = ""
    ttl: float | None = None
    overwrite_if_exists: bool = False
    expire_time: float | None = None


class StoreDoor:
    """
    :param on_entries: told everything under the cluster's prefix whenever it may have changed.
    :param in_use: requests by incarnation, over all processes of the proxy.
    """

    def __init__(
        self,
        spec: RegistrySpec,
        *,
        cluster: str,
        secret: str | None,
        on_entries: Callable[[Mapping[str, str]], None],
        in_use: Callable[[], Awaitable[Mapping[str, int]]],
    ) -> None:
        self._leases = Leases()
        self._prefix = prefix_of(spec.cluster_name)
        self._secret = secret
        self._on_entries = on_entries
        self._in_use = in_use
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._version = 0
        self._news = asyncio.Event()
        """For followers; another one after each change."""
        self._is_open = asyncio.Event()
        self._about = About(
            id=secrets.token_hex(8),
            cluster=cluster,
            cluster_name=spec.cluster_name,
            heartbeat_s=spec.heartbeat_s,
            inactive_s=spec.inactive_s,
        )

    @property
    def pages(self) -> Pages:
        """For clients, who have to prove who they are."""

        def guarded(answer: Handler) -> Handler:
            async def handler(request: web.BaseRequest) -> AnyAnswer:
                check_caller(request, self._secret)
                return await answer(request)

            return handler

        return {route: guarded(answer) for route, answer in self._answers().items()}

    @property
    def fellow_pages(self) -> Pages:
        """For the other processes of the proxy, which have asked for the proof already."""
        return {**self._answers(), ("GET", ENTRIES): self._entries}

    def _answers(self) -> Pages:
        answers: dict[tuple[str, str], Callable[[web.BaseRequest], web.Response]] = {
            ("GET", "/get"): lambda r: _result(self._leases.get(_param(r, "key"))),
            ("GET", "/get_prefix"): self._get_prefix,
            ("GET", "/expire"): self._expire,
            ("DELETE", "/delete"): self._delete,
            ("GET", "/registry"): lambda _: json_page(self._about),
        }

        def opened(answer: Callable[[web.BaseRequest], web.Response]) -> Handler:
            async def handler(request: web.BaseRequest) -> web.StreamResponse:
                await self._is_open.wait()
                return answer(request)

            return handler

        async def in_use(_: web.BaseRequest) -> web.Response:
            return json_page(await self._in_use())

        there: Pages = {("POST", "/set"): self._set, ("GET", "/in_use"): in_use}
        assert {*there, *answers} == set(ROUTES)
        return {**there, **{route: opened(answer) for route, answer in answers.items()}}

    def open(self, held: Held) -> None:
        """Answer from now on.

        :param held: what a store before this one held: it holds on, each key for its whole time.
        """
        for key, (value, ttl_s) in held.entries.items():
            self._leases.set(key, value, ttl_s=ttl_s, now=self._loop.time())
        if held.entries:
            self._tell()
        self._is_open.set()

    async def run(self) -> None:
        """Let leases end, until cancelled."""
        while True:
            due = self._leases.next_end
            try:
                async with asyncio.timeout_at(due if due < math.inf else None):
                    await self._changed.wait()
            except TimeoutError:
                if self._loop.time() > due + LATE_S:
                    self._leases.begin_anew(self._loop.time())
            self._changed.clear()
            if self._leases.sweep(self._loop.time()):
                self._tell()

    # --- routes -----------------------------------------------------------------------------------------------------

    async def _set(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._is_open.wait()
        if (request.content_length or 0) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"The body is larger than {MAX_BODY_BYTES} bytes")
        try:
            item = msgspec.json.decode(await request.read(), type=_Item)
            if (item.expire_time or -1) >= 0:
                raise RequestError("expire_time is of a clock that is not yours; say `ttl`", param="expire_time")
            done = self._leases.set(
                item.key,
                item.value,
                ttl_s=item.ttl if item.ttl and item.ttl > 0 else None,
                now=self._loop.time(),
                overwrite=item.overwrite_if_exists,
            )
        except (msgspec.DecodeError, ValueError) as e:
            raise RequestError(f"/set: {e}") from None
        if done:
            self._tell()
        return json_page({"result": done}, 200 if done else 400)

    def _get_prefix(self, request: web.BaseRequest) -> web.Response:
        found = self._leases.under(_param(request, "key_prefix", "prefix"))
        keys_only = request.query.get("keys_only", "0").lower() in ("1", "true")
        return json_page({"result": dict.fromkeys(found, "") if keys_only else found})

    def _expire(self, request: web.BaseRequest) -> web.Response:
        try:
            ttl_s = float(_param(request, "ttl"))
        except ValueError:
            raise RequestError("ttl: expected a number of seconds", param="ttl") from None
        done = self._leases.expire(_param(request, "key"), ttl_s=ttl_s, now=self._loop.time())
        self._changed.set()
        return _result(done or None)

    def _delete(self, request: web.BaseRequest) -> web.Response:
        done = self._leases.delete(_param(request, "key"))
        if done:
            self._tell()
        return _result(done or None)

    async def _entries(self, request: web.BaseRequest) -> web.Response:
        """All there is, as soon as it is not what a follower has already, and now and then."""
        await self._is_open.wait()
        if request.query.get("but") == f"{self._about.id}.{self._version}":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEWS_S):
                    await self._news.wait()
        return json_page(Held(id=self._about.id, version=self._version, entries=self._leases.all()))

    def _tell(self) -> None:
        self._changed.set()
        self._version += 1
        self._news.set()
        self._news = asyncio.Event()
        self._on_entries(self._leases.under(self._prefix))


def _param(request: web.BaseRequest, *names: str) -> str:
    for name in names:
        if name in request.query:
            return request.query[name]
    raise RequestError(f"{request.path}: the parameter `{names[0]}` is missing", param=names[0])


def _result(value: object) -> web.Response:
    return json_page({"result": value}, 404 if value is None else 200)
