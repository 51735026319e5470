"""Asks an endpoint and tells what became of each request. Keeps connections; knows nothing of loads and pacing."""

from __future__ import annotations

import asyncio
import ssl
import time
from urllib.parse import SplitResult, urlsplit

from trtdisagg.bench.serve.connection import Connection, LostError
from trtdisagg.bench.serve.outcome import Outcome
from trtdisagg.bench.serve.reception import NotAnAnswerError, Streamed, Whole, message_of
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.http1 import BadAnswerError

CONNECT_TIMEOUT_S = 20.0
PAGE_TIMEOUT_S = 20.0


class _NoConnectionError(OSError):
    """Within the time for it."""


class Client:
    """All connections to one endpoint.

    :param url: what is before /v1, which may be there.
    :param api_key: sent as a bearer token.
    :raises ConfigError: the URL is none.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        parts = _parts(url)
        assert parts.hostname is not None
        self._host = parts.hostname
        self._address = (self._host, parts.port or (443 if parts.scheme == "https" else 80))
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._fields = f"Host: {parts.netloc}\r\n{authorization}"
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    async def ask(
        self,
        path: str,
        body: bytes,
        outcome: Outcome,
        *,
        is_streamed: bool,
        timeout_s: float,
        leave_after: int | None = None,
        keeps_text: bool = False,
    ) -> str:
        """One request; times, counts and what failed are put into the outcome.

        :param leave_after: the client goes with this token of a stream.
        :returns: the text of the answer: that of a stream only where it is kept, none where there is no answer.
        """
        request = self._request("POST", path, body)
        reception: Streamed | Whole = Whole(outcome)
        if is_streamed:
            reception = Streamed(outcome, leave_after=leave_after, keeps_text=keeps_text)
        outcome.sent_at = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._received(request, reception, outcome)
        except TimeoutError:
            _fail(outcome, "timeout", f"no whole answer within {timeout_s:g} s")
        except NotAnAnswerError as e:
            _fail(outcome, e.kind, str(e))
        except BadAnswerError as e:
            _fail(outcome, "not an answer", str(e))
        except LostError as e:
            _fail(outcome, "cut off" if outcome.heard_at else "connection lost", str(e))
        except OSError as e:
            _fail(outcome, _kind(e), words_of(e))
        return ""

    async def page(self, path: str) -> tuple[int, bytes]:
        """GET a page: its status and body.

        :raises OSError: there is no answer.
        """
        whole = Whole(Outcome(index=0, max_tokens=0))
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                status, _ = await self._exchange(self._request("GET", path), whole, whole)
        except TimeoutError:
            raise ConnectionError(f"nothing came within {PAGE_TIMEOUT_S:g} s") from None
        except (BadAnswerError, NotAnAnswerError, LostError) as e:
            raise ConnectionError(str(e)) from e
        return status, whole.bytes()

    def close(self) -> None:
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()

    async def _received(self, request: bytes, reception: Streamed | Whole, outcome: Outcome) -> str:
        error_body = Whole(outcome)
        status, ended_at = await self._exchange(request, reception, error_body)
        if status != 200:
            _fail(outcome, f"HTTP {status}", message_of(error_body.bytes()))
            return ""
        if reception.has_left:
            outcome.is_cancelled = True
            return ""
        return reception.end(ended_at)

    async def _exchange(self, request: bytes, body: Streamed | Whole, error_body: Whole) -> tuple[int, float]:
        """On an idle connection, or a new one; one that was closed while it was idle is no failure.

        :returns: status, and when the answer was complete.
        """
        while True:
            connection = self._take_idle() or await self._connect()
            is_first = connection.num_asked == 0
            self._busy.add(connection)
            try:
                answer = await connection.ask(request, body, error_body)
            except LostError as e:
                if e.is_stale and not is_first:
                    continue
                raise
            except BaseException:
                connection.abort()
                raise
            finally:
                self._busy.discard(connection)
            if connection.is_reusable:
                self._idle.append(connection)
            else:
                connection.abort()
            return answer.status, answer.ended_at

    def _take_idle(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_reusable:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = self._host if self._tls else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop), *self._address, ssl=self._tls, server_hostname=name
                )
        except TimeoutError:
            raise _NoConnectionError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
        self._address = connection.address  # a name is looked up once
        return connection

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        about = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._fields}{about}\r\n".encode() + (body or b"")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if "@" in parts.netloc:  # a password may be, which is not to be repeated
            raise ConfigError("--url: there is no place for a user in it; --api-key-file has a client's key")
        _ = parts.port
    except ValueError as e:
        raise ConfigError(f"--url {url}: {e}") from e
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"--url {url}: an endpoint is http://HOST:PORT or https://HOST:PORT")
    return parts


def _fail(outcome: Outcome, kind: str, message: str) -> None:
    outcome.error, outcome.message, outcome.ended_at = kind, message, time.monotonic()


def words_of(error: OSError) -> str:
    text = error.strerror or str(error)
    is_unknown = isinstance(error, ssl.SSLCertVerificationError)
    return f"{text}; SSL_CERT_FILE=FILE names certificates to trust" if is_unknown else text


def _kind(error: OSError) -> str:
    match error:
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLError():
            return "TLS"
        case ConnectionError():
            return "connection lost"
    return "no connection"
