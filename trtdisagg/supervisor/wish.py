"""What is wanted of a cluster beyond its file: how many servers of each role, under which names. Pure.

A server's name is its group (its role, with several models `MODEL.ROLE`) and a number. It keeps its name when its role
is switched, so what a role has is found by role, and where a new one goes by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from trtdisagg.config.load import Loaded
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.server_name import parse_name
from trtdisagg.supervisor.state import PROXY, ClusterState, is_replaced


class Wish(msgspec.Struct, kw_only=True, frozen=True):
    """The cluster file as it was last read, and the overrides of its command line."""

    loaded: Loaded
    overrides: list[str] = []


class Scaling(msgspec.Struct, kw_only=True, frozen=True):
    """What it takes to have so many servers."""

    new: list[str] = []
    revived: list[str] = []
    removed: list[str] = []


def group_of(child: Child) -> str:
    """The group that a server counts in now: that of its role."""
    return parse_name(child.name)._replace(role=child.role).group


def servers(state: ClusterState) -> list[Child]:
    """Those that belong to the cluster, also when they are stopped."""
    is_on_its_way = {c.name for c in state.children.values() if c.leaving and c.leaving.then == "gone"}
    return [c for c in state.children.values() if c.role != PROXY and c.name not in is_on_its_way]


def proxies(state: ClusterState) -> list[Child]:
    """Those that take clients in."""
    return [c for c in state.children.values() if c.role == PROXY and not is_replaced(c)]


def numbers(names: Iterable[str]) -> dict[str, list[int]]:
    """The numbers of each group."""
    found: dict[str, list[int]] = {}
    for name in map(parse_name, names):
        found.setdefault(name.group, []).append(name.number)
    return {group: sorted(members) for group, members in found.items()}


def roles(state: ClusterState) -> dict[str, Role]:
    """The roles of servers whose name says another one."""
    found: dict[str, Role] = {}
    for child in servers(state):
        if child.role != "proxy" and child.role != parse_name(child.name).role:
            found[child.name] = child.role
    return found


def scaling(state: ClusterState, counts: Mapping[str, int], groups: Sequence[str]) -> Scaling:
    """What to add and what to remove. Of those to remove, first the ones that do not serve, then the newest.

    :param counts: servers wanted, by group.
    :param groups: those that there are.
    :raises ConfigError: for a group that is not there, or a count below zero.
    """
    new: list[str] = []
    revived: list[str] = []
    removed: list[str] = []
    for group, count in counts.items():
        if group not in groups:
            raise ConfigError(f"there is no role {group!r} to scale; there are: {', '.join(groups)}")
        if count < 0:
            raise ConfigError(f"{group}={count}: a number of servers is 0 or more")
        mine = [c for c in servers(state) if group_of(c) == group]
        up = sorted((c for c in mine if c.stays), key=lambda c: (c.phase != "ready", parse_name(c.name).number))
        stopped = [c.name for c in mine if not c.stays]
        removed += [c.name for c in up[count:]]
        revived += [c.name for c in up[:count] if c.phase == "failed"]
        missing = max(0, count - len(up))
        revived += stopped[:missing]
        new += _new_names(state, group, missing - len(stopped[:missing]))
    return Scaling(new=new, revived=revived, removed=removed)


def _new_names(state: ClusterState, group: str, count: int) -> list[str]:
    """The lowest numbers that nobody has, be it only on its way out."""
    taken = set(state.children)
    free = (name for i in range(len(taken) + count) if (name := f"{group}-{i}") not in taken)
    return [name for name, _ in zip(free, range(count), strict=False)]


def changes(old: object, new: object, path: str = "") -> list[str]:
    """The difference of two files, as `path: old -> new`, one line a key; entries with names are told by these."""
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        prefix = f"{path}." if path else ""
        return [line for key in keys for line in changes(old.get(key), new.get(key), f"{prefix}{key}")]
    return [] if old == new else [f"{path}: {_shown(old)} -> {_shown(new)}"]


def _by_name(value: object) -> object:
    if isinstance(value, list) and value and all(isinstance(entry, dict) and "name" in entry for entry in value):
        return {entry["name"]: entry for entry in value}
    return value


def _shown(value: object) -> str:
    return "(none)" if value is None else msgspec.json.encode(value).decode()
