"""A real proxy that finds its servers in a registry: in the store inside it, in etcd, or by the older keys."""

from __future__ import annotations

import contextlib
import functools
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.etcd import Etcd, etcd, with_etcd
from helpers.ports import free_port
from helpers.serving import DEADLINE_S, MODEL, PROXY, Child, FakeEngine

from trtdisagg.protocol.proxy_spec import MetadataSpec, ProxySpec, RegistrySpec
from trtdisagg.registry.etcd import EtcdStore
from trtdisagg.registry.open import open_metadata_registrar, open_registrar, open_store
from trtdisagg.registry.records import entries_of
from trtdisagg.registry.registrar import Registrar

pytestmark = pytest.mark.anyio


def get(url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=DEADLINE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.load(e)


class House:
    """A proxy and engines that only a registry brings together."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.problems: list[str] = []
        self._stack = stack

    def proxy(self, **fields: Any) -> Child:
        spec = ProxySpec(cluster="test", port=self.port, **fields)
        child = Child(PROXY, spec, self.directory / "proxy.json")
        self._stack.callback(child.close)
        child.wait_ready()
        return child

    def engine(self, name: str, *flags: str) -> FakeEngine:
        engine = FakeEngine(self.directory, name, flags)
        self._stack.callback(engine.close)
        engine.wait_ready()
        return engine

    @contextlib.asynccontextmanager
    async def registering(self, registrar: Registrar) -> AsyncIterator[Registrar]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(registrar.run)
            yield registrar
            tasks.cancel_scope.cancel()

    async def complete(self, prompt: str = "p") -> int:
        ask = functools.partial(get, f"{self.url}/v1/completions", {"model": MODEL, "prompt": prompt, "max_tokens": 3})
        return (await anyio.to_thread.run_sync(ask))[0]

    async def info(self) -> dict[str, int]:
        """How many servers of each role the proxy knows."""
        _, info = await anyio.to_thread.run_sync(get, f"{self.url}/cluster_info")
        return {role.removesuffix("_servers"): len(found) for role, found in info["current_workers"].items()}

    async def until(self, context: int, generation: int) -> None:
        """Poll what another process finds out for itself."""
        deadline = time.monotonic() + DEADLINE_S
        info: dict[str, int] = {}
        while info != {"context": context, "generation": generation}:
            assert time.monotonic() < deadline, f"{info}: {(self.directory / 'proxy.log').read_text()}"
            await anyio.sleep(0.02)
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                info = await self.info()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        yield House(tmp_path, stack)


@pytest.fixture
def one_etcd(tmp_path: Path) -> Iterator[Etcd]:
    with etcd(tmp_path) as it:
        yield it


# --- the store inside the proxy -------------------------------------------------------------------------------------


def inside(house: House, **fields: Any) -> RegistrySpec:
    defaults: dict[str, Any] = {"heartbeat_s": 0.5, "inactive_s": 30.0}
    return RegistrySpec(uri=house.url, cluster_name="prod", **{**defaults, **fields})


async def test_servers_come_and_go(house: House) -> None:
    spec = inside(house, minimal_instances={"context": 1, "generation": 2})
    house.proxy(registry=spec)
    engines = [house.engine(name) for name in ("context-0", "generation-0", "generation-1")]
    async with house.registering(open_registrar(spec)) as registrar:
        registrar.update([e.member for e in engines[:2]])
        await house.until(1, 1)
        assert get(f"{house.url}/health")[0] == 503, "fewer than the minimum"
        registrar.update([e.member for e in engines])
        await house.until(1, 2)
        assert get(f"{house.url}/health")[0] == 200
        assert [await house.complete(str(i)) for i in range(4)] == [200] * 4
        assert [e.state()["generation"] for e in engines[1:]] == [2, 2]
        registrar.update([e.member for e in engines[:2]])
        await house.until(1, 1)
    await house.until(0, 0)
    log = (house.directory / "proxy.log").read_text()
    assert all(f"Server {e.url} is removed" in log for e in engines)


async def test_who_leaves_hears_when_nothing_counts_on_it(house: House) -> None:
    spec = inside(house)
    house.proxy(registry=spec)
    engine = house.engine("both-0", "--hold-generation")
    async with house.registering(open_registrar(spec)) as registrar:
        registrar.update([engine.member])
        await house.until(1, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.complete, "one")
            tasks.start_soon(house.complete, "two")
            await engine.wait("running", at_least=2)
            registrar.update([])
            await house.until(0, 0)
            await until_in_use(registrar, engine, 2)
            engine.ask("go", {})
        await until_in_use(registrar, engine, 0)


async def until_in_use(registrar: Registrar, engine: FakeEngine, num: int) -> None:
    with anyio.fail_after(DEADLINE_S):
        while registrar.in_use(engine.member.identity) != num:
            await anyio.sleep(0.01)


async def test_a_proxy_that_starts_again_knows_all_before_the_next_heartbeat(house: House) -> None:
    spec = inside(house, heartbeat_s=300.0, inactive_s=600.0)
    proxy = house.proxy(registry=spec)
    engines = [house.engine(name) for name in ("context-0", "generation-0")]
    async with house.registering(open_registrar(spec)) as registrar:
        registrar.update([e.member for e in engines])
        await house.until(1, 1)
        proxy.process.kill()
        proxy.process.wait()
        await anyio.to_thread.run_sync(functools.partial(house.proxy, registry=spec))
        await house.until(1, 1)
        assert await house.complete() == 200


async def test_an_agent_that_dies_is_missed_when_its_leases_end(house: House) -> None:
    spec = inside(house)
    house.proxy(registry=spec)
    engine = house.engine("both-0")
    store = open_store(spec)
    await store.put(entries_of(engine.member, "prod"), 1.0)
    await store.close()
    await anyio.to_thread.run_sync(log_until, house, f"Server {engine.url} is removed")
    await house.until(0, 0)


async def test_a_worker_of_tensorrt_llm_registers_itself(house: House, tmp_path: Path) -> None:
    """With its client's own requests; nothing of ours is known of it."""
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    house.proxy(registry=inside(house), secret_file=str(secret))
    for name, role in (("context-0", 0), ("generation-0", 1)):
        engine = house.engine(name, "--foreign")
        host, _, port = engine.url.rpartition(":")
        worker = {"worker_id": name, "host": host, "port": int(port), "role": role}
        item = {
            "key": f"/trtllm-disagg/prod/workers/{name}",
            "value": json.dumps(worker),
            "expire_time": -1,
            "ttl": 60,
            "overwrite_if_exists": False,
        }
        request = urllib.request.Request(f"{house.url}/set", json.dumps(item).encode())
        assert get_status(request) == 401
        request.add_header("Authorization", "Bearer sesame")
        assert get_status(request) == 200
    await house.until(1, 1)
    assert await house.complete() == 200


def get_status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        with e:
            return e.code


# --- etcd -----------------------------------------------------------------------------------------------------------


def in_etcd(one: Etcd, **fields: Any) -> RegistrySpec:
    return RegistrySpec(uri=one.uri, cluster_name="prod", **{"heartbeat_s": 0.5, "inactive_s": 30.0, **fields})


@with_etcd
async def test_etcd_away_frozen_and_back(house: House, one_etcd: Etcd) -> None:
    spec = in_etcd(one_etcd)
    house.proxy(registry=spec)
    engines = [house.engine(name) for name in ("context-0", "generation-0", "generation-1")]
    async with house.registering(open_registrar(spec, on_problem=house.problems.append)) as registrar:
        registrar.update([e.member for e in engines])
        await house.until(1, 2)
        one_etcd.kill()
        assert [await house.complete(f"away {i}") for i in range(4)] == [200] * 4
        engines[2].process.kill()
        await house.until(1, 1)
        assert await house.complete("one less") == 200
        registrar.update([e.member for e in engines[:2]])
        await anyio.to_thread.run_sync(one_etcd.start)
        await anyio.to_thread.run_sync(log_until, house, "the registry is back")
        await house.until(1, 1)
        assert await house.complete("back") == 200
        one_etcd.freeze()
        await anyio.to_thread.run_sync(log_until, house, "no answer within")
        assert [await house.complete(f"frozen {i}") for i in range(2)] == [200] * 2
        one_etcd.thaw()
        await anyio.to_thread.run_sync(log_until, house, "the registry is back", 2)
        assert house.problems[:2] == [house.problems[0], "registered again"]
    await house.until(0, 0)


def log_until(house: House, words: str, times: int = 1) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (house.directory / "proxy.log").read_text().count(words) < times:
        assert time.monotonic() < deadline, f"{words}: {(house.directory / 'proxy.log').read_text()}"
        time.sleep(0.05)


@with_etcd
async def test_an_upstream_worker_in_etcd_is_looked_after_by_health(house: House, one_etcd: Etcd) -> None:
    spec = in_etcd(one_etcd)
    house.proxy(registry=spec)
    engine = house.engine("both-0", "--foreign")
    host, _, port = engine.url.rpartition(":")
    store = EtcdStore(one_etcd.gateway())
    worker = json.dumps({"worker_id": "w", "host": host, "port": int(port), "role": 1})
    lease = await store.put({"/trtllm-disagg/prod/workers/w": worker}, 60)
    await house.until(0, 1)
    assert await house.complete() == 200
    engine.process.kill()
    await house.until(0, 0)
    await store.drop(lease)
    await store.close()


@with_etcd
async def test_the_older_keys(house: House, one_etcd: Etcd) -> None:
    spec = MetadataSpec(uri=one_etcd.uri, refresh_interval_s=0.2, health_check_timeout_s=10)
    house.proxy(metadata=spec)
    context, generation = house.engine("context-0"), house.engine("generation-0")
    async with house.registering(open_metadata_registrar(spec)) as registrar:
        registrar.update([context.member, generation.member])
        await house.until(1, 1)
        assert await house.complete() == 200
        generation.process.kill()
        await house.until(1, 0)
        registrar.update([context.member])
        await anyio.to_thread.run_sync(log_until, house, f"Server {generation.url} is removed")
    await house.until(0, 0)
