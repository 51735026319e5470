"""Reads the older file that says where servers register: TensorRT-LLM's `metadata_config.yaml`.

server_type: etcd
hostname: localhost
port: 2379
health_check_timeout: 5.0
refresh_interval: 10.0
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from trtdisagg.config.key_types import Port, Seconds
from trtdisagg.config.located import Located, read
from trtdisagg.config.strict import convert
from trtdisagg.errors import ConfigError
from trtdisagg.net import join_address
from trtdisagg.protocol.proxy_spec import MetadataSpec

MISSPELLED = "refersh_interval"
"""As TensorRT-LLM's own documentation spells it."""


class MetadataFile(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    server_type: Literal["etcd"] = "etcd"
    """What kind of server keeps the registrations."""
    hostname: str = "localhost"
    """Where it listens."""
    port: Port = 2379
    """Where it listens."""
    health_check_timeout: Seconds = 5.0
    """Of one look at a server; two in a row that fail take it out."""
    refresh_interval: Seconds = 10.0
    """Between two looks at the registrations."""


def load_metadata(path: Path) -> tuple[MetadataSpec, list[str]]:
    """
    :returns: also what to tell people: what was understood although it is misspelled.
    :raises ConfigError: with file, line and key.
    """
    root = read(path)
    children, notices = _spelled(root)
    file = convert(root.replace(children), MetadataFile)
    spec = MetadataSpec(
        uri=f"etcd://{join_address(file.hostname, file.port)}",
        health_check_timeout_s=file.health_check_timeout,
        refresh_interval_s=file.refresh_interval,
    )
    return spec, notices


def _spelled(root: Located) -> tuple[dict[str, Located], list[str]]:
    children = dict(root.children)
    wrong = children.pop(MISSPELLED, None)
    if wrong is None:
        return children, []
    if "refresh_interval" in children:
        raise ConfigError(f"{wrong.place}: {MISSPELLED}: means refresh_interval, which stands here, too")
    children["refresh_interval"] = wrong
    return children, [f"{wrong.place}: {MISSPELLED}: is spelled refresh_interval; taken as that"]
