"""What stands in a store: keys and values, as TensorRT-LLM has them, and what we add beside them.

    /trtllm-disagg/CLUSTER/workers/WORKER_ID -> {worker_id, host, port, role}       TensorRT-LLM's, nothing else in it
    /trtllm-disagg/CLUSTER/members/WORKER_ID -> {a Member}                          ours, under the same lease
    trtllm/ID                                -> {model, version, timestamp, server_role, url}      of the older way

TensorRT-LLM's proxy takes no field it does not know, so what only we understand has a key of its own. A worker without
one is not ours: nothing is known of it but role and address. Pure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from trtdisagg import __version__
from trtdisagg.net import join_address, split_address
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import UpstreamServer
from trtdisagg.protocol.spec import Role

METADATA_PREFIX = "trtllm/"

_ROLES: dict[int | str, Role] = {0: "context", 1: "generation", "CONTEXT": "context", "GENERATION": "generation"}
_NUMBERS: dict[Role, int] = {"context": 0, "generation": 1, "both": 1}
"""TensorRT-LLM has no servers of both roles; one of ours can do what a generation server does."""


class _Worker(msgspec.Struct):
    host: str
    port: int
    role: int | str


class _Metadata(msgspec.Struct):
    url: str
    server_role: int | str
    model: str = ""


class Listed(msgspec.Struct, frozen=True):
    """One server that a store lists."""

    server: UpstreamServer
    member: Member | None = None
    """Of ours: all that its agent says of it."""


def prefix_of(cluster_name: str) -> str:
    return f"/trtllm-disagg/{cluster_name}/"


def entries_of(member: Member, cluster_name: str) -> dict[str, str]:
    """The keys of a member, in the order in which they are to be written: who sees the last knows all."""
    host, port = split_address(member.url)
    worker_id = f"{member.role.upper()}-{member.url}-{member.identity}"
    worker = {
        "worker_id": worker_id,
        "host": host,
        "port": port,
        "role": _NUMBERS[member.role],
    }
    prefix = prefix_of(cluster_name)
    return {
        f"{prefix}members/{worker_id}": msgspec.json.encode(member).decode(),
        f"{prefix}workers/{worker_id}": msgspec.json.encode(worker).decode(),
    }


def metadata_entries_of(member: Member) -> dict[str, str]:
    """The key of a member in the older way. The served name is the id's tail, as far as people care."""
    value = {
        "model": member.model,
        "version": __version__,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "server_role": "CONTEXT" if member.role == "context" else "GENERATION",
        "url": f"http://{member.url}",
    }
    return {METADATA_PREFIX + member.identity: msgspec.json.encode(value).decode()}


def listed_in(entries: Mapping[str, str], cluster_name: str) -> tuple[dict[str, Listed], list[str]]:
    """
    :param entries: everything under the cluster's prefix.
    :returns: the servers by key, and what could not be read, in words.
    """
    prefix = prefix_of(cluster_name)
    listed: dict[str, Listed] = {}
    problems: list[str] = []
    for key, value in entries.items():
        if key.startswith(f"{prefix}workers/"):
            beside = entries.get(f"{prefix}members/{key.removeprefix(prefix + 'workers/')}")
            try:
                listed[key] = _listed(value, beside)
            except (msgspec.DecodeError, ValueError) as e:
                problems.append(f"{key}: {e}")
    return listed, problems


def metadata_listed_in(entries: Mapping[str, str]) -> tuple[dict[str, Listed], list[str]]:
    """The same of the older way."""
    listed: dict[str, Listed] = {}
    problems: list[str] = []
    for key, value in entries.items():
        try:
            found = msgspec.json.decode(value, type=_Metadata)
            url = found.url.removeprefix("http://").rstrip("/")
            listed[key] = Listed(UpstreamServer(name=url, role=_role(found.server_role), model=None, url=_checked(url)))
        except (msgspec.DecodeError, ValueError) as e:
            problems.append(f"{key}: {e}")
    return listed, problems


def apart(members: Sequence[Member], taken: Sequence[Member]) -> list[Member]:
    """The same members with names that nobody else has: two clusters in one store may both have a `generation-0`."""
    names = {member.name for member in taken}
    told = []
    for member in members:
        name = member.name if member.name not in names else f"{member.name}@{member.url}"
        names.add(name)
        told.append(member if name == member.name else msgspec.structs.replace(member, name=name))
    return told


def _listed(value: str, beside: str | None) -> Listed:
    worker = msgspec.json.decode(value, type=_Worker)
    role, url = _role(worker.role), _checked(join_address(worker.host, worker.port))
    member = msgspec.json.decode(beside, type=Member) if beside is not None else None
    if member is not None and member.url != url:
        raise ValueError(f"{url} there, {member.url} beside it")
    return Listed(UpstreamServer(name=f"{role}-{url}", role=role, model=None, url=url), member)


def _role(value: int | str) -> Role:
    role = _ROLES.get(value.upper() if isinstance(value, str) else value)
    if role is None:
        raise ValueError(f"a role {value!r} is not known here")
    return role


def _checked(url: str) -> str:
    host, _, port = url.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) <= 65535 or any(c.isspace() or c in "/@\\" for c in host):
        raise ValueError(f"{url!r} is no host:port")
    return url
