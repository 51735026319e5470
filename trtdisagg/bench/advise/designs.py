"""Every cluster that fits: from what a server of each role needs and what there is to divide. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trtdisagg.bench.advise.checks import check_profile, sections_of
from trtdisagg.bench.advise.cost import make_cost, transfer_of
from trtdisagg.bench.advise.profile import Profile
from trtdisagg.bench.advise.simulate import Design, Servers
from trtdisagg.config.schema import ClusterFile
from trtdisagg.errors import ConfigError

MAX_DESIGNS = 150
"""That are looked at; of more, those that leave nothing idle, evenly."""


def designs(profile: Profile, cluster: ClusterFile, num_units: int) -> list[Design]:
    """
    :param num_units: GPUs, or cores, to divide.
    :raises ConfigError: not even the smallest cluster fits, or the profile is of others.
    """
    check_profile(profile, cluster)
    context, generation = (_servers(profile, cluster, role) for role in ("context", "generation"))
    handover_s, fetch_token_s = transfer_of(profile)
    overcommit = cluster.proxy.kv_overcommit

    def disaggregated(num_context: int, num_generation: int) -> Design:
        return Design(
            context._replace(num=num_context),
            generation._replace(num=num_generation),
            profile.proxy_s,
            handover_s,
            fetch_token_s,
            overcommit,
            profile.neighbours,
        )

    found = [
        Design(
            None,
            servers._replace(num=num),
            profile.proxy_s,
            kv_overcommit=overcommit,
            neighbours=profile.neighbours,
        )
        for servers in _alone(profile, cluster, generation)
        for num in range(1, num_units // servers.num_units + 1)
    ]
    pairs = list(_pairs(context.num_units, generation.num_units, num_units))
    if not found and not pairs:
        raise ConfigError(f"a server needs {generation.num_units} GPUs or cores, and there are {num_units}")
    return [*_thinned(found, num_units), *_thinned([disaggregated(*pair) for pair in pairs], num_units)]


def _alone(profile: Profile, cluster: ClusterFile, generation: Servers) -> Iterator[Servers]:
    """Servers that do both, of each size that was measured."""
    yield generation
    if "aggregated" in profile.servers and profile.servers["aggregated"].num_units != generation.num_units:
        yield _servers(profile, cluster, "aggregated")


def _pairs(context_units: int, generation_units: int, num_units: int) -> Iterator[tuple[int, int]]:
    for num_context in range(1, num_units // context_units + 1):
        for num_generation in range(1, (num_units - num_context * context_units) // generation_units + 1):
            yield num_context, num_generation


def _thinned(found: list[Design], num_units: int) -> list[Design]:
    if len(found) <= MAX_DESIGNS:
        return found
    least = min(servers.num_units for servers in found[0].roles)
    full = [design for design in found if design.num_units > num_units - least]
    return full[:: -(-len(full) // MAX_DESIGNS)]


def _servers(profile: Profile, cluster: ClusterFile, role: str) -> Servers:
    """With the limits of its section in the cluster file."""
    section = sections_of(cluster)["context" if role == "context" else "generation"]
    measured = profile.servers[role]
    return Servers(
        num=1,
        num_units=measured.num_units,
        cost=make_cost(measured, max_batch_size=section.max_batch_size, max_num_tokens=section.max_num_tokens),
        max_batch_size=section.max_batch_size,
        max_num_tokens=section.max_num_tokens,
        num_kv_tokens=section.kv_cache_config.max_tokens or profile.num_kv_tokens[role],
        tokens_per_block=section.kv_cache_config.tokens_per_block,
        reserves=section.scheduler_config.capacity_scheduler_policy == "GUARANTEED_NO_EVICT",
        is_balanced=section.router.type != "round_robin",
    )
