"""Whether the cluster can serve: what /health and /cluster_info answer, as functions of the roster.

Ready once every model had what it needs, while each can be answered, with as many servers as the registry's
`minimal_instances` ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trtdisagg.net import split_address
from trtdisagg.protocol.control import Member, Need
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.registry.members import Pools, Roster, Snapshot

NEEDS: tuple[Need, ...] = ("context", "generation")
UPSTREAM_ROLE: Mapping[Need, int] = {"context": 0, "generation": 1}
"""As TensorRT-LLM numbers them. It has no role `both`: such a server is listed as one of each."""


def health(spec: ProxySpec, roster: Roster, now: float, *, draining: bool) -> tuple[int, dict[str, Any]]:
    """Status and body of /health.

    :param now: on the loop's clock.
    """
    missing = [*roster.snapshot.missing(), *_too_few(spec, roster.snapshot)]
    ready = _is_ready(spec, roster) and not draining
    status = "draining" if draining else "starting" if not roster.was_complete else "unavailable"
    body: dict[str, Any] = {"status": ("degraded" if missing else "ok") if ready else status}
    if missing:
        body["missing"] = missing
    if roster.is_stale(now):
        body["stale"] = True
    return (200 if ready else 503), body


def cluster_info(spec: ProxySpec, roster: Roster) -> dict[str, Any]:
    """The body of /cluster_info, in TensorRT-LLM's form."""
    return {
        "is_ready": _is_ready(spec, roster),
        "current_workers": {
            f"{need}_servers": [_worker(member, need) for member in _servers(roster.snapshot, need)] for need in NEEDS
        },
        "minimal_instances": {f"{need}_servers": _minimum(spec, need) for need in NEEDS},
    }


def _is_ready(spec: ProxySpec, roster: Roster) -> bool:
    return roster.was_complete and roster.snapshot.can_serve() and not any(_too_few(spec, roster.snapshot))


def _too_few(spec: ProxySpec, snapshot: Snapshot) -> Iterator[str]:
    """Of each model there must be so many."""
    several = len(snapshot.pools) > 1
    for model, pools in (snapshot.pools or {"": Pools()}).items():
        for need in NEEDS:
            if (count := len(getattr(pools, need))) < (minimum := _minimum(spec, need)):
                yield f"{count} of at least {minimum} {need} servers{f' for {model}' if several else ''}"


def _minimum(spec: ProxySpec, need: Need) -> int:
    return spec.registry.minimal_instances.get(need, 0) if spec.registry else 0


def _servers(snapshot: Snapshot, need: Need) -> list[Member]:
    """Each server once, whatever number of models it has."""
    members = [member for pools in snapshot.pools.values() for member in getattr(pools, need)]
    return list({member.url: member for member in members}.values())


def _worker(member: Member, need: Need) -> dict[str, Any]:
    host, port = split_address(member.url)
    return {"worker_id": member.name, "host": host, "port": port, "role": UPSTREAM_ROLE[need]}
