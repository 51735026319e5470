"""Which address of this machine others are told; names and interfaces are made up."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.nodes.address import own_address

INTERFACES = {
    "lo": [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
    "eth0": [(socket.AF_PACKET, "00:00:00:00:00:01"), (socket.AF_INET6, "fe80::1%eth0"), (socket.AF_INET, "10.0.0.1")],
    "ib0": [(socket.AF_INET6, "fd00::1"), (socket.AF_INET, "10.1.0.1")],
}
NAMES = {"node01": "10.1.0.1", "loops": "127.0.1.1", "strange": "10.9.9.9"}


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    def meaning(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name not in NAMES:
            raise OSError("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES[name], 0))]

    found = {name: [SimpleNamespace(family=f, address=a) for f, a in mine] for name, mine in INTERFACES.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(socket, "getaddrinfo", meaning)


def test_the_address_that_its_name_means() -> None:
    assert own_address("node01", []) == "10.1.0.1"


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("ib0", "10.1.0.1"),
        ("eth0", "10.0.0.1"),
        ("10.0.0.0/16", "10.0.0.1"),
        ("fd00::/64", "fd00::1"),
        ("lo", "127.0.0.1"),
    ],
)
def test_the_one_on_a_network(network: str, address: str) -> None:
    assert own_address("node01", [], network) == address


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("ib1", "ib1: is no network, nor an interface of this node: eth0, ib0, lo"),
        ("10.7.0.0/16", "has no address there"),
    ],
)
def test_no_address_there(network: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        own_address("node01", [], network)


@pytest.mark.parametrize("name", ["loops", "strange", "unknown"])
def test_a_name_that_is_of_no_use(name: str) -> None:
    with pytest.raises(StartupError, match=f"no address of {name} is known .*--network"):
        own_address(name, ["unknown"])
