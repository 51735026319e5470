"""Opens what the proxy needs to know servers that others look after: the store inside it, etcd, or the older keys."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

from trtdisagg.config.uri import parse_uri
from trtdisagg.errors import ConfigError, RegistryError, StartupError
from trtdisagg.protocol.proxy_spec import MetadataSpec, ProxySpec, RegistrySpec
from trtdisagg.proxy.http.pages import Pages
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.members.probe import Prober
from trtdisagg.proxy.members.registry_source import Pace, RegistrySource
from trtdisagg.proxy.members.store_door import Held, StoreDoor
from trtdisagg.proxy.members.store_follower import StoreFollower, held_by_others
from trtdisagg.proxy.workers.workers import Workers
from trtdisagg.registry.etcd import follow, list_entries
from trtdisagg.registry.etcd_gateway import Gateway
from trtdisagg.registry.members import Roster
from trtdisagg.registry.open import open_gateway
from trtdisagg.registry.records import METADATA_PREFIX, listed_in, metadata_listed_in, prefix_of

TOLD_S = 2.0
"""For the agent to tell who the other processes are."""
RETRY_S = 1.0
"""Between two tries while etcd is away."""


@contextlib.asynccontextmanager
async def open_registry(
    spec: ProxySpec, roster: Roster, pool: Pool, workers: Workers, *, secret: str | None
) -> AsyncIterator[Pages]:
    """Feed the roster while the block runs.

    :param workers: the other processes of this proxy.
    :returns: the pages of the store inside the proxy.
    :raises StartupError: a certificate or password cannot be used.
    """
    prober = Prober(pool)
    pages: Pages = {}
    async with contextlib.AsyncExitStack() as stack:
        running: list[asyncio.Task[None]] = []
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(lambda: [task.cancel() for task in running])
        if spec.registry is not None:
            read = functools.partial(listed_in, cluster_name=spec.registry.cluster_name)
            source = RegistrySource(roster, prober, read)
            running.append(tasks.create_task(source.run()))
            if parse_uri(spec.registry.uri).kind == "proxy" and spec.worker == 0:
                door = StoreDoor(
                    spec.registry, cluster=spec.cluster, secret=secret, on_entries=source.take, in_use=workers.in_use
                )
                workers.answer(door.fellow_pages)
                running += [tasks.create_task(door.run()), tasks.create_task(_open(door, workers))]
                pages = door.pages
            elif parse_uri(spec.registry.uri).kind == "proxy":
                prefix = prefix_of(spec.registry.cluster_name)
                follower = StoreFollower(workers.fellows, source, prefix=prefix, secret=secret)
                workers.answer(follower.fellow_pages)
                running.append(tasks.create_task(follower.run()))
                pages = follower.client_pages
            else:
                gateway = await _open_gateway(spec.registry, stack)
                running.append(tasks.create_task(_follow(gateway, spec.registry, source)))
        if spec.metadata is not None:
            pace = Pace(timeout_s=spec.metadata.health_check_timeout_s)
            older = RegistrySource(roster, prober, metadata_listed_in, name="metadata", pace=pace)
            gateway = await _open_gateway(RegistrySpec(uri=spec.metadata.uri), stack)
            running += [tasks.create_task(older.run()), tasks.create_task(_poll(gateway, spec.metadata, older))]
        yield pages


async def _open(door: StoreDoor, workers: Workers) -> None:
    """With what a store before this one held, as far as other processes know it."""
    if workers.are_several:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_S):
                await workers.fellows.until_told()
        door.open(await held_by_others(workers.fellows))
    else:
        door.open(Held())


async def _open_gateway(spec: RegistrySpec, stack: contextlib.AsyncExitStack) -> Gateway:
    try:
        gateway = open_gateway(spec)
    except ConfigError as e:
        raise StartupError(e.message) from None
    stack.push_async_callback(gateway.close)
    return gateway


async def _follow(gateway: Gateway, spec: RegistrySpec, source: RegistrySource) -> None:
    while True:
        try:
            await follow(gateway, prefix_of(spec.cluster_name), source.take, look_s=spec.inactive_s / 3)
        except RegistryError as e:
            source.store_away(e.message)
        await asyncio.sleep(RETRY_S)


async def _poll(gateway: Gateway, spec: MetadataSpec, source: RegistrySource) -> None:
    while True:
        try:
            source.take((await list_entries(gateway, METADATA_PREFIX))[1])
        except RegistryError as e:
            source.store_away(e.message)
        await asyncio.sleep(spec.refresh_interval_s)
