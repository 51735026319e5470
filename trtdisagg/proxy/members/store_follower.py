"""The store of a proxy of several processes: it is inside the first, the others follow it.

    clients -> any process -- what is asked of the store --> the first    over its members socket, after the same check
               the others  <-- GET /entries, when changed -- the first    so all know the same servers
               the first, started again -- GET /entries --> the others    what it last held; so no lease is lost

While the first does not answer, the others go on with what they know. Who may ask is known by `store_door`.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from trtdisagg.errors import UnavailableError
from trtdisagg.proxy.http.pages import JSON, Pages
from trtdisagg.proxy.members.callers import check_caller
from trtdisagg.proxy.members.registry_source import RegistrySource
from trtdisagg.proxy.members.store_door import ENTRIES, ROUTES, Held
from trtdisagg.proxy.workers.fellows import Fellows, SilentError, ask, exchange

RETRY_S = 0.2
NEWS_TIMEOUT_S = 5.0
"""Longer than the store makes a follower wait for news."""
FORWARD_TIMEOUT_S = 2.0


class StoreFollower:
    """
    :param source: takes what stands in the store under `prefix`.
    :param secret: the cluster's; None: there is none.
    """

    def __init__(self, fellows: Fellows, source: RegistrySource, *, prefix: str, secret: str | None) -> None:
        self._fellows = fellows
        self._source = source
        self._prefix = prefix
        self._secret = secret
        self._held = Held()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                self._held = await self._news()
            except (SilentError, msgspec.DecodeError) as e:
                self._source.store_away(str(e))
                await asyncio.sleep(RETRY_S)
                continue
            entries = self._held.entries.items()
            self._source.take({key: value for key, (value, _) in entries if key.startswith(self._prefix)})

    async def _news(self) -> Held:
        path = f"{ENTRIES}?but={self._held.id}.{self._held.version}"
        return msgspec.json.decode(await ask(self._first(), "GET", path, timeout_s=NEWS_TIMEOUT_S), type=Held)

    def _first(self) -> str:
        """
        :raises SilentError: nobody has told yet who that is.
        """
        if self._fellows.first is None:
            raise SilentError("the process with the store is not known yet")
        return self._fellows.first

    @property
    def client_pages(self) -> Pages:
        return dict.fromkeys(ROUTES, self._forward)

    @property
    def fellow_pages(self) -> Pages:
        async def held(_: web.BaseRequest) -> web.Response:
            return web.Response(body=msgspec.json.encode(self._held), content_type=JSON)

        return {("GET", ENTRIES): held}

    async def _forward(self, request: web.BaseRequest) -> web.Response:
        check_caller(request, self._secret)
        body = await request.read()
        try:
            status, answer = await exchange(
                self._first(), request.method, request.raw_path, body, timeout_s=FORWARD_TIMEOUT_S
            )
        except SilentError as e:
            raise UnavailableError(f"The registry does not answer: {e}") from None
        return web.Response(status=status, body=answer, content_type=JSON)


async def held_by_others(fellows: Fellows) -> Held:
    """What the others last knew of the store, as far as one of them tells; the newest."""
    answers = (await fellows.ask_all("GET", ENTRIES)).values()
    found = [Held(), *(msgspec.json.decode(answer, type=Held) for answer in answers if answer is not None)]
    return max(found, key=lambda held: (len(held.entries), held.version))
