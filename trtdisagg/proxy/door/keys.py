"""Who asks: API keys, and what each of them has in flight. Keys are known by their digests and said by their names.

A digest is found in a table and then compared in constant time. That the table's time tells something of a digest helps
nobody: who wants to make a key of which the digest begins as another's must find it by trial.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterable

from trtdisagg.config.api_keys import ApiKey, digest_of
from trtdisagg.errors import AuthenticationError, RateLimitError
from trtdisagg.proxy.door.rates import Allowance
from trtdisagg.proxy.door.shared_keys import SharedKeys

_SCHEME = "bearer "


class Client:
    """One key."""

    def __init__(self, key: ApiKey, allowance: Allowance) -> None:
        self.name = key.name
        self._digest = key.digest
        self.allowance = allowance

    def matches(self, digest: bytes) -> bool:
        return hmac.compare_digest(digest, self._digest)

    def begin(self, now: float) -> None:
        """A request of it runs, until `end`.

        :raises RateLimitError: it may not now.
        """
        allowance = self.allowance
        num_in_flight = allowance.look(now)
        headers = allowance.headers(now)
        if allowance.max_in_flight is not None and num_in_flight >= allowance.max_in_flight:
            message = f"{self.name} has {num_in_flight} requests in flight, as many as it may"
            raise RateLimitError(message, {**headers, "Retry-After": "1"})
        if allowance.bucket is not None and not allowance.bucket.take(now):
            wait_s = allowance.bucket.wait_s(now)
            message = f"{self.name} may ask {allowance.bucket.per_minute} times a minute; ask again in {wait_s:.1f} s"
            raise RateLimitError(message, {**headers, "Retry-After": str(math.ceil(wait_s))})
        allowance.begin()

    def end(self) -> None:
        self.allowance.end()


class Keys:
    """All that are valid now.

    :param shared: where the other processes of this proxy count; None: there are none.
    """

    def __init__(self, keys: Iterable[ApiKey], now: float, shared: SharedKeys | None = None) -> None:
        self._shared = shared
        self._clients: dict[bytes, Client] = {}
        self.change(keys, now)

    def change(self, keys: Iterable[ApiKey], now: float) -> None:
        """Others are valid from now on. Who keeps its name keeps what it has taken, also with another key."""
        allowances = {client.name: client.allowance for client in self._clients.values()}
        clients = {}
        for number, key in enumerate(keys):
            limits = (key.requests_per_minute, key.max_in_flight)
            allowance = allowances.get(key.name) or Allowance(*limits, now)
            allowance.change(*limits, now)
            allowance.share(None if self._shared is None else self._shared.place(number))
            clients[key.digest] = Client(key, allowance)
        self._clients = clients
        for name in allowances.keys() - {client.name for client in clients.values()}:
            allowances[name].share(None)  # its place is another's now

    def find(self, authorization: str | None) -> Client:
        """
        :param authorization: the header.
        :raises AuthenticationError: it brings no valid key.
        """
        digest = digest_of(bearer(authorization))
        client = self._clients.get(digest)
        if client is None or not client.matches(digest):
            raise AuthenticationError("The API key is missing or not valid: `Authorization: Bearer KEY`")
        return client


def bearer(authorization: str | None) -> str:
    """What an `Authorization` header brings; empty: nothing."""
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        return ""
    return authorization[len(_SCHEME) :].strip()
