"""From the cluster file and the facts to what will run where: a pure function.

    ClusterFile + Host + models -> Plan: servers (role, address, GPUs, cores, memory, command), proxy, notices

A server in `urls` on a host that is not this one, and every server of a file without `model`, is routed to and not
started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from trtdisagg.config.schema import Backend, ClusterFile, ModelEntry, SupervisionConfig
from trtdisagg.protocol.control import Need
from trtdisagg.protocol.spec import SamplingDefaults, UpstreamServer
from trtdisagg.supervisor.checks import check_addresses, check_slots, check_transports, is_loopback
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.memory import Pool, Room, size_pool
from trtdisagg.supervisor.placement import Claim, Spot, place
from trtdisagg.supervisor.server_plan import ChildPlan, dtype_of, plan_proxy, plan_server
from trtdisagg.supervisor.slots import Slot, slots
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
    needs: dict[str, list[Need]]
    """The roles that each model must have a server of."""
    secret_file: str | None
    makes_secret: bool
    """A secret is made for this run."""
    notices: list[str]
    """For people: what was decided for them, and what may surprise them."""

    @property
    def children(self) -> list[ChildPlan]:
        return [*([self.proxy] if self.proxy else []), *self.servers]


def make_plan(
    cluster: ClusterFile,
    *,
    name: str,
    host: Host,
    models: Mapping[str, ModelFacts],
    file: str | None = None,
    with_proxy: bool = True,
    default_backend: Backend | None = "DEFAULT",
) -> Plan:
    """Decide what runs where.

    :param models: by `model` of the file.
    :param with_proxy: False: servers alone (`trtdisagg serve`).
    :param default_backend: the transfer backend of servers whose section names none.
    :raises ConfigError: when the file asks for what is not there or does not go together.
    :raises StartupError: when there is too little memory.
    """
    everything = list(slots(cluster))
    ours = [slot for slot in everything if slot.entry is not None and _is_here(slot, host)]
    upstream = [_upstream(slot, models) for slot in everything if slot not in ours]
    check_slots(everything, ours, with_proxy=with_proxy)
    spots, notices = place([_claim(slot) for slot in ours], host)
    pools = _pools(ours, spots, host, models)
    servers = []
    for slot in ours:
        assert slot.entry is not None
        server = plan_server(
            slot,
            cluster=name,
            model=_served_name(slot.entry, models),
            model_path=models[slot.entry.model].path,
            sampling_defaults=models[slot.entry.model].sampling_defaults,
            spot=spots[slot.name],
            pool=pools[slot.name],
            backend=slot.section.cache_transceiver_config.backend or default_backend,
            max_body_bytes=cluster.proxy.max_body_bytes,
        )
        servers.append(server)
    plan = Plan(
        cluster=name,
        file=file,
        servers=servers,
        upstream=upstream,
        proxy=plan_proxy(cluster, name, upstream) if with_proxy else None,
        supervision=cluster.supervision,
        needs=_needs(servers, upstream),
        secret_file=cluster.secret_file,
        # Servers that others start could not know it.
        makes_secret=with_proxy and bool(servers) and not upstream and cluster.secret_file is None,
        notices=[*host.notices, *notices, *_pool_notices(ours, pools)],
    )
    check_addresses(plan.children, has_secret=bool(plan.secret_file or plan.makes_secret))
    if with_proxy:
        check_transports(servers)
    return plan


def _is_here(slot: Slot, host: Host) -> bool:
    return slot.host == "localhost" or slot.host in host.local_names or is_loopback(slot.host)


def _upstream(slot: Slot, models: Mapping[str, ModelFacts]) -> UpstreamServer:
    model = _served_name(slot.entry, models) if slot.entry else None
    return UpstreamServer(name=slot.name, role=slot.role, model=model, url=slot.url)


def _served_name(entry: ModelEntry, models: Mapping[str, ModelFacts]) -> str:
    return entry.name or models[entry.model].served_name


def _claim(slot: Slot) -> Claim:
    return Claim(server=slot.name, section=slot.path, cores=slot.section.cores, gpus=slot.section.gpus)


def _needs(servers: Sequence[ChildPlan], upstream: Sequence[UpstreamServer]) -> dict[str, list[Need]]:
    roles: dict[str, set[str]] = {}
    for model, role in [(s.model, str(s.role)) for s in servers] + [(u.model, u.role) for u in upstream]:
        if model is not None:
            roles.setdefault(model, set()).add(role)
    kinds: tuple[Need, ...] = ("context", "generation")
    return {model: [kind for kind in kinds if mine & {kind, "both"}] for model, mine in roles.items()}


# --- memory ---------------------------------------------------------------------------------------------------------


def _pools(
    ours: Sequence[Slot], spots: Mapping[str, Spot], host: Host, models: Mapping[str, ModelFacts]
) -> dict[str, Pool]:
    """The KV cache of each server: those on one GPU, or on the CPU, share its memory."""
    groups: dict[str, list[Slot]] = {}
    for slot in ours:
        groups.setdefault(",".join(spots[slot.name].gpus), []).append(slot)
    pools = {}
    for gpu, group in groups.items():
        room = _room(gpu, group, host, models)
        for slot in group:
            model, dtype = _dimensions(slot, models), dtype_of(slot.section, slot.path)
            pools[slot.name] = size_pool(slot.name, slot.section, model, dtype, room)
    return pools


def _room(gpu: str, group: Sequence[Slot], host: Host, models: Mapping[str, ModelFacts]) -> Room:
    known = [(model, slot) for slot in group if (model := _dimensions(slot, models))]
    return Room(
        where=f"on GPU {gpu}" if gpu else "on this host",
        free_bytes=next((g.free_bytes for g in host.gpus if g.id == gpu), host.memory_bytes),
        weight_bytes=sum(model.weight_bytes(dtype_of(slot.section, slot.path)) for model, slot in known),
        num_servers=len(group),
        on_gpu=bool(gpu),
    )


def _dimensions(slot: Slot, models: Mapping[str, ModelFacts]) -> ModelDimensions | None:
    return models[slot.entry.model].dimensions if slot.entry else None


def _pool_notices(ours: Sequence[Slot], pools: Mapping[str, Pool]) -> Iterator[str]:
    """One line for each section: its servers' pools are alike."""
    for path in dict.fromkeys(slot.path for slot in ours):
        slot = next(slot for slot in ours if slot.path == path)
        pool = pools[slot.name]
        if pool.notice:
            yield f"{path}: {pool.notice}"
        if pool.num_bytes is not None and slot.section.kv_cache_config.max_tokens is None:
            num_tokens = pool.num_blocks * slot.section.kv_cache_config.tokens_per_block
            size = f"{pool.num_bytes / 1024**3:.2f} GiB ({num_tokens} tokens)"
            yield f"{path}: the KV cache of each server has {size}; kv_cache_config.max_tokens sets another size"
