from __future__ import annotations

import os
import socket

import pytest
from helpers.ports import free_port

from trtdisagg.errors import StartupError
from trtdisagg.supervisor.ports import check_free


def test_a_port_in_use_names_who_has_it() -> None:
    port = free_port()
    words = rf"proxy cannot listen on 127.0.0.1:{port}: .* pid {os.getpid()} \("
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StartupError, match=words):
        check_free("127.0.0.1", port, "proxy")
    check_free("127.0.0.1", port, "proxy")


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(StartupError, match=r"cannot listen on 192.0.2.1:80"):
        check_free("192.0.2.1", 80, "proxy")
    with pytest.raises(StartupError, match=r"cannot listen on no.such.host.invalid"):
        check_free("no.such.host.invalid", 80, "proxy")
