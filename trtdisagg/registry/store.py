"""What a registrar asks of a store: keys that live as long as their lease is renewed.

Two stores are there: one inside the proxy (http_store, leases) and etcd (etcd).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Store(Protocol):
    """Each call has a deadline of its own and raises RegistryError when the store is away or refuses."""

    async def put(self, entries: Mapping[str, str], ttl_s: float) -> str:
        """Write keys, in this order, under a lease of their own.

        :returns: the lease.
        """

    async def renew(self, lease: str) -> bool:
        """
        :returns: False: the lease is gone, and its keys with it.
        """

    async def drop(self, lease: str) -> None:
        """Delete a lease and its keys now; one that is gone already is no error."""

    async def in_use(self) -> Mapping[str, int] | None:
        """Requests that count on each server, by incarnation; None: this store does not know."""

    async def until_restarted(self) -> None:
        """Return when leases may have been lost, to be looked at before their next renewal."""

    async def close(self) -> None:
        """Give connections back."""
