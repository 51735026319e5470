"""Who may register servers, and ask what is registered."""

from __future__ import annotations

import hmac

from aiohttp import web

from trtdisagg.errors import AuthenticationError, RequestError
from trtdisagg.net import is_loopback


class ForbiddenError(RequestError):
    """From another host, without a secret."""

    http_status = 403
    code = "forbidden"


def check_caller(request: web.BaseRequest, secret: str | None) -> None:
    """
    :param secret: the cluster's; None: there is none.
    :raises RequestError: whoever asks may not.
    """
    if secret is not None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, secret.encode()):
            raise AuthenticationError("The cluster's secret is missing or wrong; see --secret-file")
    elif not _is_from_here(request):
        raise ForbiddenError(
            "This cluster has no secret, so only its own host may register servers; give it a secret_file"
        )
    elif "Origin" in request.headers:  # a page of anybody's, in a browser on this host
        raise ForbiddenError("This cluster has no secret, so no web page may ask here; give it a secret_file")


def _is_from_here(request: web.BaseRequest) -> bool:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return isinstance(peer, tuple) and is_loopback(peer[0])
