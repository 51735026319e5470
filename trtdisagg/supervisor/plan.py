"""From the cluster file and the facts to what will run where: a pure function.

    ClusterFile + Host + models -> Plan: servers (role, address, GPUs, cores, memory, command), proxy, notices

A server in `urls` on a host that is not this one, and every server of a file without `model`, is routed to and not
started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from trtdisagg.config.key_types import Backend
from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.supervisor_keys import AutoscaleConfig, SupervisionConfig
from trtdisagg.net import is_loopback
from trtdisagg.protocol.control import Need
from trtdisagg.protocol.proxy_spec import MetadataSpec, ModelSpec, RegistrySpec, UpstreamServer
from trtdisagg.protocol.spec import EngineSpec, Role, SamplingDefaults
from trtdisagg.supervisor.checks import check_addresses, check_slots, check_transports
from trtdisagg.supervisor.child_plan import ChildPlan, in_role
from trtdisagg.supervisor.claims import Spot
from trtdisagg.supervisor.division import Divided, num_ranks, parallel_of
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.assign import is_here
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.nodes.spots import find_spots
from trtdisagg.supervisor.notices import proxy_notices
from trtdisagg.supervisor.pools import Beside, pool_notices, rank_weights, size_pools
from trtdisagg.supervisor.profiling import check_profiled, profile_of
from trtdisagg.supervisor.proxy_plan import plan_proxy, proxy_workers, registry_of
from trtdisagg.supervisor.routing_plan import plan_routing
from trtdisagg.supervisor.server_plan import ServerFacts, plan_server, server_settings
from trtdisagg.supervisor.slots import Slot, bind_host, slots
from trtdisagg.supervisor.transfer_plan import transfer_notices
from trtdisagg.text.dimensions import ModelDimensions


class ModelFacts(msgspec.Struct, kw_only=True, frozen=True):
    """A model of the cluster file, as it was found."""

    path: str
    served_name: str
    dimensions: ModelDimensions | None
    """None: it cannot be read here, and a program of the user's own (`command`) serves it."""
    sampling_defaults: SamplingDefaults = SamplingDefaults()


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """Everything `up` does, before it does it; `check` prints it."""

    cluster: str
    file: str | None
    fingerprint: str = ""
    """Of what the file meant; empty without a file."""
    servers: list[ChildPlan]
    """Those that are ours to start."""
    upstream: list[UpstreamServer]
    """Those that run already: only routed to."""
    proxy: ChildPlan | None
    supervision: SupervisionConfig
    autoscale: AutoscaleConfig = AutoscaleConfig()
    registry: RegistrySpec | None = None
    """Where servers of other agents are registered, and ours are for other proxies; None: nowhere."""
    metadata: MetadataSpec | None = None
    """Where ours are registered in the older way."""
    needs: dict[str, list[Need]]
    """The roles that each model must have a server of."""
    secret_file: str | None
    makes_secret: bool
    """A secret is made for this run."""
    notices: list[str]
    """For people: what was decided for them, and what may surprise them."""

    @property
    def children(self) -> list[ChildPlan]:
        return [*self.proxies, *self.servers]

    @property
    def proxies(self) -> list[ChildPlan]:
        """A child for each process that takes clients in."""
        return proxy_workers(self.proxy) if self.proxy else []


def make_plan(
    cluster: ClusterFile,
    *,
    name: str,
    host: Host,
    nodes: Sequence[Node] = (),
    models: Mapping[str, ModelFacts],
    file: str | None = None,
    with_proxy: bool = True,
    default_backend: Backend | None = "DEFAULT",
    numbers: Mapping[str, Sequence[int]] | None = None,
    keep: Mapping[str, ChildPlan] | None = None,
    resident: Mapping[str, int] | None = None,
    roles: Mapping[str, Role] | None = None,
    elsewhere: bool = False,
) -> Plan:
    """Decide what runs where.

    :param nodes: on which servers are started, the first of them is this host; empty: this host alone.
    :param models: by `model` of the file.
    :param with_proxy: False: servers alone (`trtdisagg serve`).
    :param default_backend: the transfer backend of servers whose section names none.
    :param numbers: of the servers there shall be, where they are not those of the file; see `slots`.
    :param keep: what runs. A server that the file still wants the same keeps its plan; one that it wants otherwise
        keeps its GPUs and cores where it still may; what the others of these have counts as free.
    :param resident: bytes that each of `keep` holds now, in the memory of its GPU or of the host; None: all that it was
        planned to.
    :param roles: of servers that have another role than their section's; other names do not matter.
    :param elsewhere: the proxy finds servers somewhere else, too.
    :raises ConfigError: when the file asks for what is not there or does not go together.
    :raises StartupError: when there is too little memory, or there are too few GPUs.
    """
    everything = [replace(slot, role=(roles or {}).get(slot.name, slot.role)) for slot in slots(cluster, numbers)]
    ours = [slot for slot in everything if slot.model is not None and _is_here(slot, host, nodes)]
    registry = registry_of(cluster.disagg_cluster)
    check_slots(everything, ours, with_proxy=with_proxy, has_registry=elsewhere or registry is not None)
    check_profiled(cluster.profile, [slot.name for slot in slots(cluster) if slot.model is not None])
    facts = {slot.name: _facts(slot, cluster, name, models, default_backend) for slot in ours}
    divided = {slot.name: _divided(slot, models[slot.model].dimensions) for slot in ours if slot.model}
    servers, notices = _plan_servers(ours, facts, divided, host, nodes, keep=keep or {}, resident=resident)
    upstream = [_upstream(slot, models) for slot in everything if slot not in ours]
    plan = Plan(
        cluster=name,
        file=file,
        servers=servers,
        upstream=upstream,
        proxy=plan_proxy(cluster, name, upstream, registry, _routing(cluster, models)) if with_proxy else None,
        supervision=cluster.supervision,
        autoscale=cluster.autoscale,
        registry=registry,
        needs=_needs(servers, upstream),
        secret_file=cluster.secret_file,
        # Servers that others start could not know it.
        makes_secret=(with_proxy or bool(nodes)) and bool(servers) and not upstream and cluster.secret_file is None,
        notices=[*notices, *(proxy_notices(cluster, everything, nodes) if with_proxy else [])],
    )
    check_addresses(plan.children, has_secret=bool(plan.secret_file or plan.makes_secret))
    if with_proxy:
        check_transports(servers)
    return plan


def _plan_servers(
    ours: Sequence[Slot],
    facts: Mapping[str, ServerFacts],
    models: Mapping[str, Divided],
    host: Host,
    nodes: Sequence[Node],
    *,
    keep: Mapping[str, ChildPlan],
    resident: Mapping[str, int] | None,
) -> tuple[list[ChildPlan], list[str]]:
    """Plans of our servers, in the order of their slots, and notices."""
    held = {name: Spot(gpus=old.gpus, rank_cores=old.rank_cores, nodes=old.nodes) for name, old in keep.items()}
    spots, notices = find_spots(ours, host, nodes, held)
    hosts = {node.name: node.host for node in nodes} or {"": host}
    addresses = {node.name: node.address for node in nodes}
    planned = {
        slot.name: in_role(old, slot.role)
        for slot in ours
        if (old := keep.get(slot.name)) and old.settings == server_settings(slot, facts[slot.name], spots[slot.name])
    }
    new = [slot for slot in ours if slot.name not in planned]
    going = [old for old in keep.values() if old.name not in planned]
    beside = Beside(going=going, staying=list(planned.values()), resident=resident, here=next(iter(hosts)))
    pools = size_pools(new, spots, hosts, models, beside)
    for slot in new:
        planned[slot.name] = plan_server(
            slot,
            facts[slot.name],
            spots[slot.name],
            pools[slot.name],
            parallel=models[slot.name].parallel,
            weights=rank_weights(slot, models[slot.name]),
            host=next((addresses[node] for node in spots[slot.name].nodes), bind_host(slot.host)),
        )
    specs = [spec for slot in new if isinstance(spec := planned[slot.name].spec, EngineSpec)]
    notices += [*pool_notices(new, pools), *transfer_notices(new, specs), *_pdl_notice(new)]
    return [planned[slot.name] for slot in ours], notices


def _pdl_notice(new: Sequence[Slot]) -> list[str]:
    idle = [slot.name for slot in new if slot.section.enable_pdl and slot.section.command is None]
    because = "the builtin engine launches no kernel before the one it depends on has ended"
    return [f"enable_pdl: no effect on {', '.join(idle)}, because {because}"] if idle else []


def _is_here(slot: Slot, host: Host, nodes: Sequence[Node]) -> bool:
    if nodes:
        return is_here(slot, [node.capacity for node in nodes])
    return slot.host in host.local_names or is_loopback(slot.host)


def _upstream(slot: Slot, models: Mapping[str, ModelFacts]) -> UpstreamServer:
    model = _served_name(slot.entry, models) if slot.entry else None
    return UpstreamServer(name=slot.name, role=slot.role, model=model, url=slot.url)


def _served_name(entry: ModelEntry, models: Mapping[str, ModelFacts]) -> str:
    return entry.served_name or models[entry.model or ""].served_name


def _routing(cluster: ClusterFile, models: Mapping[str, ModelFacts]) -> dict[str, ModelSpec]:
    readable = {model: facts.path for model, facts in models.items() if facts.dimensions is not None}
    return plan_routing(cluster, {model: facts.served_name for model, facts in models.items()}, readable)


def _facts(
    slot: Slot, cluster: ClusterFile, name: str, models: Mapping[str, ModelFacts], default_backend: Backend | None
) -> ServerFacts:
    assert slot.entry is not None
    assert slot.model is not None
    model = models[slot.model]
    return ServerFacts(
        cluster=name,
        model=_served_name(slot.entry, models),
        model_path=model.path,
        sampling_defaults=model.sampling_defaults,
        backend=slot.section.cache_transceiver_config.backend or default_backend,
        max_body_bytes=cluster.proxy.max_body_bytes,
        perf_metrics_max_requests=cluster.perf_metrics_max_requests,
        secret_file=cluster.secret_file,
        profile=profile_of(slot.name, num_ranks(slot.section), cluster.profile),
    )


def _divided(slot: Slot, model: ModelDimensions | None) -> Divided:
    return Divided(model, parallel_of(slot.section, model, slot.path))


def _needs(servers: Sequence[ChildPlan], upstream: Sequence[UpstreamServer]) -> dict[str, list[Need]]:
    roles: dict[str, set[str]] = {}
    for model, role in [(s.model, str(s.role)) for s in servers] + [(u.model, u.role) for u in upstream]:
        if model is not None:
            roles.setdefault(model, set()).add(role)
    kinds: tuple[Need, ...] = ("context", "generation")
    return {model: [kind for kind in kinds if mine & {kind, "both"}] for model, mine in roles.items()}
