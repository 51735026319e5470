"""How KV moves in a cluster, and where each value of it was said: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.config.environment import INHERITED
from trtdisagg.config.load import Loaded
from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.sections import SECTIONS
from trtdisagg.config.server_keys import CacheTransceiverConfig, ServerSection
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.server_name import parse_name

_KEY = "cache_transceiver_config"


class Setting(msgspec.Struct, frozen=True):
    """The value of one key of one section."""

    value: Any
    origin: str
    """`cluster.yaml:7`, `environment NAME`, `--set ...`, or `default`."""


def transfer_settings(loaded: Loaded) -> dict[str, dict[str, Setting]]:
    """Those of each section whose servers are ours to start, by key; with several models `NAME.context_servers`."""
    found: dict[str, dict[str, Setting]] = {}
    entries: list[tuple[str, str, ClusterFile | ModelEntry]] = [("", "", loaded.cluster)]
    entries += [(f"{entry.name}.", f"models[{i}].", entry) for i, entry in enumerate(loaded.cluster.models)]
    for prefix, path, entry in entries:
        for name in SECTIONS if entry.model else ():
            if (section := getattr(entry, name)) is not None:
                found[prefix + name] = dict(_settings(loaded, path + name, section))
    return found


def _settings(loaded: Loaded, path: str, section: ServerSection) -> Iterator[tuple[str, Setting]]:
    for key, value in msgspec.structs.asdict(section.cache_transceiver_config).items():
        origin = loaded.origins.get(f"{path}.{_KEY}.{key}")
        yield key, Setting("DEFAULT" if key == "backend" and value is None else value, str(origin or "default"))


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """Variables that libraries in the servers read, and we do not."""
    return {name: value for name, value in sorted(env.items()) if name.startswith(INHERITED)}


def transfer_view(loaded: Loaded, plan: Plan, env: Mapping[str, str]) -> RenderableType:
    """A row for each key, a column for each section; nothing where no server is ours.

    :param env: what servers inherit.
    """
    sections = transfer_settings(loaded)
    if not plan.servers or not sections:
        return Group()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("KV transfer", overflow="fold")
    for name in sections:
        table.add_column(name, overflow="fold")
    for key in msgspec.structs.fields(CacheTransceiverConfig):
        cells = [_cell(settings[key.name]) for settings in sections.values()]
        table.add_row(Text(key.name), *cells)
    table.add_row("transports", *(_transports(plan, name) for name in sections))
    return Group(Text(), table, *_inherited_lines(env))


def _cell(setting: Setting) -> Text:
    words = _words(setting.value)
    if setting.origin == "default":
        return Text(words, "dim")
    return Text.assemble(words, (f" ({setting.origin})", "dim"))


def _words(value: Any) -> str:
    """As in the file."""
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _transports(plan: Plan, section: str) -> str:
    """What the backend comes to for the servers of a section."""
    group = section.removesuffix("_servers")
    specs = [server.spec for server in plan.servers if parse_name(server.name).group == group]
    found = dict.fromkeys(", ".join(spec.transfer.transports) for spec in specs if isinstance(spec, EngineSpec))
    return "; ".join(found) or "-"


def _inherited_lines(env: Mapping[str, str]) -> Iterator[Text]:
    if variables := inherited(env):
        words = " ".join(f"{name}={value}" for name, value in variables.items())
        yield Text.assemble(("servers inherit ", "dim"), words)
