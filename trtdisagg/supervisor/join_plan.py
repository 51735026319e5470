"""The plan of servers that join a cluster which others run: theirs to route to, ours to look after."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.proxy_spec import RegistrySpec
from trtdisagg.protocol.spec import EngineSpec, Role
from trtdisagg.supervisor.checks import check_addresses
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.slots import bind_host
from trtdisagg.supervisor.survey import survey


class Joining(msgspec.Struct, kw_only=True, frozen=True):
    """What joins, and where."""

    role: Role
    num: int
    host: str
    """On which others reach them."""
    name: str
    """What their names begin with: nobody else's in the cluster may."""
    cluster: str
    """The cluster's name, for people."""
    registry: RegistrySpec
    secret_file: str | None


def plan_join(cluster: ClusterFile, joining: Joining, *, file: Path | None) -> Plan:
    """
    :param cluster: says what the servers are; how many and where does not count.
    :param file: where it was read from.
    :raises ConfigError, StartupError: see `survey`.
    """
    section_name = "context_servers" if joining.role == "context" else "generation_servers"
    section = getattr(cluster, section_name) or cluster.generation_servers or cluster.context_servers
    ours = replace(section or ServerSection(), num_instances=joining.num, urls=[])
    alone = replace(
        cluster,
        context_servers=None,
        generation_servers=None,
        secret_file=joining.secret_file,
    )
    planned = f"{section_name.removesuffix('_servers')}-"
    plan = survey(
        replace(alone, **{section_name: ours}),
        name=joining.cluster,
        file=file,
        with_proxy=False,
        roles={f"{planned}{i}": joining.role for i in range(joining.num)},
    )
    servers = [_at(server, joining, server.name.removeprefix(planned)) for server in plan.servers]
    check_addresses(servers, has_secret=joining.secret_file is not None)
    return replace(plan, servers=servers, registry=joining.registry)


def _at(server: ChildPlan, joining: Joining, number: str) -> ChildPlan:
    assert isinstance(server.spec, EngineSpec)
    name = f"{joining.name}-{number}"
    return replace(server, name=name, spec=replace(server.spec, name=name, host=bind_host(joining.host)))


def check_host(host: str) -> None:
    """
    :raises ConfigError: others cannot reach it.
    """
    if host in ("0.0.0.0", "::"):
        raise ConfigError(f"--host {host}: is every address of this host; name the one that others are to use")
