"""What the processes of a world tell each other before they are ranks, and what follows from it for each.

Facts    where each is, and what it could have   ->  the sizes and cores of each rank; which servers span hosts
places   where the ranks of each server meet     ->  gang_socket within a host, gang_address across hosts
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from trtdisagg.engine.http.listen import resolve
from trtdisagg.engine.mpi.world import World
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.net import address_towards, is_loopback, join_address, listen_anywhere
from trtdisagg.protocol.mpi import WorldSpec, first_ranks
from trtdisagg.protocol.spec import EngineSpec

_SECRET_BYTES = 32
_NAME_BYTES = 8
_NAMESPACES = ("net", "mnt", "pid")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process."""

    server: str
    rank: int
    host: str
    """Names the host: equal ones share sockets, files and memory."""
    cores: list[int]
    """Where it may run."""
    num_blocks: int
    max_seq_len: int
    max_body_bytes: int
    gpu: str | None = None


class Terms(NamedTuple):
    engine: EngineSpec
    """What this process is to be."""
    secret: bytes
    """Of this world."""
    world_name: str
    """Of no other."""


def agree(world: World, given: WorldSpec) -> Terms:
    """Settle what is open in a spec, with all others.

    :raises ConfigError: when the processes are not where the file's urls say.
    :raises StartupError: when nobody can listen there.
    """
    engine = given.engine
    first = first_ranks(given.servers)[engine.name]
    if (here := first + engine.rank) != world.rank:
        raise StartupError(f"mpirun numbers this process {here}, and MPI {world.rank}: they do not belong together")
    mine = msgspec.msgpack.encode(facts_of(engine, given.gpu))
    facts = [msgspec.msgpack.decode(said, type=Facts) for said in world.all_say(mine)]
    unguessed = world.first_says(secrets.token_bytes(_SECRET_BYTES + _NAME_BYTES))
    secret, name = unguessed[:_SECRET_BYTES], unguessed[_SECRET_BYTES:].hex()
    engine = settle(engine, facts, incarnation=f"{engine.name}.{name}")
    spans_hosts = len({one.host for one in facts if one.server == engine.name}) > 1
    if engine.rank == 0 and engine.parallel.num_ranks > 1:
        engine = _open(engine, spans_hosts=spans_hosts)
    place = world.all_say((engine.gang_address or engine.gang_socket or "").encode())[first].decode()
    if engine.rank > 0:
        engine = _join(engine, place, spans_hosts=spans_hosts)
    return Terms(engine, secret, name)


def facts_of(engine: EngineSpec, gpu: str | None) -> Facts:
    return Facts(
        server=engine.name,
        rank=engine.rank,
        host=_name_of_host(),
        cores=sorted(os.sched_getaffinity(0)),
        num_blocks=engine.num_blocks,
        max_seq_len=engine.max_seq_len,
        max_body_bytes=engine.max_body_bytes,
        gpu=gpu,
    )


def settle(engine: EngineSpec, everyone: Sequence[Facts], *, incarnation: str) -> EngineSpec:
    """The sizes are those that every rank of the server has room for; cores are divided among those that mpirun has
    bound to the same.

    :param everyone: in the order of the world.
    :raises ConfigError: when a url says `localhost`, and there are several hosts, or two processes have one GPU.
    """
    fellows = [facts for facts in everyone if facts.server == engine.name]
    me = next(facts for facts in fellows if facts.rank == engine.rank)
    if len({facts.host for facts in everyone}) > 1 and is_loopback(engine.host):
        raise ConfigError(
            f"{engine.name}: its url says {engine.host}, and the processes are on several hosts, which do not reach "
            "each other there; name the host"
        )
    if me.gpu and [facts.gpu for facts in everyone if facts.host == me.host].count(me.gpu) > 1:
        raise ConfigError(f"{engine.name} rank {engine.rank} and another process have one GPU, {me.gpu}")
    beside = [facts for facts in everyone if (facts.host, facts.cores) == (me.host, me.cores)]
    cores = share(me.cores, beside.index(me), len(beside))
    return replace(
        engine,
        incarnation=incarnation,
        cores=cores,
        num_threads=len(cores) if len(me.cores) >= len(beside) else 1,
        num_blocks=min(facts.num_blocks for facts in fellows),
        max_seq_len=min(facts.max_seq_len for facts in fellows),
        max_body_bytes=min(facts.max_body_bytes for facts in fellows),
    )


def share(cores: list[int], index: int, number: int) -> list[int]:
    """The cores of one of several processes: all, where there are not enough for a share of one's own.

    >>> share([0, 1, 2, 3, 4], 1, 2)
    [2, 3, 4]
    """
    n = len(cores)
    return cores[n * index // number : n * (index + 1) // number] if n >= number else cores


def _open(engine: EngineSpec, *, spans_hosts: bool) -> EngineSpec:
    """Rank 0: make the place where the others come."""
    if not spans_hosts:
        directory = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        return replace(engine, gang_socket=f"{directory}/trtdisagg-{secrets.token_hex(8)}.gang")
    try:
        listener = listen_anywhere(engine.host)
    except OSError as e:
        raise StartupError(f"rank 0 of {engine.name} cannot listen on {engine.host}: {e.strerror or e}") from e
    place = join_address(*listener.getsockname()[:2])
    return replace(engine, gang_address=place, gang_fd=listener.detach())


def _join(engine: EngineSpec, place: str, *, spans_hosts: bool) -> EngineSpec:
    """Another rank: come there, and be reached at the address by which we reach it."""
    if not spans_hosts:
        return replace(engine, gang_socket=place)
    address = resolve(engine.host)[1][0]
    try:
        return replace(engine, gang_address=place, host=address_towards(address))
    except OSError as e:
        raise StartupError(f"rank 0 of {engine.name} cannot be reached at {engine.host}: {e.strerror or e}") from e


def _name_of_host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return " ".join([boot, *(os.readlink(f"/proc/self/ns/{kind}") for kind in _NAMESPACES)])
