"""Asks a server how it is, and who it is: /health; /server_info of ours, /v1/models of others.

Knows one question and its answer. How often to ask, and what follows, is known by those who ask (health,
registry_source).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

import msgspec

from trtdisagg.protocol.answers import ModelList
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import UpstreamServer
from trtdisagg.proxy.http.pool import Pool, UnreachableError
from trtdisagg.proxy.http.upstream import BrokenError

TIMEOUT_S = 5.0
MAX_BODY_BYTES = 1024 * 1024

Outcome = Literal["well", "refused", "silent"]

logger = logging.getLogger(__name__)


class Prober:
    """Asks over the proxy's own connections."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def look(self, url: str, timeout_s: float = TIMEOUT_S) -> Outcome:
        """How a server is now."""
        try:
            status, _ = await self._get(url, "/health", timeout_s)
        except (UnreachableError, BrokenError):
            return "refused"
        except TimeoutError:
            return "silent"
        return "well" if status == 200 else "refused"

    async def describe(self, server: UpstreamServer) -> list[Member]:
        """Who a server is, one member for each of its models; nothing, when it cannot be made out."""
        try:
            _, info = await self._get(server.url, "/server_info")
            if (ours := _decode_member(info)) is not None:
                model = server.model or ours.model
                return [msgspec.structs.replace(ours, name=server.name, role=server.role, url=server.url, model=model)]
            models = [server.model] if server.model else await self._models(server.url)
        except (UnreachableError, BrokenError, TimeoutError, msgspec.DecodeError) as e:
            logger.warning("%s at %s is healthy but does not say what it serves: %s", server.name, server.url, e)
            return []
        return [Member(name=server.name, role=server.role, url=server.url, model=model) for model in models]

    async def _models(self, url: str) -> list[str]:
        _, body = await self._get(url, "/v1/models")
        return [card.id for card in msgspec.json.decode(body, type=ModelList).data]

    async def _get(self, url: str, path: str, timeout_s: float = TIMEOUT_S) -> tuple[int, bytes]:
        async with asyncio.timeout(timeout_s):
            head, body = await self._pool.exchange(url, "GET", path).fetch(MAX_BODY_BYTES)
        return head.status, body


def _decode_member(body: bytes) -> Member | None:
    """A server's description of itself, if it is one of ours."""
    try:
        return msgspec.json.decode(body, type=Member)
    except msgspec.DecodeError:
        return None
