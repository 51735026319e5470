from __future__ import annotations

import os
import socket

import psutil
import pytest
from helpers.ports import free_port

from trtdisagg.net import holder, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_what_only_this_machine_can_reach(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "fe80::1%eth0", "node7", ""])
def test_what_others_can_reach(host: str) -> None:
    assert not is_loopback(host)


def test_who_has_a_port() -> None:
    with socket.create_server(("127.0.0.1", port := free_port())):
        assert holder(port).startswith(f"pid {os.getpid()} (")
    assert holder(port) == "a process of another user"


def test_a_machine_that_does_not_say_who(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert holder(80) == "a process of another user"
