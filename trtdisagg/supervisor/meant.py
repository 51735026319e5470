"""Which servers a verb means, and whether the cluster can do without them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.child import Child
from trtdisagg.supervisor.server_name import parse_name
from trtdisagg.supervisor.state import PROXY, ClusterState, is_replaced
from trtdisagg.supervisor.wish import proxies, servers

ALL = "all"


def one(state: ClusterState, name: str) -> Child:
    """
    :raises ConfigError: there is no such server.
    """
    child = state.children.get(name)
    if child is None:
        there = ", ".join(state.children)
        raise ConfigError(f"there is no server {name!r}; there are: {there}")
    return child


def several(state: ClusterState, names: Sequence[str], *, with_proxy: bool) -> list[str]:
    """All processes of the proxy can be meant with `proxy`, too.

    :raises ConfigError: there is no such server, or it is a process of the proxy that cannot be meant.
    """
    of_proxy = proxies(state)
    if ALL in names:
        found = [*servers(state), *(of_proxy if with_proxy else [])]
    else:
        each = {PROXY: [child.name for child in of_proxy]}
        found = [one(state, name) for name in dict.fromkeys(n for name in names for n in each.get(name, [name]))]
    for child in found:
        if child.role == PROXY and (not with_proxy or is_replaced(child)):
            raise ConfigError(f"{child.name} goes with the cluster: `trtdisagg down` ends it")
    return [child.name for child in found]


def check_stays_up(state: ClusterState) -> None:
    """
    :raises StartupError: when the cluster is going down.
    """
    if (stop := state.stop) is not None:
        reason = stop.reason.partition("\n")[0]
        raise StartupError(f"the cluster is going down ({reason}); when it is down, `up` brings it back")


def check_generates_without(state: ClusterState, names: Sequence[str], *, new: Sequence[str] = ()) -> None:
    """
    :param new: those that come.
    :raises ConfigError: when no server of a model would be left that generates.
    """
    there = [c for c in servers(state) if c.stays and c.phase != "failed"]
    left = {parse_name(c.name).model for c in there if c.name not in names and c.role in ("generation", "both")}
    for model in {parse_name(name).model for name in names} - {parse_name(name).model for name in new}:
        if model not in left:
            of = f" for {model}" if model else ""
            raise ConfigError(f"then no server would be left that generates{of}; `trtdisagg down` ends the cluster")
