"""What must hold in `disagg_cluster`, beyond the type of each key."""

from __future__ import annotations

from collections.abc import Iterator

from trtdisagg.config.located import Located
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.supervisor_keys import DisaggCluster
from trtdisagg.config.uri import parse_uri
from trtdisagg.errors import ConfigError

_KEY = "disagg_cluster"


def check_registry(cluster: ClusterFile, root: Located) -> None:
    """
    :param root: the same file with places.
    :raises ConfigError: with the line and path of what does not fit.
    """
    for key, message in _faults(cluster, cluster.disagg_cluster):
        path = f"{_KEY}.{key}"
        raise ConfigError(f"{root.at(path).place}: {path}: {message}")


def _faults(cluster: ClusterFile, config: DisaggCluster) -> Iterator[tuple[str, str]]:
    if config.heartbeat_interval_sec >= config.inactive_timeout_sec:
        yield "heartbeat_interval_sec", "must be shorter than inactive_timeout_sec, or every lease ends between two"
    if "/" in config.cluster_name:
        yield "cluster_name", f"{config.cluster_name!r}: no slash, it is one part of a key"
    if config.cluster_uri is None:
        yield from _useless(
            config, ("user", "password_file", "ca_file", "cert_file", "key_file"), "there is no cluster_uri"
        )
        return
    try:
        uri = parse_uri(config.cluster_uri)
    except ValueError as e:
        yield "cluster_uri", str(e)
        return
    if uri.kind == "proxy":
        yield from _faults_of_proxy(cluster, uri.endpoints[0])
        yield from _useless(config, ("user", "password_file", "cert_file", "key_file"), "it is for etcd")
        if uri.endpoints[0].startswith("http:"):
            yield from _useless(config, ("ca_file",), "TLS is for https:// and etcds://")
    elif not uri.endpoints[0].startswith("https"):
        yield from _useless(config, ("ca_file", "cert_file", "key_file"), "TLS is for etcds://")
    if (config.user is None) != (config.password_file is None):
        yield ("password_file", "without a user") if config.user is None else ("user", "without a password_file")
    if (config.cert_file is None) != (config.key_file is None):
        yield ("key_file", "without a cert_file") if config.cert_file is None else ("cert_file", "without a key_file")


def _faults_of_proxy(cluster: ClusterFile, url: str) -> Iterator[tuple[str, str]]:
    if cluster.proxy.tls is not None and url.startswith("http:"):
        yield "cluster_uri", f"the proxy, in which servers register, has `tls`: https{url.removeprefix('http')}"
    port = int(url.rpartition(":")[2])
    if cluster.port not in (0, port):
        yield "cluster_uri", f"port {port}, but the proxy, in which servers register, has {cluster.port}"


def _useless(config: DisaggCluster, keys: tuple[str, ...], because: str) -> Iterator[tuple[str, str]]:
    for key in keys:
        if getattr(config, key) is not None:
            yield key, f"would change nothing: {because}"
