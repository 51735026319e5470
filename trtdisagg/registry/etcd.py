"""etcd as a store, and how the proxy follows what is in it.

A list is the truth, a watch makes it quick: the list is taken again every third of a lease's time, which also notices
an etcd that is frozen and a watch that was lost without a word. What a watch tells is older or newer than the last
list, as the revisions say. After any failure one begins again with a list, so nothing is to be resumed and a compacted
history does no harm.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from trtdisagg.errors import RegistryError
from trtdisagg.registry.etcd_gateway import NOT_FOUND, EtcdError, Gateway

OnEntries = Callable[[Mapping[str, str]], None]


class EtcdStore:
    """
    :param gateway: closed with the store.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def put(self, entries: Mapping[str, str], ttl_s: float) -> str:
        lease = str((await self._gateway.call("/v3/lease/grant", {"TTL": str(math.ceil(ttl_s))}))["ID"])
        for key, value in entries.items():
            body = {"key": encode(key), "value": encode(value), "lease": lease}
            await self._gateway.call("/v3/kv/put", body)
        return lease

    async def renew(self, lease: str) -> bool:
        # Of a lease that is gone there is an answer, too, only without a time.
        return "TTL" in await self._gateway.call("/v3/lease/keepalive", {"ID": lease})

    async def drop(self, lease: str) -> None:
        try:
            await self._gateway.call("/v3/lease/revoke", {"ID": lease})
        except EtcdError as e:
            if e.grpc_code != NOT_FOUND:
                raise

    async def in_use(self) -> Mapping[str, int] | None:
        return None

    async def until_restarted(self) -> None:
        await anyio.sleep_forever()  # etcd keeps its leases

    async def close(self) -> None:
        await self._gateway.close()


async def list_entries(gateway: Gateway, prefix: str) -> tuple[int, dict[str, str]]:
    """
    :returns: the revision, and everything under the prefix.
    """
    answer = await gateway.call("/v3/kv/range", _range(prefix))
    entries = {decode(kv["key"]): decode(kv.get("value", "")) for kv in answer.get("kvs", [])}
    return int(answer["header"]["revision"]), entries


async def follow(gateway: Gateway, prefix: str, on_entries: OnEntries, *, look_s: float) -> None:
    """Tell everything under a prefix, at first and whenever it changes.

    :param look_s: between two lists.
    :raises RegistryError: when etcd is away, frozen or refuses; this never returns otherwise.
    """
    try:
        async with anyio.create_task_group() as tasks:
            view = _View(on_entries)
            view.replace(*await list_entries(gateway, prefix))
            tasks.start_soon(_watch, gateway, prefix, view)
            while True:
                await anyio.sleep(look_s)
                view.replace(*await list_entries(gateway, prefix))
    except BaseExceptionGroup as group:
        failed, rest = group.split(RegistryError)
        if rest is not None or failed is None:
            raise
        raise _first(failed) from None


async def _watch(gateway: Gateway, prefix: str, view: _View) -> None:
    create = {"create_request": {**_range(prefix), "start_revision": str(view.revision + 1)}}
    async with gateway.stream("/v3/watch", create) as results:
        async for result in results:
            if result.get("canceled"):
                raise RegistryError(f"etcd ended the watch: {result.get('cancel_reason', 'no reason')}")
            view.apply(result.get("events", []))


class _View:
    """What is known of a prefix, as of a revision."""

    def __init__(self, on_entries: OnEntries) -> None:
        self._on_entries = on_entries
        self._entries: dict[str, str] | None = None
        self.revision = 0

    def replace(self, revision: int, entries: dict[str, str]) -> None:
        if revision >= self.revision:
            self.revision = revision
            self._tell(entries)

    def apply(self, events: list[dict[str, Any]]) -> None:
        """Events of one revision come together, but may also come after a list that has them already."""
        entries = dict(self._entries or {})
        for event in events:
            key, revision = decode(event["kv"]["key"]), int(event["kv"]["mod_revision"])
            if revision < self.revision:
                continue
            self.revision = revision
            if event.get("type") == "DELETE":  # a PUT has no type
                entries.pop(key, None)
            else:
                entries[key] = decode(event["kv"].get("value", ""))
        self._tell(entries)

    def _tell(self, entries: dict[str, str]) -> None:
        if entries != self._entries:
            self._entries = entries
            self._on_entries(entries)


def _first(group: BaseExceptionGroup[RegistryError]) -> RegistryError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _range(prefix: str) -> dict[str, str]:
    """All keys that begin with the prefix: up to the one with its last byte one higher."""
    start = prefix.encode()
    return {"key": encode(prefix), "range_end": base64.b64encode(start[:-1] + bytes([start[-1] + 1])).decode()}


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def decode(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")
