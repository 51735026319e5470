"""What /health and /cluster_info say of a roster."""

from __future__ import annotations

from typing import Any

import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ProxySpec, RegistrySpec
from trtdisagg.proxy.members.readiness import cluster_info, health
from trtdisagg.registry.members import Roster

MEMBERS = {
    "context-0": Member(name="context-0", role="context", model="m", url="127.0.0.1:1"),
    "generation-0": Member(name="generation-0", role="generation", model="m", url="[::1]:2"),
    "both-0": Member(name="both-0", role="both", model="m", url="h:3"),
}


def roster(*names: str) -> Roster:
    made = Roster()
    made.replace("test", [MEMBERS[name] for name in names], needs={"m": ["context", "generation"]})
    return made


def spec(**minimal: int) -> ProxySpec:
    return ProxySpec(cluster="c", registry=RegistrySpec(uri="http://h:1", minimal_instances=minimal))


@pytest.mark.parametrize(
    ("names", "minimal", "status", "body"),
    [
        (("context-0", "generation-0"), {}, 200, {"status": "ok"}),
        (("context-0", "generation-0"), {"context": 1, "generation": 1}, 200, {"status": "ok"}),
        (
            ("context-0", "generation-0"),
            {"generation": 2},
            503,
            {"status": "unavailable", "missing": ["1 of at least 2 generation servers"]},
        ),
        (("context-0", "generation-0", "both-0"), {"generation": 2, "context": 2}, 200, {"status": "ok"}),
        (
            ("generation-0",),
            {"context": 1},
            503,
            {"status": "starting", "missing": ["no context server for m", "0 of at least 1 context servers"]},
        ),
    ],
)
def test_health(names: tuple[str, ...], minimal: dict[str, int], status: int, body: dict[str, Any]) -> None:
    assert health(spec(**minimal), roster(*names), 0.0, draining=False) == (status, body)


def test_a_proxy_that_drains_is_not_ready() -> None:
    full = roster("context-0", "generation-0")
    assert health(spec(), full, 0.0, draining=True) == (503, {"status": "draining"})


def test_cluster_info_is_in_upstreams_form() -> None:
    assert cluster_info(spec(generation=3), roster("context-0", "generation-0", "both-0")) == {
        "is_ready": False,
        "current_workers": {
            "context_servers": [
                {"worker_id": "context-0", "host": "127.0.0.1", "port": 1, "role": 0},
                {"worker_id": "both-0", "host": "h", "port": 3, "role": 0},
            ],
            "generation_servers": [
                {"worker_id": "generation-0", "host": "::1", "port": 2, "role": 1},
                {"worker_id": "both-0", "host": "h", "port": 3, "role": 1},
            ],
        },
        "minimal_instances": {"context_servers": 0, "generation_servers": 3},
    }
    assert cluster_info(ProxySpec(cluster="c"), roster("both-0"))["is_ready"]


def test_a_server_of_several_models_is_one() -> None:
    made = Roster()
    made.replace("test", [Member(name="both-0", role="both", model=m, url="h:1") for m in ("a", "b")])
    assert not cluster_info(spec(generation=2), made)["is_ready"]
    assert len(cluster_info(spec(), made)["current_workers"]["generation_servers"]) == 1
