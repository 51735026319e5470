"""Servers that join: names, addresses and roles of their own, whatever the file says of its own cluster."""

from __future__ import annotations

import os
from typing import Any

import pytest
from helpers.plans import FAKE_ENGINE

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.proxy_spec import RegistrySpec
from trtdisagg.protocol.spec import EngineSpec, Role
from trtdisagg.supervisor.join_plan import Joining, check_host, plan_join
from trtdisagg.supervisor.plan import Plan


def plan(role: Role = "generation", num: int = 1, **fields: Any) -> Plan:
    section = ServerSection(command=FAKE_ENGINE, urls=["127.0.0.1:81", "127.0.0.1:82"], num_instances=2)
    other = ServerSection(command=FAKE_ENGINE, max_batch_size=7)
    cluster = ClusterFile(model="m", context_servers=other, generation_servers=section, port=8000)
    given: dict[str, Any] = {
        "host": "localhost",
        "name": "generation-hx-9",
        "cluster": "c",
        "registry": RegistrySpec(uri="http://localhost:8000"),
        "secret_file": None,
    }
    return plan_join(cluster, Joining(role=role, num=num, **{**given, **fields}), file=None)


def test_as_many_as_asked_for_under_names_of_their_own() -> None:
    made = plan(num=3)
    assert [s.name for s in made.servers] == [f"generation-hx-9-{i}" for i in range(3)]
    assert [s.spec.name for s in made.servers if isinstance(s.spec, EngineSpec)] == [s.name for s in made.servers]
    assert {(s.role, s.spec.host, s.spec.port) for s in made.servers} == {("generation", "127.0.0.1", 0)}
    assert (made.proxy, made.registry, made.makes_secret) == (None, RegistrySpec(uri="http://localhost:8000"), False)
    assert {s.spec.cluster for s in made.servers} == {"c"}


def test_the_section_of_the_role_counts() -> None:
    (server,) = plan("context").servers
    assert isinstance(server.spec, EngineSpec)
    assert (server.role, server.spec.role, server.spec.max_batch_size) == ("context", "context", 7)


def test_both_roles_hand_over_too() -> None:
    made = plan("both", num=2)
    specs = [s.spec for s in made.servers if isinstance(s.spec, EngineSpec)]
    assert {spec.role for spec in specs} == {"both"}
    assert all(spec.transfer.transports for spec in specs)


def test_an_address_that_others_reach_wants_a_secret(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="secret"):
        plan(host="192.0.2.7")
    secret = tmp_path / "secret"
    secret.write_text("s")
    os.chmod(secret, 0o600)
    made = plan(host="192.0.2.7", secret_file=str(secret))
    assert made.servers[0].spec.host == "192.0.2.7"
    assert made.secret_file == str(secret)


def test_every_address_is_none() -> None:
    with pytest.raises(ConfigError, match="name the one that others are to use"):
        check_host("0.0.0.0")
