"""The registrar against a store that fails on request."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
import pytest
from fakes.store import FakeStore

from trtdisagg.protocol.control import Member
from trtdisagg.registry.registrar import Registrar

pytestmark = pytest.mark.anyio


def member(name: str, role: str = "generation", run: int = 1) -> Member:
    return Member(name=name, role=role, model="m", url="h:1", incarnation=f"{name}.{run}")  # type: ignore[arg-type]


class Running:
    def __init__(self, heartbeat_s: float) -> None:
        self.store = FakeStore()
        self.problems: list[str] = []
        self.registrar = Registrar(
            self.store,
            lambda m: {f"{m.incarnation}/{m.role}": m.url},
            heartbeat_s=heartbeat_s,
            inactive_s=60,
            on_problem=self.problems.append,
        )


@contextlib.asynccontextmanager
async def running(heartbeat_s: float = 60) -> AsyncIterator[Running]:
    it = Running(heartbeat_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(it.registrar.run)
        yield it
        tasks.cancel_scope.cancel()
    assert it.store.closed


async def test_those_that_come_are_entered_and_those_that_go_are_taken_out() -> None:
    async with running() as it:
        it.registrar.update([member("a"), member("b")])
        await it.store.until(lambda: it.store.keys == {"a.1/generation", "b.1/generation"})
        it.registrar.update([member("b")])
        await it.store.until(lambda: it.store.keys == {"b.1/generation"})
        it.registrar.update([member("b")])
        await anyio.lowlevel.checkpoint()
        assert it.store.num_puts == 2
    assert it.store.keys == set(), "the end takes everything out"


async def test_what_was_told_before_it_ran_counts() -> None:
    it = Running(60)
    it.registrar.update([member("a")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(it.registrar.run)
        await it.store.until(lambda: it.store.keys == {"a.1/generation"})
        tasks.cancel_scope.cancel()


async def test_leases_are_renewed_and_lost_ones_made_again() -> None:
    async with running(heartbeat_s=0.01) as it:
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.num_renewals >= 3)
        assert it.store.num_puts == 1
        it.store.leases.clear()
        await it.store.until(lambda: it.store.keys == {"a.1/generation"})
        assert it.problems == []


async def test_a_store_that_forgot_is_told_before_the_next_heartbeat() -> None:
    async with running(heartbeat_s=3600) as it:
        it.registrar.update([member("a"), member("b")])
        await it.store.until(lambda: len(it.store.keys) == 2)
        it.store.restart()
        await it.store.until(lambda: len(it.store.keys) == 2)


async def test_a_store_that_is_away_is_told_of_once_and_tried_again() -> None:
    async with running(heartbeat_s=0.01) as it:
        it.store.away = True
        it.registrar.update([member("a"), member("b")])
        await it.store.until(lambda: it.problems)
        it.store.away = False
        await it.store.until(lambda: len(it.store.keys) == 2)
        assert it.problems == ["not registered: the store is away; trying again", "registered again"]


async def test_what_counts_on_a_server_that_left_is_asked_until_nothing_does() -> None:
    async with running() as it:
        answers: list[int | None] = []
        it.registrar.on_change = lambda: answers.append(it.registrar.in_use("a.1"))
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.keys)
        it.store.uses = {"a.1": 2, "other": 1}
        it.registrar.update([])
        assert it.registrar.in_use("a.1") == 1, "nobody can say yet that nothing does"
        await it.store.until(lambda: answers[-1] == 2)
        assert it.store.log[-1] == "drop a.1/generation"
        it.store.uses = {}
        await it.store.until(lambda: answers[-1] == 0)
        assert it.registrar.in_use("a.1") == 0
        assert it.registrar.in_use("unheard of") is None


async def test_who_may_be_routed_to_is_held_until_it_is_out() -> None:
    async with running() as it:
        told: list[tuple[frozenset[str], dict[str, int]]] = []
        it.registrar.on_change = lambda: told.append((it.registrar.held, it.registrar.uses))
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.keys)
        assert told == [(frozenset({"a.1"}), {})]
        it.store.uses = {"a.1": 1}
        it.store.away = True
        it.registrar.update([])
        await it.store.until(lambda: it.problems)
        assert it.registrar.held == {"a.1"}
        it.store.away = False
        await it.store.until(lambda: it.registrar.uses == {"a.1": 1})
        it.store.uses = {}
        await it.store.until(lambda: told[-1] == (frozenset(), {}))


async def test_who_cannot_be_taken_out_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdisagg.registry.registrar.LEAVE_TIMEOUT_S", 0.1)
    async with running() as it:
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.keys)
        it.store.away = True
        it.registrar.update([])
        await it.store.until(lambda: not it.registrar.held)
        assert it.registrar.in_use("a.1") is None
        it.store.away = False
        await it.store.until(lambda: not it.store.keys)


async def test_a_store_that_does_not_know_leaves_it_to_the_server() -> None:
    async with running() as it:
        it.store.uses = None
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.keys)
        it.registrar.update([])
        await it.store.until(lambda: it.registrar.in_use("a.1") is None)
        assert it.store.keys == set()


async def test_a_server_that_never_was_registered_need_not_be_waited_for() -> None:
    registrar = Running(60).registrar
    registrar.update([member("a")])
    registrar.update([])
    assert registrar.in_use("a.1") is None


async def test_one_that_leaves_and_is_back_at_once_is_registered() -> None:
    async with running() as it:
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.keys)
        it.registrar.update([])
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.num_puts == 2)
        assert it.store.log == ["put a.1/generation", "drop a.1/generation", "put a.1/generation"]
        assert it.registrar.in_use("a.1") is None


async def test_another_role_is_another_registration_after_the_first_has_gone() -> None:
    async with running() as it:
        it.registrar.update([member("a")])
        await it.store.until(lambda: it.store.keys)
        it.registrar.update([member("a", role="context")])
        await it.store.until(lambda: it.store.keys == {"a.1/context"})
        assert it.store.log == ["put a.1/generation", "drop a.1/generation", "put a.1/context"]


async def test_who_is_not_for_others_is_not_registered() -> None:
    store = FakeStore()
    registrar = Registrar(
        store,
        lambda m: {m.identity: m.url},
        heartbeat_s=60,
        inactive_s=60,
        is_for_others=lambda m: m.name != "a",
    )
    registrar.update([member("a"), member("b")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(registrar.run)
        await store.until(lambda: store.keys)
        assert store.keys == {"b.1"}
        tasks.cancel_scope.cancel()
