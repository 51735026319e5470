"""Ways to move KV between two pools, and the choice among them by name.

local   host memory within a host: the peer's pool is mapped
nixl    host or device memory, within a host and between hosts
ucx     the same library with settings of our own
mpi     host memory, within a host and between hosts; deprecated
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports.base import Link, Transport, check_bounds, name_of
from trtdisagg.errors import StartupError

__all__ = ["Link", "Transport", "check_bounds", "name_of", "open_transports"]


@contextmanager
def open_transports(
    names: Sequence[str],
    pool: KvPool,
    *,
    incarnation: str,
    one_host: bool,
    nixl_plugin: str = "UCX",
    host: str = "127.0.0.1",
) -> Iterator[list[Transport]]:
    """Open transports over a pool, best first. Takes seconds with `nixl` and `ucx`.

    :param names: `local`, `nixl`, `ucx`, `mpi`.
    :param incarnation: of our rank; names us to NIXL peers.
    :param one_host: all peers are on this host, as where servers listen on loopback only.
    :param nixl_plugin: what `nixl` uses.
    :param host: where `mpi` listens.
    :raises StartupError: when one of them cannot work here.
    """
    with ExitStack() as stack:
        transports = []
        for name in names:
            transport = _open(name, pool, incarnation, one_host=one_host, nixl_plugin=nixl_plugin, host=host)
            stack.callback(transport.close)
            transports.append(transport)
        yield transports


def _open(name: str, pool: KvPool, incarnation: str, *, one_host: bool, nixl_plugin: str, host: str) -> Transport:
    # Each is imported only where it is used: NIXL is optional, and heavy.
    if name == "local":
        from trtdisagg.cache.transports.local import LocalTransport

        if pool.fd is None:
            raise StartupError(f"transport local: needs the KV pool in host memory, and it is on {pool.device}")
        return LocalTransport(pool)
    if name == "mpi":
        from trtdisagg.cache.transports.mpi import MpiTransport

        return MpiTransport.open(pool, host)
    if name == "nixl":
        from trtdisagg.cache.transports.nixl import NixlTransport

        agent = NixlTransport(pool, f"{incarnation}/nixl", one_host=one_host, plugin=nixl_plugin)
    elif name == "ucx":
        from trtdisagg.cache.transports.ucx import UcxTransport

        agent = UcxTransport(pool, f"{incarnation}/ucx", one_host=one_host)
    else:
        raise StartupError(f"there is no transport {name}; there are local, nixl, ucx and mpi")
    try:
        agent.open()
    except StartupError:
        agent.close()
        raise
    return agent
