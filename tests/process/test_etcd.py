"""The registry on a real etcd: what holds when leases end, etcd dies, freezes, forgets or asks who we are."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import anyio
import pytest
from helpers.etcd import Etcd, etcd, needs_etcd
from helpers.waiting import DEADLINE_S

from trtdisagg.errors import ConfigError, RegistryError
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import RegistrySpec
from trtdisagg.registry import etcd_gateway
from trtdisagg.registry.etcd import EtcdStore, encode, follow
from trtdisagg.registry.etcd_gateway import Access, EtcdError, Gateway
from trtdisagg.registry.open import open_gateway
from trtdisagg.registry.records import entries_of
from trtdisagg.registry.registrar import Registrar

pytestmark = [*needs_etcd, pytest.mark.anyio]
PREFIX = "/trtllm-disagg/test/"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """For tests that do it no harm; each has a prefix of its own."""
    with etcd(tmp_path_factory.mktemp("etcd")) as it:
        yield it


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Etcd]:
    with etcd(tmp_path) as it:
        yield it


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks may be slow, and etcd answers when what it was told is on one."""
    monkeypatch.setattr(etcd_gateway, "TIMEOUT_S", DEADLINE_S)


@contextlib.asynccontextmanager
async def store_on(gateway: Gateway) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(gateway)
    try:
        yield store
    finally:
        await store.close()


class Seen:
    """What a follower was told."""

    def __init__(self) -> None:
        self.sets: list[Mapping[str, str]] = []
        self.errors: list[str] = []
        self._changed = anyio.Event()

    async def follow(self, one: Etcd, prefix: str = PREFIX, look_s: float = 0.2) -> None:
        """As the proxy does: from the beginning after each failure."""
        gateway = one.gateway()
        try:
            while True:
                try:
                    await follow(gateway, prefix, self._take, look_s=look_s)
                except RegistryError as e:
                    self.errors.append(e.message)
                    self._changed.set()
                await anyio.sleep(0.1)
        finally:
            with anyio.CancelScope(shield=True):
                await gateway.close()

    def _take(self, entries: Mapping[str, str]) -> None:
        self.sets.append(entries)
        self._changed.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.move_on_after(DEADLINE_S) as waiting:
            while not is_so():
                self._changed = anyio.Event()
                await self._changed.wait()
        assert not waiting.cancelled_caught, f"never came true: {self.sets}, {self.errors}"

    async def until_names(self, *names: str) -> None:
        await self.until(lambda: bool(self.sets) and set(self.sets[-1]) == set(names))


@contextlib.asynccontextmanager
async def following(one: Etcd, **options: object) -> AsyncIterator[Seen]:
    seen = Seen()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(functools.partial(seen.follow, one, **options))
        yield seen
        tasks.cancel_scope.cancel()


async def test_keys_come_and_go_with_their_lease(shared: Etcd) -> None:
    prefix = "/come-and-go/"
    async with store_on(shared.gateway()) as store, following(shared, prefix=prefix, look_s=60.0) as seen:
        await seen.until_names()
        lease = await store.put({f"{prefix}a": "1", f"{prefix}b": "ü"}, 10)
        other = await store.put({f"{prefix}c": "3", "/elsewhere": "x"}, 10)
        await seen.until_names(f"{prefix}a", f"{prefix}b", f"{prefix}c")
        assert seen.sets[-1][f"{prefix}b"] == "ü"
        assert await store.renew(lease)
        await store.drop(lease)
        await seen.until_names(f"{prefix}c")
        assert not await store.renew(lease)
        await store.drop(lease)
        await store.drop(other)
        await seen.until_names()


async def test_a_lease_that_nobody_renews_ends(shared: Etcd) -> None:
    prefix = "/ends/"
    async with store_on(shared.gateway()) as store, following(shared, prefix=prefix, look_s=60.0) as seen:
        await store.put({f"{prefix}a": "1"}, 2)
        await seen.until(lambda: {f"{prefix}a": "1"} in seen.sets)
        await seen.until_names()


async def test_a_compacted_history_does_no_harm(shared: Etcd) -> None:
    prefix = "/compacted/"
    async with store_on(shared.gateway()) as store:
        for i in range(3):
            lease = await store.put({f"{prefix}a": str(i)}, 60)
        revision = shared.ask("/v3/kv/range", {"key": encode(f"{prefix}a")})["header"]["revision"]
        shared.ask("/v3/kv/compaction", {"revision": revision})
        async with following(shared, prefix=prefix, look_s=60.0) as seen:
            await seen.until_names(f"{prefix}a")
            await store.drop(lease)
            await seen.until_names()
            assert seen.errors == []


async def test_a_crash_takes_nobody_out(alone: Etcd) -> None:
    async with store_on(alone.gateway()) as store, following(alone) as seen:
        lease = await store.put({f"{PREFIX}a": "1"}, 10)
        await seen.until_names(f"{PREFIX}a")
        alone.kill()
        await seen.until(lambda: len(seen.errors) > 0)
        with pytest.raises(RegistryError, match="etcd at"):
            await store.renew(lease)
        await anyio.to_thread.run_sync(alone.start)
        assert await store.renew(lease), "leases begin anew with etcd"
        await store.put({f"{PREFIX}b": "2"}, 60)
        await seen.until_names(f"{PREFIX}a", f"{PREFIX}b")
        assert all(f"{PREFIX}a" in entries for entries in seen.sets[1:]), "it was never told to be gone"


async def test_a_frozen_etcd_is_noticed_by_deadlines(alone: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    async with store_on(alone.gateway()) as store:
        lease = await store.put({f"{PREFIX}a": "1"}, 300)
        monkeypatch.setattr(etcd_gateway, "TIMEOUT_S", 0.5)  # of connections from here on
        async with store_on(alone.gateway()) as hasty, following(alone) as seen:
            await seen.until_names(f"{PREFIX}a")
            num_errors = len(seen.errors)
            alone.freeze()
            await seen.until(lambda: len(seen.errors) > num_errors)
            assert "no answer within 0.5 s" in seen.errors[-1]
            with pytest.raises(RegistryError, match="no answer"):
                await hasty.renew(lease)
            alone.thaw()
            await store.put({f"{PREFIX}b": "2"}, 300)
            await seen.until_names(f"{PREFIX}a", f"{PREFIX}b")


async def test_a_lost_lease_is_made_again(alone: Etcd) -> None:
    member = Member(name="generation-0", role="generation", model="m", url="h:1", incarnation="i")
    entries_for = functools.partial(entries_of, cluster_name="test")
    registrar = Registrar(EtcdStore(alone.gateway()), entries_for, heartbeat_s=0.1, inactive_s=30)
    names = list(entries_of(member, "test"))
    async with following(alone, look_s=60.0) as seen, anyio.create_task_group() as tasks:
        tasks.start_soon(registrar.run)
        registrar.update([member])
        await seen.until_names(*names)
        (lease,) = alone.ask("/v3/lease/leases", {})["leases"]
        num_sets = len(seen.sets)
        alone.ask("/v3/lease/revoke", {"ID": lease["ID"]})
        await seen.until(lambda: {} in seen.sets[num_sets:])
        await seen.until_names(*names)
        tasks.cancel_scope.cancel()
    assert "leases" not in alone.ask("/v3/lease/leases", {}), "the end takes everything out"


async def test_one_of_several_members_is_enough(shared: Etcd) -> None:
    gateway = Gateway(["http://127.0.0.1:1", shared.uri.replace("etcd", "http")])
    async with store_on(gateway) as store:
        with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1"):
            await store.put({"/several": "1"}, 5)
        await store.drop(await store.put({"/several": "1"}, 5))


async def test_another_server_is_not_taken_for_etcd(shared: Etcd) -> None:
    gateway = Gateway([shared.uri.replace("etcd", "http") + "/metrics?"])
    async with store_on(gateway) as store:
        with pytest.raises(RegistryError, match=r"does not speak etcd's JSON|refuses"):
            await store.put({"/a": "1"}, 5)


def ask_for_a_user(one: Etcd) -> None:
    """As an administrator does."""
    one.ask("/v3/auth/role/add", {"name": "servers"})
    everything = {"key": encode("/"), "range_end": encode("0"), "permType": "READWRITE"}
    one.ask("/v3/auth/role/grant", {"name": "servers", "perm": everything})
    for user, password, role in (("root", "r", "root"), ("agent", "sesame", "servers")):
        one.ask("/v3/auth/user/add", {"name": user, "password": password})
        one.ask("/v3/auth/user/grant", {"user": user, "role": role})
    one.ask("/v3/auth/enable", {})


async def test_user_and_password(alone: Etcd, tmp_path: Path) -> None:
    ask_for_a_user(alone)
    url = alone.uri.replace("etcd", "http")
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for file, password in ((right, "sesame\n"), (wrong, "open")):
        file.write_text(password)
        file.chmod(0o600)
    async with store_on(alone.gateway()) as store:
        with pytest.raises(EtcdError, match="user name is empty"):
            await store.put({"/a": "1"}, 30)
    async with store_on(Gateway([url], Access(user="agent", password_file=str(wrong)))) as store:
        with pytest.raises(EtcdError, match="authentication failed"):
            await store.put({"/a": "1"}, 30)
    gateway = Gateway([url], Access(user="agent", password_file=str(right)))
    async with store_on(gateway) as store:
        lease = await store.put({"/a": "1"}, 30)
        alone.kill()
        await anyio.to_thread.run_sync(alone.start)
        assert await store.renew(lease), "a token that etcd has forgotten is fetched anew"
        sets: list[Mapping[str, str]] = []
        alone.kill()
        await anyio.to_thread.run_sync(alone.start)
        with anyio.move_on_after(DEADLINE_S) as watching:

            def take(entries: Mapping[str, str]) -> None:
                sets.append(entries)
                if entries == {"/b": "2"}:
                    watching.cancel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(functools.partial(follow, gateway, "/b", take, look_s=60))
                while not sets:
                    await anyio.sleep(0.01)
                tasks.start_soon(store.put, {"/b": "2"}, 30)
        assert sets[-1] == {"/b": "2"}


async def test_tls(tmp_path: Path) -> None:
    with etcd(tmp_path, tls=True) as one:
        spec = RegistrySpec(uri=one.uri, ca_file=str(one.ca_file))
        async with store_on(open_gateway(spec)) as store:
            lease = await store.put({"/tls": "1"}, 30)
            assert await store.renew(lease)
        async with store_on(open_gateway(RegistrySpec(uri=one.uri))) as store:
            with pytest.raises(RegistryError, match="certificate verify failed"):
                await store.put({"/tls": "1"}, 30)
    with pytest.raises(ConfigError, match="etcd's certificates cannot be used"):
        open_gateway(RegistrySpec(uri=one.uri, ca_file=str(tmp_path / "none")))


def test_a_password_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("sesame")
    os.chmod(file, 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Gateway(["http://h:1"], Access(user="u", password_file=str(file)))
    with pytest.raises(ConfigError, match="cannot be read"):
        Gateway(["http://h:1"], Access(user="u", password_file=str(tmp_path / "none")))
