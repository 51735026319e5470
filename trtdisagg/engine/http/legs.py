"""Answers one job: whole, as a stream, or as the context leg of a handover."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from aiohttp import web

from trtdisagg.engine.http import frames, logprobs
from trtdisagg.engine.http.best import best
from trtdisagg.engine.http.handed import ticket_in
from trtdisagg.engine.http.job import Job
from trtdisagg.engine.http.piece import Piece
from trtdisagg.engine.http.running import Running
from trtdisagg.engine.http.service import Service
from trtdisagg.engine.http.stream import EventStream
from trtdisagg.errors import BodyTimeoutError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.decoding import TIMEOUT_HEADER, read_timeout
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
    clock, reason = Clock(), None
    with service.admitted() as intake:
        body = await read_body(request, service.body_timeout_s)
        with contextlib.ExitStack() as stack:
            with _given_back(service, body, secret):
                timeout_s = read_timeout(request.headers.get(TIMEOUT_HEADER))
                job = await (intake.chat(body, timeout_s) if chat else intake.completion(body, timeout_s))
                running = stack.enter_context(service.running(job))
                await running.start()
            try:
                if job.is_context_only:
                    response, reason = await _context(job, running, clock, secret)
                elif job.stream:
                    response, reason = await _stream(job, running, clock, request)
                else:
                    response, reason = await _whole(job, running, clock)
            finally:
                _note(service, job, running, clock, name=request.headers.get("X-Request-Id", ""), reason=reason)
        return response


@contextlib.contextmanager
def _given_back(service: Service, body: bytes, secret: bytes) -> Iterator[None]:
    """Give the KV back that a request names when it is refused, or its client leaves, before the engine has it: nobody
    will come for it. When this server takes none at all (503), another one will."""
    try:
        yield
    except UnavailableError:
        raise
    except BaseException:
        if ticket := ticket_in(body, secret):
            service.release(ticket)
        raise


async def read_body(request: web.Request, timeout_s: float) -> bytes:
    """
    :raises BodyTimeoutError: when it does not come; a client that sends it for ever would hold up a drain.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise BodyTimeoutError(f"The body did not come within {timeout_s:g} s") from None


async def _context(job: Job, running: Running, clock: Clock, secret: bytes) -> tuple[web.StreamResponse, str | None]:
    [piece] = await _rest(running, clock)
    [said], usage = running.answers, running.usage
    params = None
    if piece.finish_reason == "not_finished":
        params = DisaggregatedParams(
            request_type="context_only",
            first_gen_tokens=said.token_ids,
            first_gen_log_probs=logprobs.hand_over(said.token_ids, said.logprobs),
            ctx_request_id=job.requests[0].id,
            disagg_request_id=job.params.disagg_request_id if job.params else None,
            encoded_opaque_state=seal(running.hand_over(), secret),
            ctx_usage=usage,
        )
    return json_response(frames.context_answer(job, said, piece, usage, params)), running.finish_reason


async def _whole(job: Job, running: Running, clock: Clock) -> tuple[web.StreamResponse, str | None]:
    pieces = await _rest(running, clock)
    chosen, usage = best(job, running.answers, pieces), running.usage
    if any(request.wants_context_logits or request.wants_generation_logits for request in job.requests):
        body = await asyncio.to_thread(frames.whole, job, chosen, usage)
    else:
        body = frames.whole(job, chosen, usage)
    return json_response(body), running.finish_reason


async def _rest(running: Running, clock: Clock) -> list[Piece]:
    """All that comes, as one piece of each answer."""
    wholes = [Piece(answer.index) for answer in running.answers]
    while True:
        for piece in await running.next():
            wholes[piece.index] += piece
        clock.tick()
        if running.is_complete:
            return wholes


async def _stream(
    job: Job, running: Running, clock: Clock, request: web.Request
) -> tuple[web.StreamResponse, str | None]:
    pieces = await running.next()  # what fails before there is anything to send gets a status of its own
    clock.tick()
    stream = EventStream(request)

    def send(pieces: list[Piece]) -> bool:
        stream.write(_events(job, running, pieces))
        return not stream.is_full

    try:
        await stream.begin((b"" if job.has_begun else frames.begin(job)) + _events(job, running, pieces))
        while not running.is_complete:
            await running.pump(send)
            await stream.drain()
        await stream.end()
    except ConnectionError:
        log.debug("the client of request %s left", job.id)
        return stream.response, None
    except Exception as e:  # noqa: BLE001 - whatever it is, the client is told in the stream
        await _end_with(stream, job, e)
        return stream.response, None
    return stream.response, running.finish_reason


def _events(job: Job, running: Running, pieces: list[Piece]) -> bytes:
    """Pieces, and behind the last of all the ending."""
    events = frames.events(job, pieces, running.usage if job.continuous_usage else None, running.part())
    return events + frames.ending(job, running.usage, running.part()) if running.is_complete else events


async def _end_with(stream: EventStream, job: Job, error: Exception) -> None:
    """End a stream that has begun, and has its status, by an error."""
    if not isinstance(error, TrtdisaggError):
        log.error("request %s failed within its stream", job.id, exc_info=error)
        error = TrtdisaggError("Internal error; the server's log says more")
    with contextlib.suppress(ConnectionError):
        stream.write(frames.error_event(error))
        await stream.end()


def _note(service: Service, job: Job, running: Running, clock: Clock, *, name: str, reason: str | None) -> None:
    """
    :param reason: why it ended; None: it failed, or its client left.
    """
    first_s = clock.first_s or clock.elapsed_s
    first_text_s, is_answered = clock.start + first_s, reason is not None
    service.perf.add(
        job, running.records, name=name, arrived_s=clock.start, first_text_s=first_text_s, is_answered=is_answered
    )
    if reason is None:
        return
    longest = max(len(answer.token_ids) for answer in running.answers)
    service.metrics.finished(
        reason,
        queue_s=max((r.scheduled_s - r.arrived_s for r in running.records.values() if r.scheduled_s), default=0.0),
        first_s=first_s,
        whole_s=clock.elapsed_s,
        num_tokens=longest - len(job.requests[0].output_token_ids),
    )


def json_response(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
