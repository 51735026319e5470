"""What people should look at: a server that is worse than its like, work that waits where it need not. Pure.

Each rule asks for a difference that is large as a ratio and in itself, and for enough answers to tell: so it needs no
memory, and does not cry at noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from trtdisagg.protocol.control import ServerStatus
from trtdisagg.supervisor import latency
from trtdisagg.supervisor.rates import Window, lately, latencies

MIN_ANSWERS = 20
"""In the last minute, of a server and of the others."""
MIN_RATIO = 1.8
"""Two equal servers on both sides of a bucket's bound differ by up to 1.6."""
MIN_PER_TOKEN_S = 0.003
MIN_FIRST_TOKEN_S = 0.1
MIN_WAITING = 8
MIN_KV_SHARE = 0.95
MIN_FAILURES_S = 0.2
MIN_FAILED_SHARE = 0.05
MIN_FAILED_TRANSFERS = 3

_OTHER_ROLE = {"context": "generation", "generation": "context"}
_Group = list[ServerStatus]
_Counts = Mapping[str, list[int]]


def hints(servers: Sequence[ServerStatus], windows: Mapping[str, Window], now: float) -> list[str]:
    """A sentence for each thing that is worth a look.

    :param windows: by name of the server.
    """
    counted = {name: latencies(window, now) for name, window in windows.items()}
    first_token = {name: c.first_token for name, c in counted.items()}
    per_token = {name: c.per_token for name, c in counted.items()}
    groups = _alike(servers)
    found: list[str] = []
    for group in groups:
        found += _slow(group, per_token, MIN_PER_TOKEN_S, "per token")
        found += _slow(group, first_token, MIN_FIRST_TOKEN_S, "to the first token")
        found += _unfair_queue(group)
    found += _short_of_servers(groups)
    for server in servers:
        found += _full_kv(server)
        found += _failed_transfers(server.name, windows.get(server.name, Window()))
        found += _expired_leases(server.name, windows.get(server.name, Window()))
        found += _failures(server)
        found += _unknown_caches(server)
    return found


def _alike(servers: Sequence[ServerStatus]) -> list[_Group]:
    """Ready servers of the same model and role."""
    groups: defaultdict[tuple[str | None, str], _Group] = defaultdict(list)
    for server in servers:
        if server.state == "ready" and server.role != "proxy":
            groups[server.model, server.role].append(server)
    return list(groups.values())


# --- a server against its like --------------------------------------------------------------------------------------


def _slow(group: _Group, counted: _Counts, least_s: float, what: str) -> Iterator[str]:
    together = latency.merged(counted.get(server.name, []) for server in group)
    for server in group:
        mine = counted.get(server.name, [])
        mine_s, others_s = _typical_s(mine), _typical_s(latency.since(mine, together))
        if mine_s is None or others_s is None:
            continue
        if mine_s >= MIN_RATIO * others_s and mine_s - others_s >= least_s:
            times = f"{mine_s / others_s:.1f} times slower {what} than the others"
            yield f"{server.name} is {times}: {_duration(mine_s)}, not {_duration(others_s)}"


def _typical_s(counts: Sequence[int]) -> float | None:
    """Half of the answers came sooner; None: too few to tell."""
    return latency.percentile_s(counts, 0.5) if sum(counts) >= MIN_ANSWERS else None


def _unfair_queue(group: _Group) -> Iterator[str]:
    longest, shortest = (pick(group, key=lambda s: s.stats.num_waiting) for pick in (max, min))
    if longest.stats.num_waiting >= MIN_WAITING and not shortest.stats.num_waiting:
        yield f"{longest.name} has {longest.stats.num_waiting} requests waiting while {shortest.name} has none"


def _short_of_servers(groups: Sequence[_Group]) -> Iterator[str]:
    """All servers of one role have a queue, and none of the other role has."""
    waiting: dict[tuple[str | None, str], list[int]] = {
        (group[0].model, group[0].role): [server.stats.num_waiting for server in group] for group in groups
    }
    for (model, role), mine in waiting.items():
        other = _OTHER_ROLE.get(role, "")
        theirs = waiting.get((model, other))
        if theirs and min(mine) >= MIN_WAITING and not any(theirs):
            queue = f"{sum(mine)} requests wait for {role} servers, none for {other} servers"
            yield f"{queue}: one more for {role} would help"


# --- a server by itself ---------------------------------------------------------------------------------------------


def _full_kv(server: ServerStatus) -> Iterator[str]:
    stats = server.stats
    if stats.num_waiting and stats.num_blocks and stats.num_used_blocks >= MIN_KV_SHARE * stats.num_blocks:
        share = f"{100 * stats.num_used_blocks / stats.num_blocks:.0f} % of its KV blocks in use"
        yield f"{server.name} has {share} and {_requests(stats.num_waiting)} waiting"


def _failed_transfers(name: str, window: Window) -> Iterator[str]:
    failed = lately(window, lambda s: s.num_transfer_failures_total)
    if failed >= MIN_FAILED_TRANSFERS:
        yield f"{name}: {failed:.0f} KV transfers failed in the last seconds"


def _expired_leases(name: str, window: Window) -> Iterator[str]:
    expired = lately(window, lambda s: s.num_expired_leases_total)
    if expired >= MIN_FAILED_TRANSFERS:
        yield f"{name}: nobody came for the KV of {_requests(round(expired))} in the last seconds"


def _failures(server: ServerStatus) -> Iterator[str]:
    if server.failures_s >= max(MIN_FAILURES_S, MIN_FAILED_SHARE * server.requests_s):
        of = f" of {server.requests_s:.1f}" if server.requests_s >= server.failures_s else ""
        yield f"{server.name}: {server.failures_s:.1f}{of} requests a second fail"


def _unknown_caches(server: ServerStatus) -> Iterator[str]:
    if number := server.stats.num_unknown_caches:
        of = "1 server has in its cache is" if number == 1 else f"{number} servers have in their caches is"
        yield f"{server.name}: what {of} not known, so load decides"


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number} requests"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
