"""The body of a client's request: whole, in time, and not too long."""

from __future__ import annotations

import asyncio

from aiohttp import web

from trtdisagg.errors import BodyTimeoutError, BodyTooLargeError
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.proxy.deadlines import Deadlines

BODY_TIMEOUT_S = 60.0
"""For it to come, where the deadline for the first token is not earlier."""


async def read_body(request: web.BaseRequest, spec: ProxySpec, deadlines: Deadlines) -> bytes:
    """
    :raises BodyTooLargeError: it is longer than `max_body_bytes`.
    :raises BodyTimeoutError: it does not come.
    """
    limit = spec.max_body_bytes
    if request.content.is_eof():  # it came with its head, as most do
        if len(body := request.content.read_nowait()) > limit:
            raise _too_large(limit)
        return body
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    if request.transport is not None and request.headers.get("Expect", "").lower() == "100-continue":
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    timeout_s = min(BODY_TIMEOUT_S, spec.first_token_timeout_s)
    try:
        async with deadlines.by(asyncio.get_running_loop().time() + timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limit) from None
    except TimeoutError:
        raise BodyTimeoutError(f"The body did not come within {timeout_s:g} s") from None


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {limit} bytes")
