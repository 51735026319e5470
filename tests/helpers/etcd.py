"""A real etcd of a test's own: started, killed, brought back on the same data, frozen."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S

from trtdisagg.registry.etcd_gateway import Gateway

needs_etcd = [pytest.mark.etcd, pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed")]


def with_etcd(test: Any) -> Any:
    """Marks one test as one that needs etcd."""
    for mark in needs_etcd:
        test = mark(test)
    return test


class Etcd:
    """
    :param directory: for its data and log.
    :param inside: a command that runs it elsewhere, as in another network namespace.
    :param tls: with a certificate that it makes for itself, in `ca_file`.
    :ivar uri: as in a cluster file.
    """

    def __init__(
        self, directory: Path, *, host: str = "127.0.0.1", inside: Sequence[str] = (), tls: bool = False
    ) -> None:
        self._directory = directory
        self._inside = list(inside)
        self._port, self._peer_port = free_port(), free_port()
        scheme = "https" if tls else "http"
        self._url, peer_url = f"{scheme}://{host}:{self._port}", f"http://{host}:{self._peer_port}"
        self.uri = f"etcd{'s' if tls else ''}://{host}:{self._port}"
        self.ca_file = directory / "etcd" / "fixtures" / "client" / "cert.pem"
        self._argv = [
            *("etcd", "--name=test", f"--data-dir={directory}/etcd", "--heartbeat-interval=100"),
            *(f"--listen-client-urls={self._url}", f"--advertise-client-urls={self._url}"),
            *(f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}"),
            *(f"--initial-cluster=test={peer_url}", "--election-timeout=500", "--logger=zap"),
            *(["--auto-tls"] if tls else []),
        ]
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or bring it back, and wait until it serves."""
        with (self._directory / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen([*self._inside, *self._argv], stdout=log, stderr=log)
        deadline = time.monotonic() + DEADLINE_S
        while not self._is_healthy():
            assert self._process.poll() is None, (self._directory / "etcd.log").read_text()
            assert time.monotonic() < deadline, (self._directory / "etcd.log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """A crash; the data stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def gateway(self) -> Gateway:
        return Gateway([self._url])

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """A call as of another program."""
        request = urllib.request.Request(self._url + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return json.load(answer)

    def _is_healthy(self) -> bool:
        code = f"import urllib.request; print(urllib.request.urlopen({self._url + '/health'!r}, timeout=1).read())"
        if self._inside:
            argv = [*self._inside, sys.executable, "-c", code]
            return b"true" in subprocess.run(argv, capture_output=True, check=False, timeout=DEADLINE_S).stdout
        try:
            trust = ssl.create_default_context(cafile=str(self.ca_file)) if self._tls else None
            with urllib.request.urlopen(f"{self._url}/health", timeout=1, context=trust) as answer:
                return bool(json.load(answer)["health"] == "true")
        except OSError:
            return False


@contextlib.contextmanager
def etcd(directory: Path, **options: Any) -> Iterator[Etcd]:
    """An etcd that serves; gone at the end, whatever was done to it."""
    one = Etcd(directory, **options)
    one.start()
    try:
        yield one
    finally:
        one.kill()
