"""A cluster of this user on this host, found by the address at which servers register with it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from trtdisagg.config.load import load
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.uri import ClusterUri
from trtdisagg.errors import ConfigError, NotRunningError, StartupError
from trtdisagg.net import split_address
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.host import discover
from trtdisagg.supervisor.place import Place


class Nearby(msgspec.Struct, frozen=True):
    """What can be known of it without being told."""

    file: Path | None
    secret_file: Path | None


def find_nearby(uri: ClusterUri, text: str) -> Nearby | None:
    """
    :param text: the uri as it was written.
    """
    for place in rundir.find_running():
        with contextlib.suppress(NotRunningError, StartupError, msgspec.DecodeError):
            status = ControlClient(place).status()
            file = Path(status.file) if status.file else None
            cluster = _read(file)
            heads = any(server.role == "proxy" for server in status.servers)
            if heads and _is_meant(uri, text, status.url, cluster):
                return Nearby(file, _secret(place, file, cluster))
    return None


def _read(file: Path | None) -> ClusterFile | None:
    if file is not None:
        with contextlib.suppress(ConfigError):  # edited, or gone, since the start
            return load(file).cluster
    return None


def _is_meant(uri: ClusterUri, text: str, url: str, cluster: ClusterFile | None) -> bool:
    if uri.kind == "etcd":
        return cluster is not None and cluster.disagg_cluster.cluster_uri == text
    host, port = split_address(uri.endpoints[0].partition("://")[2])
    return port == split_address(url.partition("://")[2])[1] and is_here(host)


def is_here(host: str) -> bool:
    """Whether an address is one of this machine's."""
    return host == "localhost" or host in discover([host]).local_names


def _secret(place: Place, file: Path | None, cluster: ClusterFile | None) -> Path | None:
    if file is not None and cluster is not None and cluster.secret_file is not None:
        return (file.parent / Path(cluster.secret_file).expanduser()).absolute()
    return place.secret_file if place.secret_file.exists() else None
