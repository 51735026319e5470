"""Where an agent registers its servers, and which of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.plans import cluster_file, plan_of
from msgspec.structs import replace

from trtdisagg.config.supervisor_keys import DisaggCluster
from trtdisagg.config.uri import parse_uri
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import MetadataSpec, RegistrySpec
from trtdisagg.supervisor.membership import _is_for_others, registrar_for, with_whole_paths


def test_a_cluster_without_a_registry_registers_nothing() -> None:
    assert registrar_for(plan_of(cluster_file()), print) is None


@pytest.mark.parametrize(
    ("uri", "with_proxy", "registers"),
    [
        ("http://localhost:8000", True, False),
        ("http://localhost:8000", False, True),
        ("etcd://localhost", True, True),
        ("etcd://localhost", False, True),
    ],
)
def test_our_own_proxy_is_told_otherwise(uri: str, with_proxy: bool, registers: bool) -> None:
    plan = plan_of(cluster_file(), with_proxy=with_proxy)
    assert (registrar_for(replace(plan, registry=RegistrySpec(uri=uri)), print) is not None) is registers


def test_the_older_way() -> None:
    plan = replace(plan_of(cluster_file()), metadata=MetadataSpec(uri="etcd://localhost:1"))
    assert registrar_for(plan, print) is not None


@pytest.mark.parametrize(
    ("uri", "url", "is_for_others"),
    [
        ("etcd://localhost", "127.0.0.1:81", True),
        ("etcd://127.0.0.1,[::1]:7", "[::1]:81", True),
        ("etcd://192.0.2.1", "127.0.0.1:81", False),
        ("etcd://192.0.2.1", "[::1]:81", False),
        ("etcd://192.0.2.1", "192.0.2.7:81", True),
        ("http://192.0.2.1:8000", "127.0.0.1:81", False),
    ],
)
def test_a_loopback_address_is_not_for_other_hosts(uri: str, url: str, is_for_others: bool) -> None:
    member = Member(name="a", role="both", model="m", url=url)
    assert _is_for_others(parse_uri(uri), member) is is_for_others


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = with_whole_paths(DisaggCluster(ca_file="ca.pem", password_file="/etc/p"), tmp_path)
    assert (config.ca_file, config.password_file, config.cert_file) == (str(tmp_path / "ca.pem"), "/etc/p", None)
