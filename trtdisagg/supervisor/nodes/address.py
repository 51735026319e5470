"""The address at which other nodes reach this one."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Sequence

import psutil

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.net import address_towards, is_loopback


def own_address(here: str, others: Sequence[str], network: str | None = None) -> str:
    """
    :param here: this node's name.
    :param others: those of other nodes.
    :param network: an interface (`ib0`) or a network (`10.1.0.0/16`) that it is to be on; None: the one that this
        node's name means, or else the one on the way to another node.
    :raises ConfigError: there is no address on that network.
    :raises StartupError: none is known.
    """
    if network is not None:
        return _on_network(network)
    mine = {address for addresses in _interfaces().values() for address in addresses}
    for address in (*_meanings(here), *(way for other in others if (way := _on_the_way(other)))):
        if address in mine and not is_loopback(address):
            return address
    raise StartupError(
        f"no address of {here} is known that other nodes could reach: its name means none of "
        f"{', '.join(sorted(mine))}, and the others' names lead nowhere; name an interface or a network with --network"
    )


def _on_network(network: str) -> str:
    interfaces = _interfaces()
    if network in interfaces:
        found = interfaces[network]
    else:
        try:
            wanted = ipaddress.ip_network(network, strict=False)
        except ValueError:
            names = ", ".join(sorted(interfaces))
            raise ConfigError(f"--network {network}: is no network, nor an interface of this node: {names}") from None
        found = [a for addresses in interfaces.values() for a in addresses if ipaddress.ip_address(a) in wanted]
    if not found:
        raise ConfigError(f"--network {network}: this node ({socket.gethostname()}) has no address there")
    return found[0]


def _interfaces() -> dict[str, list[str]]:
    """Addresses by interface, those of IPv4 first; without those that mean something on one link alone."""
    found = {}
    for name, addresses in psutil.net_if_addrs().items():
        kinds = [[a.address for a in addresses if a.family == kind] for kind in (socket.AF_INET, socket.AF_INET6)]
        found[name] = [address for kind in kinds for address in kind if "%" not in address]
    return found


def _meanings(name: str) -> Iterator[str]:
    try:
        for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            yield str(info[4][0])
    except OSError:
        return


def _on_the_way(other: str) -> str | None:
    """Our address on the way to another node."""
    for address in _meanings(other):
        with contextlib.suppress(OSError):
            return address_towards(address)
    return None
