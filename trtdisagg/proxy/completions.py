"""Requests for completions from their first byte to the last of their answers: admitted, read, relayed, counted.

How one is relayed is known by relay. Here is what holds for all: limits, deadlines, that each gets an answer or an
error, and how those that run end when the proxy does.
"""

from __future__ import annotations

import asyncio
import logging
import math

from aiohttp import web
from msgspec.structs import replace

from trtdisagg.errors import OverloadedError, UnavailableError
from trtdisagg.protocol.decoding import TIMEOUT_HEADER, read_timeout
from trtdisagg.proxy.deadlines import Deadline
from trtdisagg.proxy.door.refusals import as_answer, as_event, kind_of
from trtdisagg.proxy.door.visit import Visit
from trtdisagg.proxy.http.bodies import read_body
from trtdisagg.proxy.http.whole_answer import AnyAnswer, WholeAnswer
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.path.client_stream import ClientStream
from trtdisagg.proxy.path.relay import Relay
from trtdisagg.proxy.path.request import SERVER_SAYS_FIRST_S, Incoming, decode_incoming
from trtdisagg.proxy.records.counts import CLIENT_LEFT
from trtdisagg.proxy.records.record import Record
from trtdisagg.proxy.responses.asked import decode_asked
from trtdisagg.proxy.responses.form import Form
from trtdisagg.proxy.routing.ask import Ask
from trtdisagg.proxy.routing.session import SESSION_HEADER, read_session

RESPONSES = "/v1/responses"
COMPLETIONS = {"/v1/completions": False, "/v1/chat/completions": True, RESPONSES: True}
"""Route -> is it chat."""
MAX_MODEL_CHARS = 1024
"""Of what a client calls its model, in a record: thousands of records are kept."""

logger = logging.getLogger(__name__)


class Completions:
    """All that run in this process."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._loop = asyncio.get_running_loop()
        self._running: set[Deadline] = set()
        self._is_ending = False
        self.idle = asyncio.Event()
        """Set while none runs."""
        self.idle.set()

    def end(self) -> None:
        """Break off those that run, and refuse those that come."""
        self._is_ending = True
        for deadline in self._running:
            deadline.end(_ending())

    async def handle(self, request: web.BaseRequest, visit: Visit) -> AnyAnswer:
        """Answer one request.

        :raises ConnectionError: when the client has left.
        """
        started, path = self._loop.time(), request.raw_path.partition("?")[0]
        client = ClientStream(request, visit)
        record = self._means.records.begin(visit.request_id, path)
        record.client = visit.client
        if self._means.readers.traces is not None:
            record.trace = self._means.readers.traces.begin(request.headers)
        deadline = self._begin()
        try:
            async with deadline:
                self._admit()
                timeout_s = read_timeout(request.headers.get(TIMEOUT_HEADER))
                told = read_session(request.headers.get(SESSION_HEADER))
                body = await read_body(request, self._means.spec, self._means.deadlines)
                if path == RESPONSES:
                    asked = decode_asked(body)
                    body, client.form = asked.chat_body, Form(asked)
                incoming = decode_incoming(
                    body,
                    chat=COMPLETIONS[path],
                    request_id=visit.request_id,
                    timeout_s=timeout_s,
                    arrived=record.arrived,
                )
                record.model, record.is_stream = incoming.model[:MAX_MODEL_CHARS], incoming.stream
                deadline.due = started + self._patience_s(incoming.timeout_s)
                incoming, ask = await self._make_ask(incoming, told)
                response: AnyAnswer
                relay = Relay(self._means, incoming, client, ask=ask, record=record, deadline=deadline)
                response = await relay.run()
                if client.form is not None and not client.begun:
                    response = _reformed(response, client.form)
            record.status = response.status
        except ConnectionError:
            raise
        except Exception as e:  # noqa: BLE001 (a bug must be answered, too)
            response = await self._fail(client, record, e)
            record.status = response.status
        finally:
            self._end(deadline, client, record)
        return response

    # --- before it runs ---------------------------------------------------------------------------------------------

    def _begin(self) -> Deadline:
        deadline = self._means.deadlines.by(math.inf)
        self._running.add(deadline)
        self.idle.clear()
        return deadline

    def _admit(self) -> None:
        if self._is_ending:
            raise _ending()
        if self._means.records.num_in_flight > self._means.spec.max_in_flight:
            raise OverloadedError(f"{self._means.spec.max_in_flight} requests are in flight already; ask again later")

    async def _make_ask(self, incoming: Incoming, told: str | None) -> tuple[Incoming, Ask]:
        """The request, with its tokens if they were read, and what routing looks at of it.

        :param told: what the client calls its conversation.
        """
        asks, reading = self._means.asks, None
        session = asks.session(incoming, told)
        if asks.needs_tokens(incoming, session):
            reading = await self._means.texts.read_for_routing(incoming, self._means.index.roots)
        if reading is not None:
            incoming = replace(incoming, read_token_ids=reading.token_ids)
        return incoming, asks.make(incoming, session=session, reading=reading)

    def _patience_s(self, timeout_s: float | None) -> float:
        """Until the first token; where the client has a deadline of its own, a server says first that it passed."""
        limit_s = self._means.spec.first_token_timeout_s
        return limit_s if timeout_s is None else min(limit_s, timeout_s + SERVER_SAYS_FIRST_S)

    # --- after it ran -----------------------------------------------------------------------------------------------

    async def _fail(self, client: ClientStream, record: Record, error: Exception) -> web.StreamResponse:
        if not client.begun:
            record.error = kind_of(error)
            return as_answer(error, record.request_id)
        if not client.is_complete:
            record.error = kind_of(error)
            logger.warning("%s: the stream broke: %s", record.request_id, error)
            await client.fail(as_event(error, record.request_id))
        return client.response

    def _end(self, deadline: Deadline, client: ClientStream, record: Record) -> None:
        self._running.discard(deadline)
        if not self._running:
            self.idle.set()
        if not record.status and client.is_complete:  # many leave at the end mark, before the connection's own end
            record.status = client.response.status
        elif not record.status:
            record.status, record.error = CLIENT_LEFT, "client_left"
        record.num_events = client.num_events
        self._means.records.add(record)


def _reformed(response: AnyAnswer, form: Form) -> WholeAnswer:
    """A whole answer as the client wants it."""
    assert isinstance(response, WholeAnswer)
    return WholeAnswer(form.whole(response.body))


def _ending() -> UnavailableError:
    return UnavailableError("The proxy is ending; ask again")
