"""Client of the store inside a proxy: TensorRT-LLM's five routes, and three questions of ours.

    POST /set {key, value, ttl, overwrite_if_exists}    GET /expire?key=&ttl=    DELETE /delete?key=
    GET /registry -> About      GET /in_use -> {incarnation: requests}

A lease is made of its keys: each is renewed and deleted.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import anyio
import msgspec

from trtdisagg.errors import RegistryError

TIMEOUT_S = 3.0
LOOK_S = 0.25
"""Between two looks at whether the proxy is the same still: a proxy that starts again has forgotten all keys."""


class About(msgspec.Struct, frozen=True):
    """What a proxy says of its store."""

    id: str
    """Another one after each start."""
    cluster: str
    """The cluster's name, for people."""
    cluster_name: str
    """Part of the keys."""
    heartbeat_s: float
    inactive_s: float


class HttpStore:
    """
    :param url: of the proxy: `http://host:port` or `https://host:port`.
    :param secret: the cluster's, where it has one.
    :param tls: what a certificate is checked with; None: as the system does.
    """

    def __init__(self, url: str, secret: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._tls = True if tls is None else tls
        self._headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._session: aiohttp.ClientSession | None = None

    async def put(self, entries: Mapping[str, str], ttl_s: float) -> str:
        for key, value in entries.items():
            await self._ask(
                "POST", "/set", body={"key": key, "value": value, "ttl": ttl_s, "overwrite_if_exists": True}
            )
        return json.dumps([ttl_s, *entries])

    async def renew(self, lease: str) -> bool:
        ttl_s, *keys = json.loads(lease)
        for key in keys:
            if await self._ask("GET", "/expire", missing_ok=True, key=key, ttl=f"{ttl_s:g}") is None:
                return False
        return True

    async def drop(self, lease: str) -> None:
        _, *keys = json.loads(lease)
        for key in reversed(keys):
            await self._ask("DELETE", "/delete", missing_ok=True, key=key)

    async def in_use(self) -> Mapping[str, int] | None:
        answer = await self._ask("GET", "/in_use")
        return msgspec.json.decode(answer or b"{}", type=dict[str, int])

    async def about(self) -> About:
        """
        :raises RegistryError: when it is no proxy of ours, or takes no registrations.
        """
        answer = await self._ask("GET", "/registry", missing_ok=True)
        if answer is None:
            raise RegistryError(
                f"{self._url} takes no registrations: servers register where `disagg_cluster.cluster_uri` of its "
                "cluster file says, and nowhere without one"
            )
        try:
            return msgspec.json.decode(answer or b"", type=About)
        except msgspec.DecodeError as e:
            raise RegistryError(f"{self._url} is no proxy that servers can register with: {e}") from None

    async def until_restarted(self) -> None:
        known: str | None = None
        while True:
            try:
                now: str | None = (await self.about()).id
            except RegistryError:
                now = None
            if known is not None and now is not None and now != known:
                return
            known = now or known
            await anyio.sleep(LOOK_S)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(
        self, method: str, path: str, *, missing_ok: bool = False, body: Any = None, **params: str
    ) -> bytes | None:
        """
        :param missing_ok: a 404 is an answer: None.
        :raises RegistryError: any other answer than 200, or none in time.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                headers=self._headers,
            )
        try:
            async with self._session.request(method, self._url + path, params=params, json=body) as answer:
                content = await answer.read()
        except TimeoutError:
            raise RegistryError(f"{self._url} does not answer within {TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError) as e:
            raise RegistryError(f"{self._url} cannot be reached: {e}") from None
        if answer.status == 404 and missing_ok:
            return None
        if answer.status != 200:
            raise RegistryError(f"{self._url} refuses {path}: {answer.status} {_message(content)}")
        return content


def _message(content: bytes) -> str:
    """What an error answer says to people."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
