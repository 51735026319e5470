"""`/perf_metrics`: the last requests that were handed over, with what both of their servers say of them.

    a request ends  ->  kept here: its servers, when it came, when its first token was sent
    somebody asks   ->  each of these servers is asked for its own; what belongs together is told, once

A request is told when both its servers have said their part; until then it waits, as long as there is room. Times are
seconds of the machine's steady clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque

import msgspec
from aiohttp import web

from trtdisagg.protocol.http1 import BadAnswerError
from trtdisagg.proxy.http.pages import json_page
from trtdisagg.proxy.http.pool import Pool, UnreachableError
from trtdisagg.proxy.http.upstream import BrokenError
from trtdisagg.proxy.records.record import LegRecord, Record

ASK_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 64 << 20

logger = logging.getLogger(__name__)

_Key = tuple[str, str, int]
"""Server, the kind of number, the number."""


class Handed(msgspec.Struct, kw_only=True):
    """One request that went over two servers."""

    ctx_server: str
    """host:port"""
    gen_server: str
    arrived_s: float
    first_token_s: float
    disagg_request_id: int | None
    """Of servers that are ours both say it; of others it may be lost on the way."""
    ctx_request_id: int | None

    def keys(self, server: str) -> list[_Key]:
        """What the server may call it, the surest first."""
        numbers = {"disagg": self.disagg_request_id, "ctx": self.ctx_request_id}
        return [(server, kind, number) for kind, number in numbers.items() if number is not None]


class Told(msgspec.Struct, kw_only=True, frozen=True):
    ctx_server: str
    gen_server: str
    disagg_server_arrival_time: float
    disagg_server_first_token_time: float
    ctx_perf_metrics: msgspec.Raw
    gen_perf_metrics: msgspec.Raw


class _Ids(msgspec.Struct):
    """Of what a server says, what tells whose it is."""

    disagg_request_id: int | None = None
    ctx_request_id: int | None = None


class _Given(msgspec.Struct):
    """What one process of the proxy hands to another."""

    kept: list[Handed]
    said: list[tuple[str, bytes]]
    """By server."""


class PerfLog:
    """
    :param max_requests: to keep; 0: none.
    """

    def __init__(self, pool: Pool, max_requests: int) -> None:
        self._pool = pool
        self._max_requests = max_requests
        self._kept: deque[Handed] = deque(maxlen=max_requests)
        self._said: OrderedDict[_Key, msgspec.Raw] = OrderedDict()
        """By servers, of requests that have not been told."""

    @property
    def is_on(self) -> bool:
        return self._max_requests > 0

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    def add(self, record: Record) -> None:
        """Keep a request, if it was handed over."""
        context, generation = (_answered(record, kind) for kind in ("context", "generation"))
        if context is None or generation is None:
            return
        handed = Handed(
            ctx_server=context.member.url,
            gen_server=generation.member.url,
            arrived_s=record.arrived,
            first_token_s=max(record.first_token, context.ended),
            disagg_request_id=record.disagg_request_id,
            ctx_request_id=record.ctx_request_id,
        )
        self._kept.append(handed)

    async def page(self, _: web.BaseRequest) -> web.Response:
        return json_page(await self.take())

    async def take(self) -> list[Told]:
        """Those of which both servers have said their part, the oldest first."""
        servers = {server: None for handed in self._kept for server in (handed.ctx_server, handed.gen_server)}
        await asyncio.gather(*map(self._ask, servers))
        told, waiting = [], []
        for handed in self._kept:
            context, generation = (self._find(handed, server) for server in (handed.ctx_server, handed.gen_server))
            if context is None or generation is None:
                waiting.append(handed)
                continue
            told.append(_told(handed, self._said.pop(context), self._said.pop(generation)))
        self._kept = deque(waiting, self._max_requests)
        return told

    def give(self) -> _Given:
        """All that is kept, for another process of the proxy, which keeps it from now on."""
        given = _Given(kept=list(self._kept), said=[(key[0], bytes(raw)) for key, raw in self._said.items()])
        self._kept.clear()
        self._said.clear()
        return given

    def take_over(self, given: bytes) -> None:
        """
        :param given: what another process gave, as msgpack.
        """
        theirs = msgspec.msgpack.decode(given, type=_Given)
        self._kept = deque(sorted((*self._kept, *theirs.kept), key=lambda handed: handed.arrived_s), self._max_requests)
        for server, item in theirs.said:
            self._hear(server, msgspec.Raw(item))

    def _find(self, handed: Handed, server: str) -> _Key | None:
        return next((key for key in handed.keys(server) if key in self._said), None)

    async def _ask(self, server: str) -> None:
        """Have a server say what it has kept; one that is gone, or keeps nothing, says nothing."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                head, body = await self._pool.exchange(server, "GET", "/perf_metrics").fetch(MAX_ANSWER_BYTES)
            said = msgspec.json.decode(body, type=list[msgspec.Raw]) if head.status == 200 else []
        except (UnreachableError, BrokenError, BadAnswerError, TimeoutError, msgspec.DecodeError) as e:
            logger.warning("%s does not say /perf_metrics: %s", server, e)
            return
        for item in said:
            self._hear(server, item)

    def _hear(self, server: str, item: msgspec.Raw) -> None:
        ids = msgspec.json.decode(item, type=_Ids)
        if ids.disagg_request_id is not None:
            self._said[server, "disagg", ids.disagg_request_id] = item
        elif ids.ctx_request_id is not None:
            self._said[server, "ctx", ids.ctx_request_id] = item
        while len(self._said) > 2 * self._max_requests:
            self._said.popitem(last=False)


def _answered(record: Record, kind: str) -> LegRecord | None:
    return next((leg for leg in reversed(record.legs) if leg.kind == kind and leg.outcome == "done"), None)


def _told(handed: Handed, context: msgspec.Raw, generation: msgspec.Raw) -> Told:
    return Told(
        ctx_server=handed.ctx_server,
        gen_server=handed.gen_server,
        disagg_server_arrival_time=handed.arrived_s,
        disagg_server_first_token_time=handed.first_token_s,
        ctx_perf_metrics=context,
        gen_perf_metrics=generation,
    )
