"""Reads a `cluster_uri`: where servers register.

http://host:port                  inside the proxy that listens there; `https`, where it has a certificate
etcd://host:port[,host:port ...]  etcd, one or more of its members; `etcds` with TLS
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

ETCD_PORT = 2379

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/@?#,\[\]]+)(:(?P<port>\d{1,5}))?/?")


class ClusterUri(msgspec.Struct, frozen=True):
    """A `cluster_uri` that holds together."""

    kind: Literal["proxy", "etcd"]
    endpoints: tuple[str, ...]
    """Base URLs: `http://host:port` or `https://host:port`."""


def parse_uri(text: str) -> ClusterUri:
    """
    :raises ValueError: with what is wrong, as the end of a sentence that begins with the key's name.
    """
    scheme, found, _ = text.partition("://")
    if not found or scheme not in ("http", "https", "etcd", "etcds"):
        raise ValueError(
            f"expected http://HOST:PORT, https://HOST:PORT, etcd://HOST:PORT or etcds://HOST:PORT, got {text!r}"
        )
    addresses = [part.removeprefix(f"{scheme}://") for part in text.removeprefix(f"{scheme}://").split(",")]
    if scheme in ("http", "https"):
        if len(addresses) > 1:
            raise ValueError(f"names several proxies: {text!r}; servers register with one")
        return ClusterUri("proxy", (_base(addresses[0], scheme, None),))
    return ClusterUri("etcd", tuple(_base(a, "https" if scheme == "etcds" else "http", ETCD_PORT) for a in addresses))


def _base(address: str, scheme: str, default_port: int | None) -> str:
    matched = _ADDRESS.fullmatch(address)
    port = int(matched["port"] or default_port or 0) if matched else 0
    if matched is None or not 0 < port <= 65535:
        raise ValueError(f"expected host:port, got {address!r}")
    return f"{scheme}://{matched['host']}:{port}"
