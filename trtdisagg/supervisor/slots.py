"""The servers that a cluster file asks for: how many, which role, at which address, and whether they are ours. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.net import join_address, split_address
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
    """None, or one without a `model`: the server runs already."""
    host: str = LOOPBACK
    port: int = 0
    """0: any that is free."""

    @property
    def url(self) -> str:
        return join_address(self.host, self.port)

    @property
    def model(self) -> str | None:
        """As the file names it; None: the server runs already."""
        return self.entry.model if self.entry else None


def slots(cluster: ClusterFile, numbers: Mapping[str, Sequence[int]] | None = None) -> Iterator[Slot]:
    """All servers of a file; one whose url stands in both sections is one server of role `both`.

    :param numbers: those of the servers there shall be, by group (`ROLE`, or with several models `MODEL.ROLE`), where
        they are not those that the file asks for; a group that is not in it has none. A number that no url is listed
        for gets any free port on the host of the first.
    :raises ConfigError: when the two sections of a server differ, or there is no such group.
    """
    groups = list(_groups(cluster))
    if unknown := [name for name in numbers or {} if name not in {group.name for group, _ in groups}]:
        known = ", ".join(group.name for group, _ in groups)
        raise ConfigError(f"{unknown[0]}: the cluster file has no section for such servers; it has: {known}")
    for group, urls in groups:
        yield from _numbered(group, urls, range(len(urls)) if numbers is None else numbers.get(group.name, ()))


def _groups(cluster: ClusterFile) -> Iterator[tuple[Slot, list[str]]]:
    """Servers that differ in number and address alone: as a slot without a number, and their addresses in the file."""
    for path, prefix, entry, context, generation in _entries(cluster):
        both: list[str] = []
        if context and generation and (both := [url for url in context.urls if url in generation.urls]):
            if section_settings(context) != section_settings(generation):
                raise ConfigError(
                    f"{path}generation_servers: {both[0]} stands in both sections, so their keys must have equal values"
                )
            one = Slot(name=f"{prefix}both", role="both", path=f"{path}context_servers", section=context, entry=entry)
            yield one, both
        sections: list[tuple[Role, ServerSection | None]] = [("context", context), ("generation", generation)]
        for role, section in sections:
            if section is not None:
                urls = section.urls or [f"{LOOPBACK}:0"] * section.num_instances
                one = Slot(name=prefix + role, role=role, path=f"{path}{role}_servers", section=section, entry=entry)
                yield one, [url for url in urls if url not in both]


def _numbered(group: Slot, urls: Sequence[str], numbers: Sequence[int]) -> Iterator[Slot]:
    """One slot for each number, which stands behind the name."""
    first_host, _ = split_address([*urls, *group.section.urls, f"{LOOPBACK}:0"][0])
    for i in numbers:
        host, port = split_address(urls[i]) if i < len(urls) else (first_host, 0)
        yield replace(group, name=f"{group.name}-{i}", host=host, port=port)


def _entries(
    cluster: ClusterFile,
) -> Iterator[tuple[str, str, ModelEntry | None, ServerSection | None, ServerSection | None]]:
    """For each model: path in the file, prefix of names, the entry, its two sections."""
    if not cluster.models:
        entry = ModelEntry(name=cluster.served_model_name or "", model=cluster.model) if cluster.model else None
        yield "", "", entry, cluster.context_servers, cluster.generation_servers
    for i, entry in enumerate(cluster.models):
        prefix = f"{entry.name}." if len(cluster.models) > 1 else ""
        yield f"models[{i}].", prefix, entry, entry.context_servers, entry.generation_servers


def section_settings(section: ServerSection) -> ServerSection:
    """What a section says about each of its servers, whatever their number and addresses."""
    return replace(section, urls=[], num_instances=1)


def bind_host(host: str) -> str:
    """`localhost` may mean two addresses, on which a free port need not be the same."""
    return LOOPBACK if host == "localhost" else host
