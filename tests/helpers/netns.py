"""Hosts made of network namespaces: each with an address and a loopback of its own, joined by a switch.

    net-PID-switch: br0 --- one port a host, which can be cut
    net-PID-0, net-PID-1, ...: eth0 192.0.2.10, 192.0.2.11, ...

Nothing of the machine's own network is touched. Files are shared, as on a cluster file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

needs_netns = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None or shutil.which("nsenter") is None, reason="iproute2 is missing"),
]
_CLONE_NEWNET = 0x40000000
T = TypeVar("T")
_count = itertools.count()
_FETCH = """
import json, sys, urllib.request, urllib.error
url, body = sys.argv[1], sys.argv[2].encode() or None
try:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        print(json.dumps([answer.status, json.load(answer)]))
except urllib.error.HTTPError as e:
    print(json.dumps([e.code, json.load(e)]))
except OSError as e:
    print(json.dumps([0, str(e)]))
"""


class Host:
    """One of them.

    :ivar prefix: what runs a command there.
    """

    def __init__(self, net: str, number: int) -> None:
        self.name = f"{net}-{number}"
        self.address = f"192.0.2.{10 + number}"
        self.prefix = ["nsenter", f"--net=/run/netns/{self.name}"]
        self._switch, self._port = f"{net}-switch", f"port{number}"

    def cut(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def mend(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "up")

    def inside(self, act: Callable[[], T]) -> T:
        """What `act` gives in a thread of this process whose sockets are this host's."""
        with ThreadPoolExecutor(1, initializer=self._enter) as thread:
            return thread.submit(act).result(60)

    def _enter(self) -> None:
        with Path(f"/run/netns/{self.name}").open() as net:
            assert ctypes.CDLL(None, use_errno=True).setns(net.fileno(), _CLONE_NEWNET) == 0, ctypes.get_errno()

    def fetch(self, url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Ask from this host; status 0: there was no answer."""
        argv = [*self.prefix, sys.executable, "-c", _FETCH, url, json.dumps(body) if body else ""]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=True)
        status, answer = json.loads(done.stdout)
        return status, answer


@contextlib.contextmanager
def hosts(num: int) -> Iterator[list[Host]]:
    """So many hosts that reach each other; gone at the end."""
    net = f"net-{os.getpid()}-{next(_count)}"
    names: list[str] = []
    try:
        switch = f"{net}-switch"
        _add(names, switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        made = [Host(net, i) for i in range(num)]
        for i, host in enumerate(made):
            _add(names, host.name)
            peer = ("peer", "name", "eth0", "netns", host.name)
            _ip("-n", switch, "link", "add", f"port{i}", "type", "veth", *peer)
            _ip("-n", switch, "link", "set", f"port{i}", "master", "br0", "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", host.name, "link", "set", device, "up")
        yield made
    finally:
        for name in reversed(names):
            _ip("netns", "delete", name)


def _add(names: list[str], name: str) -> None:
    try:
        _ip("netns", "add", name)
    except AssertionError as e:
        pytest.skip(f"network namespaces cannot be made here: {e}")
    names.append(name)


def _ip(*words: str) -> None:
    argv: Sequence[str] = ["ip", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
