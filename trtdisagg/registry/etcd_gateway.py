"""etcd's JSON gateway: one call, one answer. Keys and values are base64, 64-bit numbers are strings.

Each call has a deadline, because a frozen etcd answers nothing and closes nothing. With several endpoints, one that
cannot be reached is left for the next. Where etcd asks for a user, a token is fetched, and fetched anew when it is
refused: etcd forgets them when it restarts, and after 5 minutes.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import stat
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from trtdisagg.errors import ConfigError, RegistryError

TIMEOUT_S = 3.0
MAX_LINE_BYTES = 16 * 1024 * 1024
NOT_FOUND = 5
"""gRPC's code."""
_UNAUTHENTICATED = 16
_TOKEN_REFUSED = ("invalid auth token", "revision of auth store is old")


class Access(msgspec.Struct, kw_only=True, frozen=True):
    """Who we are, where etcd asks."""

    user: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class EtcdError(RegistryError):
    """etcd answered that it does not do it."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.grpc_code = code


class Gateway:
    """
    :param endpoints: base URLs.
    :raises ConfigError: a file of `access` is missing, wrong, or a password that others can read.
    """

    def __init__(self, endpoints: Sequence[str], access: Access | None = None) -> None:
        access = access or Access()
        self._endpoints = deque(endpoints)
        self._user = access.user
        self._password = read_password(access.password_file) if access.password_file else ""
        self._tls = _tls(access) if endpoints[0].startswith("https") else None
        self._token: str | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def endpoint(self) -> str:
        return self._endpoints[0]

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """
        :raises EtcdError: etcd refuses.
        :raises RegistryError: there is no answer in time.
        """
        try:
            return await self._ask(path, body, await self._authorization())
        except EtcdError as e:
            if not self._is_token_refused(e):
                raise
        self._token = None
        return await self._ask(path, body, await self._authorization())

    @contextlib.asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The results of a call that goes on answering. It has no deadline: silence looks the same as a frozen etcd.

        :raises RegistryError: it cannot begin, breaks or ends.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_S)
        headers = await self._authorization()
        try:
            async with self._open().post(self.endpoint + path, json=body, headers=headers, timeout=timeout) as answer:
                yield self._results(answer)
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise RegistryError(f"etcd at {self.endpoint}: {e or type(e).__name__}") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- one request ------------------------------------------------------------------------------------------------

    async def _ask(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        try:
            async with self._open().post(self.endpoint + path, json=body, headers=headers) as answer:
                content = await answer.read()
                status = answer.status
        except TimeoutError:
            raise self._away(f"no answer within {TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError) as e:
            raise self._away(str(e) or type(e).__name__) from None
        return _result(_decode(content, self.endpoint), status)

    async def _results(self, answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
        async for line in answer.content:
            yield _result(_decode(line, self.endpoint), answer.status)
        raise RegistryError(f"etcd at {self.endpoint} ended the stream")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                read_bufsize=MAX_LINE_BYTES,
            )
        return self._session

    def _away(self, why: str) -> RegistryError:
        error = RegistryError(f"etcd at {self.endpoint}: {why}")
        self._endpoints.rotate(-1)
        return error

    # --- who we are -------------------------------------------------------------------------------------------------

    async def _authorization(self) -> dict[str, str]:
        if self._user is None:
            return {}
        if self._token is None:
            body = {"name": self._user, "password": self._password}
            self._token = str((await self._ask("/v3/auth/authenticate", body, {}))["token"])
        return {"Authorization": self._token}

    def _is_token_refused(self, error: EtcdError) -> bool:
        refused = error.grpc_code == _UNAUTHENTICATED or any(words in error.message for words in _TOKEN_REFUSED)
        return refused and self._token is not None


def read_password(path: str) -> str:
    """
    :raises ConfigError: the file is missing, or others may read it.
    """
    file = Path(path).expanduser()
    try:
        mode = file.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"The password_file {file} can be read by others; `chmod 600` it")
        return file.read_text().strip()
    except OSError as e:
        raise ConfigError(f"The password_file {file} cannot be read: {e.strerror}") from None


def _tls(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
        if access.cert_file:
            context.load_cert_chain(access.cert_file, access.key_file)
    except (OSError, ssl.SSLError) as e:
        files = ", ".join(file for file in (access.ca_file, access.cert_file, access.key_file) if file)
        raise ConfigError(f"etcd's certificates cannot be used ({files}): {e}") from None
    return context


def _decode(content: bytes, endpoint: str) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RegistryError(f"{endpoint} does not speak etcd's JSON: {content[:80]!r}")
    return answer


def _result(answer: dict[str, Any], status: int) -> dict[str, Any]:
    """The answer, or what a line of a stream has in it."""
    error = answer.get("error")
    if status != 200 or error is not None:
        inner = error if isinstance(error, dict) else answer
        code = int(inner.get("code") or inner.get("grpc_code") or 0)
        raise EtcdError(f"etcd refuses: {inner.get('message') or error or status}", code)
    result = answer.get("result", answer)
    assert isinstance(result, dict)
    return result
