"""Where Prometheus finds the servers' own `/metrics`: their addresses, in the form of its `http_sd_configs`.

Ports of servers are chosen when they start, and servers come and go: a list in a file would be wrong tomorrow.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trtdisagg.protocol.control import Member

PATH = "/metrics/targets"


class Target(msgspec.Struct, frozen=True):
    targets: list[str]
    """host:port"""
    labels: dict[str, str]
    """Beside those that the server's own series have: it names itself and its model."""


def targets(members: Iterable[Member], cluster: str) -> list[Target]:
    """A target for each server of ours."""
    return [Target([m.url], {"cluster": cluster}) for m in members if m.wire_version is not None]
