"""What Prometheus is told of servers."""

from __future__ import annotations

import msgspec
from helpers.records import CONTEXT, GENERATION

from trtdisagg.proxy.records.targets import targets


def test_servers_of_ours_are_told_and_no_others() -> None:
    ours = msgspec.structs.replace(CONTEXT, wire_version=1)
    told = msgspec.to_builtins(targets([ours, GENERATION], "c"))
    assert told == [{"targets": ["h:1"], "labels": {"cluster": "c"}}]
