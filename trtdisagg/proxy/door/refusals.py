"""How a client is told that its request failed: before the first byte of the answer by a status, then by an event."""

from __future__ import annotations

import logging

from aiohttp import web

from trtdisagg.errors import DeadlineError, RequestError, TrtdisaggError
from trtdisagg.protocol.answers import encode_error
from trtdisagg.proxy.http.pages import JSON
from trtdisagg.proxy.path.failures import RefusedError

PASSED_ON = ("content-type", "retry-after")
"""Headers of a server's 4xx that the client gets, too."""
RETRY_AFTER_S = 1

logger = logging.getLogger(__name__)


def as_page(error: TrtdisaggError) -> web.Response:
    """The answer to a request that went wrong."""
    headers = dict(error.headers)
    if error.http_status in (429, 503):
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return web.Response(status=error.http_status, body=encode_error(error), content_type=JSON, headers=headers)


def as_answer(error: Exception, request_id: str) -> web.Response:
    """The same, whatever went wrong.

    :param request_id: for the log.
    """
    if isinstance(error, RefusedError):
        kept = {name: error.headers[name] for name in PASSED_ON if name in error.headers}
        return web.Response(status=error.status, body=error.body, headers=kept)
    return as_page(_name(error, request_id))


def as_event(error: Exception, request_id: str) -> bytes:
    """The data of the last event of a stream that breaks off."""
    if isinstance(error, RefusedError):
        return error.as_event()
    return encode_error(_name(error, request_id))


def kind_of(error: Exception) -> str:
    """In a word of a bounded number of them, for records."""
    if isinstance(error, RefusedError):
        return "refused_by_server"
    named = _named(error)
    return named.code or named.type


def _name(error: Exception, request_id: str) -> TrtdisaggError:
    named = _named(error)
    if type(named) is TrtdisaggError and named is not error:
        logger.error("%s: a bug in the proxy", request_id, exc_info=error)
    return named


def _named(error: Exception) -> TrtdisaggError:
    match error:
        case TrtdisaggError():
            return error
        case TimeoutError():
            return DeadlineError("The request was not answered in time")
        case web.RequestPayloadError():
            return RequestError(f"The body cannot be read: {error}")
    return TrtdisaggError("Internal error; the proxy's log has more under this request's id")
