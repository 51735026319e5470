"""The servers that a cluster file asks for: how many, which role, at which address, and whether they are ours. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile, ModelEntry, ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import Role

LOOPBACK = "127.0.0.1"


class Slot(msgspec.Struct, kw_only=True, frozen=True):
    """One server of the file, before it is decided where and how it runs."""

    name: str
    role: Role
    path: str
    """Of its section in the file, for messages."""
    section: ServerSection
    entry: ModelEntry | None
    """None: the file names no model, so the server runs already."""
    host: str = LOOPBACK
    port: int = 0
    """0: any that is free."""

    @property
    def url(self) -> str:
        return join_address(self.host, self.port)


def slots(cluster: ClusterFile) -> Iterator[Slot]:
    """All servers of a file; one whose url stands in both sections is one server of role `both`.

    :raises ConfigError: when the two sections of such a server differ.
    """
    for path, prefix, entry, context, generation in _entries(cluster):
        both = [url for url in context.urls if url in generation.urls]
        if both and _settings(context) != _settings(generation):
            raise ConfigError(
                f"{path}generation_servers: {both[0]} stands in both sections, so their keys must have equal values"
            )
        sections: list[tuple[Role, ServerSection]] = [("context", context), ("generation", generation)]
        one = Slot(name=f"{prefix}both", role="both", path=f"{path}context_servers", section=context, entry=entry)
        yield from _numbered(one, both)
        for role, section in sections:
            one = Slot(name=prefix + role, role=role, path=f"{path}{role}_servers", section=section, entry=entry)
            urls = section.urls or [f"{LOOPBACK}:0"] * section.num_instances
            yield from _numbered(one, [url for url in urls if url not in both])


def _numbered(slot: Slot, urls: Sequence[str]) -> Iterator[Slot]:
    """One slot for each url, with numbers behind the name."""
    for i, url in enumerate(urls):
        host, port = split_address(url)
        yield replace(slot, name=f"{slot.name}-{i}", host=host, port=port)


def _entries(cluster: ClusterFile) -> Iterator[tuple[str, str, ModelEntry | None, ServerSection, ServerSection]]:
    """For each model: path in the file, prefix of names, the entry, its two sections."""
    none = ServerSection(num_instances=0)
    if not cluster.models:
        entry = ModelEntry(name=cluster.served_model_name or "", model=cluster.model) if cluster.model else None
        yield "", "", entry, cluster.context_servers or none, cluster.generation_servers or none
    for i, entry in enumerate(cluster.models):
        prefix = f"{entry.name}." if len(cluster.models) > 1 else ""
        yield f"models[{i}].", prefix, entry, entry.context_servers or none, entry.generation_servers or none


def _settings(section: ServerSection) -> ServerSection:
    return replace(section, urls=[], num_instances=1)


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[::1]:port` -> host, port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
