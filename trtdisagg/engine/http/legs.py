"""Answers one job: whole, as a stream, or as the context leg of a handover."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from aiohttp import web

from trtdisagg.engine.http import frames
from trtdisagg.engine.http.intake import Job
from trtdisagg.engine.http.running import Piece, Running
from trtdisagg.engine.http.service import Service
from trtdisagg.errors import BodyTimeoutError, TrtdisaggError
from trtdisagg.protocol.handover import DisaggregatedParams, seal

log = logging.getLogger(__name__)


class Clock:
    """When a request came and when its first text was there."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first_s: float | None = None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.start

    def tick(self) -> None:
        if self.first_s is None:
            self.first_s = self.elapsed_s


async def answer(service: Service, request: web.Request, secret: bytes, *, chat: bool) -> web.StreamResponse:
    """Answer one request.

    :raises TrtdisaggError: for an error before the answer has begun.
    """
    clock = Clock()
    with service.admitted() as intake:
        body = await _read_body(request, service.body_timeout_s)
        job = await (intake.chat(body) if chat else intake.completion(body))
        with service.running(job) as running:
            if job.is_context_only:
                response, last = await _context(job, running, clock, secret)
            elif job.stream:
                response, last = await _stream(job, running, clock, request)
            else:
                response, last = await _whole(job, running, clock)
        if last.finish_reason is not None:
            _count(service, job, running, clock, last)
        return response


async def _read_body(request: web.Request, timeout_s: float) -> bytes:
    """
    :raises BodyTimeoutError: when it does not come; a client that sends it for ever would hold up a drain.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise BodyTimeoutError(f"The body did not come within {timeout_s:g} s") from None


async def _context(job: Job, running: Running, clock: Clock, secret: bytes) -> tuple[web.StreamResponse, Piece]:
    piece = await _rest(running, clock)
    params = None
    if piece.finish_reason == "not_finished":
        params = DisaggregatedParams(
            request_type="context_only",
            first_gen_tokens=running.answer.token_ids,
            ctx_request_id=job.request.id,
            disagg_request_id=job.params.disagg_request_id if job.params else None,
            encoded_opaque_state=seal(running.hand_over(), secret),
        )
    return json_response(frames.context_answer(job, piece, running.answer.usage, params)), piece


async def _whole(job: Job, running: Running, clock: Clock) -> tuple[web.StreamResponse, Piece]:
    piece = await _rest(running, clock)
    return json_response(frames.whole(job, piece, running.answer.usage)), piece


async def _rest(running: Running, clock: Clock) -> Piece:
    """All that comes, as one piece."""
    text = ""
    while True:
        piece = await running.next()
        clock.tick()
        text += piece.text
        if piece.finish_reason:
            return Piece(text, piece.finish_reason, piece.stop_reason)


async def _stream(job: Job, running: Running, clock: Clock, request: web.Request) -> tuple[web.StreamResponse, Piece]:
    piece = await running.next()  # what fails before there is anything to send gets a status of its own
    clock.tick()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    prefix = b"" if job.has_begun else frames.begin(job)
    try:
        await response.write(prefix + frames.event(job, piece, running.answer.usage))
        while not piece.finish_reason:
            piece = await running.next()
            await response.write(frames.event(job, piece, running.answer.usage))
        await response.write_eof()
    except ConnectionError:
        log.debug("the client of request %s left", job.id)
        return response, Piece("")
    except Exception as e:  # noqa: BLE001 - whatever it is, the client is told in the stream
        await _end_with(response, job, e)
        return response, Piece("")
    return response, piece


async def _end_with(response: web.StreamResponse, job: Job, error: Exception) -> None:
    """End a stream that has begun, and has its status, by an error."""
    if not isinstance(error, TrtdisaggError):
        log.error("request %s failed within its stream", job.id, exc_info=error)
        error = TrtdisaggError("Internal error; the server's log says more")
    with contextlib.suppress(ConnectionError):
        await response.write(frames.error_event(error))
        await response.write_eof()


def _count(service: Service, job: Job, running: Running, clock: Clock, last: Piece) -> None:
    num_tokens = len(running.answer.token_ids) - len(job.request.output_token_ids)
    service.metrics.finished(
        last.finish_reason or "",
        first_s=clock.first_s or clock.elapsed_s,
        whole_s=clock.elapsed_s,
        num_tokens=num_tokens,
    )


def json_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
