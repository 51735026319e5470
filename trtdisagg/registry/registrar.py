"""Keeps an agent's healthy servers registered in a store: enters, renews, takes out.

    update(members)   the servers that may be routed to now; who is not in it leaves at once
    in_use(who)       of a server that has left: what still counts on it

One task for each registration. Whatever the store does, the agent goes on: problems are told as text, once, and a lease
that was lost is made again. Whether a server is healthy is the agent's to know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping

import anyio
import anyio.abc
import msgspec

from trtdisagg.errors import RegistryError
from trtdisagg.protocol.control import Member
from trtdisagg.registry.store import Store

RETRY_S = 0.4
"""Between two tries while the store is away."""
LEAVE_TIMEOUT_S = 5.0
"""For the store to take a server out; then it is left to the end of its lease."""
IN_USE_S = 0.1
"""Between two questions for what still counts on a server that has left."""
MAX_REMEMBERED = 1000
"""Servers that have left, of which is known what still counts on them."""
END_TIMEOUT_S = 2.0
"""For everything that is left when the registrar ends."""

EntriesOf = Callable[[Member], Mapping[str, str]]


class _Registration(msgspec.Struct):
    """One member's task."""

    member: Member
    scope: anyio.CancelScope
    over: anyio.Event


class Registrar:
    """
    :param entries_of: the keys and values of a member.
    :param heartbeat_s: between two renewals.
    :param inactive_s: how long a lease holds without one.
    :param is_for_others: whether others can reach a member; who is not is not registered.
    :param on_problem: told when the store stops or begins to work.
    """

    def __init__(
        self,
        store: Store,
        entries_of: EntriesOf,
        *,
        heartbeat_s: float,
        inactive_s: float,
        is_for_others: Callable[[Member], bool] = lambda _: True,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._entries_of = entries_of
        self._heartbeat_s = heartbeat_s
        self._inactive_s = inactive_s
        self._is_for_others = is_for_others
        self._on_problem = on_problem
        self._problem: str | None = None
        self._wanted: dict[str, Member] = {}
        self._kept: dict[str, _Registration] = {}
        self._in_use: dict[str, int | None] = {}
        self._look_now = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._held: set[str] = set()
        self.on_change: Callable[[], None] = lambda: None
        """Called, by a task of `run`, when `held` or an answer of `in_use` has changed."""

    def update(self, members: Iterable[Member]) -> None:
        """Take the whole set of servers that may be routed to."""
        wanted = {member.identity: member for member in members if self._is_for_others(member)}
        for key in self._wanted.keys() - wanted.keys():
            self._in_use[key] = 1 if key in self._kept else None
        for key in list(self._in_use)[:-MAX_REMEMBERED]:
            del self._in_use[key]
        for key in wanted.keys() - self._wanted.keys():
            self._in_use.pop(key, None)
        self._wanted = wanted
        self._converge()

    @property
    def held(self) -> frozenset[str]:
        """Incarnations that others may route to: registered, about to be, or not yet surely out."""
        return frozenset(self._held)

    @property
    def uses(self) -> dict[str, int]:
        """Requests that count on servers that have left, where there are any."""
        return {key: num for key, num in self._in_use.items() if num and key not in self._held}

    def in_use(self, incarnation: str) -> int | None:
        """Requests that count on a server that has left; as long as it may not be known everywhere that it has, at
        least one. None: not known (the store does not tell, or is away), so its own drain decides."""
        return self._in_use.get(incarnation)

    async def run(self) -> None:
        """Register until cancelled; then everything is taken out."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self._converge()
                while True:
                    await self._store.until_restarted()
                    self._look_now.set()
                    self._look_now = anyio.Event()
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                await self._store.close()

    # --- registrations ----------------------------------------------------------------------------------------------

    def _converge(self) -> None:
        if self._tasks is None:
            return
        for key, kept in list(self._kept.items()):
            if self._wanted.get(key) != kept.member:
                kept.scope.cancel()
        for key, member in self._wanted.items():
            before = self._kept.get(key)
            if before is None or before.member != member or before.scope.cancel_called:
                self._kept[key] = _Registration(member, anyio.CancelScope(), anyio.Event())
                self._tasks.start_soon(self._keep, key, self._kept[key], before.over if before else None)

    async def _keep(self, key: str, mine: _Registration, before: anyio.Event | None) -> None:
        """Keep one registration until it is cancelled, then take it out.

        :param before: set when the same server's last registration is out: it may have had the same keys.
        """
        leases: list[str] = []
        self._held.add(key)
        self.on_change()
        try:
            with mine.scope:
                if before is not None:
                    await before.wait()
                while True:
                    pause_s = await self._renew(mine.member, leases)
                    look_now = self._look_now
                    with anyio.move_on_after(pause_s):
                        await look_now.wait()
            await self._leave(key, leases)
        finally:
            with anyio.move_on_after(END_TIMEOUT_S, shield=True):
                await self._drop(leases, until=time.monotonic() + END_TIMEOUT_S)
            mine.over.set()
            if self._kept.get(key) is mine:
                del self._kept[key]

    async def _renew(self, member: Member, leases: list[str]) -> float:
        """
        :returns: how long to wait until the next time.
        """
        try:
            if not leases or not await self._store.renew(leases[-1]):
                with anyio.CancelScope(shield=True):  # a lease that nobody knows could not be taken back
                    leases[:] = [await self._store.put(self._entries_of(member), self._inactive_s)]
        except RegistryError as e:
            self._tell(e.message)
            return RETRY_S
        self._tell(None)
        return self._heartbeat_s

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def _leave(self, key: str, leases: list[str]) -> None:
        if not await self._drop(leases, until=time.monotonic() + min(LEAVE_TIMEOUT_S, self._inactive_s)):
            self._let_go(key)
            self._answer(key, None)
            # If the store comes back, its leases may hold anew.
            await self._drop(leases, until=time.monotonic() + self._inactive_s)
            return
        self._let_go(key)
        while self._is_gone(key):
            num = await self._ask_in_use(key)
            self._answer(key, num)
            if not num:
                return
            await anyio.sleep(IN_USE_S)

    async def _drop(self, leases: list[str], *, until: float) -> bool:
        """
        :param until: when to give up.
        """
        while leases:
            try:
                await self._store.drop(leases[-1])
                leases.pop()
            except RegistryError as e:
                self._tell(e.message)
                if time.monotonic() > until:
                    return False
                await anyio.sleep(RETRY_S)
        return True

    async def _ask_in_use(self, key: str) -> int | None:
        try:
            in_use = await self._store.in_use()
        except RegistryError:
            return None
        return None if in_use is None else in_use.get(key, 0)

    def _let_go(self, key: str) -> None:
        """It is out, or cannot be waited for any longer."""
        if self._is_gone(key):
            self._held.discard(key)
            self.on_change()

    def _is_gone(self, key: str) -> bool:
        return key not in self._wanted

    def _answer(self, key: str, num: int | None) -> None:
        if self._is_gone(key) and self._in_use.get(key, math.nan) != num:
            self._in_use[key] = num
            self.on_change()

    def _tell(self, problem: str | None) -> None:
        if problem == self._problem or (problem and self._problem):
            return
        self._problem = problem
        self._on_problem(f"not registered: {problem}; trying again" if problem else "registered again")
