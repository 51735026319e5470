"""Which rank of which server gets which GPU, beside those that others have already. Pure.

A GPU is shared only among servers whose section names it, and never by ranks of one server. Too few are an error that
says who wanted what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.claims import Claim, Spot, choices
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nvml import Gpu


def divide_gpus(claims: Sequence[Claim], host: Host, held: Mapping[str, Spot]) -> dict[str, list[str]]:
    """Give each server a GPU for each of its ranks; to one on the CPU, none.

    :param held: the spots of servers that run.
    :returns: for each server, what goes into its CUDA_VISIBLE_DEVICES.
    :raises ConfigError: when a section names a GPU that is not there.
    :raises StartupError: when there are too few.
    """
    known = [*host.gpus, *_missing(host.gpus, held)]
    named = {claim.section: _named_gpus(claim, known, host) for claim in claims if claim.gpus is not None}
    pools = choices(claims, named, [gpu.id for gpu in known])
    gpus = _kept_gpus(claims, pools, held)
    users = Counter(gpu for mine in gpus.values() for gpu in mine)
    there, busy = {gpu.id for gpu in host.gpus}, _busy(host.gpus)
    without = []
    for claim in claims:
        if claim.server in gpus:
            continue
        may_share = claim.gpus is not None
        free = [gpu for gpu in pools[claim.server] if gpu in there and (may_share or not users[gpu])]
        if len(free) < claim.num_ranks and (claim.gpus if may_share else known):
            without.append(claim)
            continue
        gpus[claim.server] = sorted(free, key=lambda gpu: (users[gpu], gpu in busy))[: claim.num_ranks]
        users.update(gpus[claim.server])
    if without:
        num_left = sum(not users[gpu] for gpu in pools[without[0].server] if gpu in there)
        raise StartupError(_too_few(without, num_left, gpus, host))
    return {claim.server: gpus[claim.server] for claim in claims}


def _kept_gpus(
    claims: Sequence[Claim], pools: Mapping[str, list[str]], held: Mapping[str, Spot]
) -> dict[str, list[str]]:
    """Of servers that run: those that they still may have."""
    gpus: dict[str, list[str]] = {}
    users: Counter[str] = Counter()
    for claim in claims:
        mine = held[claim.server].gpus if claim.server in held else []
        is_shared = claim.gpus is None and any(users[gpu] for gpu in mine)
        if mine and len(mine) == claim.num_ranks and set(mine) <= set(pools[claim.server]) and not is_shared:
            gpus[claim.server] = mine
            users.update(mine)
    return gpus


def _missing(there: Sequence[Gpu], held: Mapping[str, Spot]) -> list[Gpu]:
    """GPUs that servers have and the driver does not show now: no reason to move a server, and none for a new one."""
    ids = dict.fromkeys(id_ for spot in held.values() for id_ in spot.gpus)
    known = {gpu.id for gpu in there}
    return [
        Gpu(id=id_, uuid=id_, index=int(id_) if id_.isdigit() else -1, name="missing", total_bytes=0, free_bytes=0)
        for id_ in ids
        if id_ not in known
    ]


def _busy(gpus: Sequence[Gpu]) -> set[str]:
    """Those that somebody else seems to use, another agent perhaps: they are taken last."""
    most_bytes = max((gpu.free_bytes for gpu in gpus), default=0)
    return {gpu.id for gpu in gpus if gpu.free_bytes < most_bytes / 2}


def _named_gpus(claim: Claim, known: Sequence[Gpu], host: Host) -> list[str]:
    """
    :param known: those that are there, and those that servers have.
    :raises ConfigError: when one is not there, or a word means several.
    """
    ids: list[str] = []
    for word in map(str, claim.gpus or []):
        found = [gpu.id for gpu in known if gpu.is_called(word)]
        if not found:
            raise ConfigError(f"{claim.section}.gpus: there is no GPU {word} here; {_there(host)}")
        if len(found) > 1 and not word.isdigit():
            raise ConfigError(f"{claim.section}.gpus: {word} may be each of {', '.join(found)}; write more of the UUID")
        ids += found
    return list(dict.fromkeys(ids))


def _too_few(without: Sequence[Claim], num_left: int, gpus: Mapping[str, list[str]], host: Host) -> str:
    """
    :param num_left: GPUs that nobody has, of those that the first may have.
    """
    servers = ", ".join(claim.server for claim in without)
    num_ranks = [claim.num_ranks for claim in without]
    if max(num_ranks) > 1:
        wants = f"{'wants' if len(without) == 1 else 'want'} {' and '.join(map(str, num_ranks))} GPUs, one a rank"
        way_out = "Lower tensor_parallel_size or pipeline_parallel_size, start fewer servers"
    else:
        wants = "wants a GPU of its own" if len(without) == 1 else "want a GPU each"
        way_out = "Start fewer servers"
    left = f"{num_left} {'is' if num_left == 1 else 'are'}" if num_left else "none is"
    taken = ", ".join(f"{server} has {', '.join(mine)}" for server, mine in gpus.items() if mine)
    return (
        f"{servers} {wants}, and {left} left: {_there(host)}{f'; {taken}' if taken else ''}. "
        f"{way_out}, name in {without[0].section}.gpus the GPUs they may share, or with `gpus: []` run them "
        "on the CPU"
    )


def _there(host: Host) -> str:
    gpus = ", ".join(f"{gpu.id} ({gpu.name})" for gpu in host.gpus) or "none"
    return "; ".join([f"there are {gpus}", *host.notices])
