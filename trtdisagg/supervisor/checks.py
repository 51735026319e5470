"""What must hold between the servers of a plan. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from trtdisagg.errors import ConfigError
from trtdisagg.net import is_loopback
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.server_plan import dtype_of
from trtdisagg.supervisor.slots import Slot
from trtdisagg.supervisor.state import PROXY


def check_slots(
    everything: Sequence[Slot], ours: Sequence[Slot], *, with_proxy: bool, has_registry: bool = False
) -> None:
    """
    :param has_registry: other agents' servers may join.
    :raises ConfigError: when something is asked for that is not there, or does not go together.
    """
    if not with_proxy and len(ours) < len(everything):
        hosts = ", ".join(slot.host for slot in everything if slot not in ours)
        raise ConfigError(f"{hosts} is no address of this machine, so no server can be started there")
    for slot in everything:
        if slot not in ours and not slot.port:
            raise ConfigError(
                f"{slot.name} would be on {slot.host}, which is not this machine, at a port that nobody knows: "
                f"add its address to {slot.path}.urls"
            )
    if with_proxy and not has_registry:
        _check_generates(everything)
    for one in everything:
        for other in everything:
            _check_pair(one, other)


def _check_generates(everything: Sequence[Slot]) -> None:
    """Each model has a server that gives answers, not only some that compute prompts."""
    roles: dict[str, set[str]] = {}
    for slot in everything:
        roles.setdefault(slot.entry.name if slot.entry else "", set()).add(slot.role)
    for model, mine in (roles or {"": set()}).items():
        if mine <= {"context"}:
            raise ConfigError(f"generation_servers: none{f' of {model}' if model else ''}, and nothing else generates")


def _check_pair(one: Slot, other: Slot) -> None:
    """A context and a generation server of one model read each other's KV blocks."""
    if one.model is None or one.entry != other.entry:
        return
    if dtype_of(one.section, one.path) != dtype_of(other.section, other.path):
        raise ConfigError(f"{other.path}.dtype: differs from {one.path}.dtype, but they hand KV blocks over")


def check_addresses(children: Sequence[ChildPlan], *, has_secret: bool) -> None:
    """
    :raises ConfigError: when two children have one address, or a server is open to a network without a secret.
    """
    taken: dict[str, str] = {}
    for child in children:
        who = _who(child)
        if child.spec.port and (other := taken.setdefault(child.url, who)) != who:
            raise ConfigError(f"{other} and {child.name} have one address, {child.url}")
        if not (child.role == "proxy" or has_secret or is_loopback(child.spec.host)):
            raise ConfigError(
                f"{child.name} would listen on {child.url}, which others can reach, without a secret: "
                "name a `secret_file`, the same for all servers and the proxy, or an address of this host alone"
            )


def _who(child: ChildPlan) -> str:
    """Its name; of the proxy's processes, which share an address, the proxy's."""
    return PROXY if child.role == PROXY else child.name


def check_transports(servers: Sequence[ChildPlan]) -> None:
    """
    :raises ConfigError: when a context and a generation server have no way to hand over.
    """
    specs = [server.spec for server in servers if isinstance(server.spec, EngineSpec)]
    for one in specs:
        for other in (spec for spec in specs if spec.role != one.role and spec.model == one.model):
            if not set(one.transfer.transports) & set(other.transfer.transports):
                raise ConfigError(
                    f"{one.name} and {other.name} have no transfer backend in common "
                    f"({', '.join(one.transfer.transports)}; {', '.join(other.transfer.transports)}): "
                    "give both sections one cache_transceiver_config.backend"
                )
    _check_local(servers)


def _check_local(servers: Sequence[ChildPlan]) -> None:
    """Memory is shared within one host only."""
    nodes = sorted({node for server in servers for node in server.nodes})
    for server in servers:
        assert isinstance(server.spec, EngineSpec)
        if server.spec.transfer.transports == ["local"] and len(nodes) > 1:
            raise ConfigError(
                f"{server.name}: cache_transceiver_config.backend LOCAL moves KV within one host, and the servers are "
                f"on {', '.join(nodes)}: use DEFAULT, which is LOCAL where it can be, or NIXL"
            )
