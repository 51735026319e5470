"""Which endpoint a load is put on, and what it runs on: the cluster here, or any other."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from trtdisagg.cli.find import find_cluster
from trtdisagg.errors import ConfigError, NotRunningError, TrtdisaggError
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.client import ControlClient

DEFAULT_URL = "http://localhost:8000"
_LOOPBACK = ("localhost", "::1")
_GONE = ("stopped", "failed")


class Target(NamedTuple):
    """An endpoint.

    :ivar num_gpus: that its servers run on, as far as they are ours; 0, as the other: none, or nobody knows.
    :ivar num_cores: the same, where they have no GPUs.
    """

    url: str
    num_gpus: int = 0
    num_cores: int = 0


def find_target(url: str | None) -> Target:
    """
    :param url: what the user said; None: the cluster that runs here, else the usual place.
    :raises ConfigError: several clusters run.
    """
    if url is not None:
        ours = (_target(status) for status in _running() if _is_at(status, url))
        return next(ours, Target(url))._replace(url=url)
    try:
        return _target(ControlClient(find_cluster(None)).status())
    except NotRunningError:
        return Target(DEFAULT_URL)
    except ConfigError:
        urls = ", ".join(sorted(status.url for status in _running()))
        raise ConfigError(f"several clusters run: {urls}; name the one you mean with --url") from None


def find_model_path(url: str, model: str | None) -> str | None:
    """Where the files of a model are that a cluster of this host serves at `url`."""
    servers = (s for status in _running() if _is_at(status, url) for s in status.servers)
    return next((s.model_path for s in servers if s.model == model), None)


def _is_at(status: ClusterStatus, url: str) -> bool:
    return _address(status.url) == _address(url)


def _address(url: str) -> tuple[str, int | None]:
    """Host and port, alike for all names of this host's loopback."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return "127.0.0.1" if parts.hostname in _LOOPBACK else parts.hostname or "", parts.port
    except ValueError:  # whoever asks there says why
        return url, None


def _running() -> list[ClusterStatus]:
    found = []
    for place in rundir.find_running():
        try:
            found.append(ControlClient(place).status())
        except TrtdisaggError:  # it ends, or hangs: its size is nobody's concern
            continue
    return found


def _target(status: ClusterStatus) -> Target:
    """Servers may share a GPU or a core; those of different nodes have the same numbers. What servers of others run on
    is not known, so nothing is, where there are any."""
    if status.others:
        return Target(status.url)
    gpus: set[tuple[str, str]] = set()
    cores: set[tuple[str, int]] = set()
    for server in status.servers:
        if server.role == "proxy" or server.state in _GONE:
            continue
        nodes = server.nodes or [""]
        gpus |= {(nodes[rank] if rank < len(nodes) else nodes[-1], gpu) for rank, gpu in enumerate(server.gpus)}
        cores |= {(nodes[0], core) for core in server.cores}
    return Target(status.url, num_gpus=len(gpus), num_cores=0 if gpus else len(cores))
