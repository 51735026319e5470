"""A store that fails on request; its leases are keys of a dict."""

from __future__ import annotations

from collections.abc import Mapping

import anyio

from trtdisagg.errors import RegistryError


class FakeStore:
    """
    :ivar log: what was asked that has changed something.
    """

    def __init__(self) -> None:
        self.leases: dict[str, Mapping[str, str]] = {}
        self.log: list[str] = []
        self.away = False
        self.uses: dict[str, int] | None = {}
        self.num_puts = 0
        self.num_renewals = 0
        self.closed = False
        self._changed = anyio.Event()
        self._restarted = anyio.Event()

    async def put(self, entries: Mapping[str, str], ttl_s: float) -> str:
        await self._check()
        self.num_puts += 1
        lease = f"lease-{self.num_puts}"
        self.leases[lease] = entries
        self._note(f"put {','.join(entries)}")
        return lease

    async def renew(self, lease: str) -> bool:
        await self._check()
        self.num_renewals += 1
        self._note()
        return lease in self.leases

    async def drop(self, lease: str) -> None:
        await self._check()
        if entries := self.leases.pop(lease, None):
            self._note(f"drop {','.join(entries)}")

    async def in_use(self) -> Mapping[str, int] | None:
        await self._check()
        return self.uses

    async def until_restarted(self) -> None:
        await self._restarted.wait()
        self._restarted = anyio.Event()

    async def close(self) -> None:
        self.closed = True

    # --- for tests --------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Forget all."""
        self.leases.clear()
        self._restarted.set()

    @property
    def keys(self) -> set[str]:
        return {key for entries in self.leases.values() for key in entries}

    async def until(self, is_so: object) -> None:
        """Wait until a condition holds; looked at after each call."""
        assert callable(is_so)
        with anyio.fail_after(5):
            while not is_so():
                self._changed = anyio.Event()
                with anyio.move_on_after(0.05):
                    await self._changed.wait()

    async def _check(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise RegistryError("the store is away")

    def _note(self, text: str | None = None) -> None:
        if text:
            self.log.append(text)
        self._changed.set()
