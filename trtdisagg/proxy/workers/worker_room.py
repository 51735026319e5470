"""What the processes of one proxy answer together, whichever of them a client has reached.

    client ->  GET /metrics        any process  -> GET /metrics of the others       added up
               GET /perf_metrics                -> GET /perf_metrics of the others  theirs become its own, then as alone

The others are asked over their members sockets; a process alone has none of this.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from trtdisagg.proxy.http.pages import Pages
from trtdisagg.proxy.records.kept_pages import KeptPages
from trtdisagg.proxy.records.merged_metrics import AsMetrics, Family, added, decode
from trtdisagg.proxy.records.metrics import Metrics
from trtdisagg.proxy.records.perf import PerfLog
from trtdisagg.proxy.workers.fellows import Fellows

_BYTES = "application/octet-stream"


class WorkerRoom:
    """
    :param socket: our own members socket.
    """

    def __init__(self, socket: str, fellows: Fellows, metrics: Metrics, perf: PerfLog) -> None:
        self._fellows = fellows
        self._kept = KeptPages(socket)
        self._metrics = metrics
        self._perf = perf

    @property
    def client_pages(self) -> Pages:
        """In place of those of a process alone."""
        paths = ("/metrics", "/prometheus/metrics")
        return {("GET", "/perf_metrics"): self._all_perf, **{("GET", path): self._all_metrics for path in paths}}

    @property
    def fellow_pages(self) -> Pages:
        """For the other processes."""
        return {("GET", "/metrics"): self._own_metrics, ("GET", "/perf_metrics"): self._own_perf}

    def end(self) -> None:
        """What was counted is kept for the others."""
        self._kept.keep(self._page())

    # --- metrics ----------------------------------------------------------------------------------------------------

    def _page(self) -> list[Family]:
        silent = "Times that another process of the proxy did not answer in time: its last numbers were told"
        mine = ("trtdisagg_proxy_silent_workers_total", (), float(self._fellows.num_silent))
        return [*self._metrics.families(), Family("trtdisagg_proxy_silent_workers", "counter", silent, [mine])]

    async def _own_metrics(self, _: web.BaseRequest) -> web.Response:
        return web.Response(body=self._kept.keep(self._page()), content_type=_BYTES)

    async def _all_metrics(self, _: web.BaseRequest) -> web.Response:
        answers = await self._fellows.ask_all("GET", "/metrics")
        mine = self._page()
        self._kept.keep(mine)
        page = await asyncio.to_thread(self._added, mine, answers)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _added(self, mine: list[Family], answers: dict[str, bytes | None]) -> bytes:
        """On a thread: it takes a millisecond for every few hundred samples."""
        theirs = [decode(answer) for answer in answers.values() if answer is not None]
        silent = self._kept.of_silent([socket for socket, answer in answers.items() if answer is None])
        gone = self._kept.of_gone(answers)
        return generate_latest(AsMetrics(added([mine, *theirs, *silent, *gone])))

    # --- requests and their times -----------------------------------------------------------------------------------

    async def _own_perf(self, _: web.BaseRequest) -> web.Response:
        return web.Response(body=msgspec.msgpack.encode(self._perf.give()), content_type=_BYTES)

    async def _all_perf(self, request: web.BaseRequest) -> web.StreamResponse:
        for answer in (await self._fellows.ask_all("GET", "/perf_metrics")).values():
            if answer is not None:
                self._perf.take_over(answer)
        return await self._perf.page(request)
