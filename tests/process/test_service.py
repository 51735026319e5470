"""A cluster as a service: what its service manager hears, and what its processes must not."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.agents import fake_plan, running_agent
from helpers.cluster import TRTDISAGG, Cluster, post
from helpers.notify import Ear, listening
from helpers.plans import FAKE_ENGINE
from helpers.ports import free_port

from trtdisagg.supervisor.notify import VARIABLES
from trtdisagg.supervisor.place import Place

WATCHDOG_S = 0.6
REQUEST = {"model": "fake", "prompt": "hello", "max_tokens": 3}


class Service(Cluster):
    """A cluster in the foreground, started as systemd would start it."""

    def __init__(self, directory: Path, ear: Ear, *misbehaviour: str) -> None:
        self.port = free_port()
        super().__init__(
            directory,
            f"name: service\nmodel: fake\nport: {self.port}\ncommand: {[*FAKE_ENGINE, *misbehaviour]}\n"
            "context_servers: {}\ngeneration_servers: {}\n",
        )
        watchdog = {"WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}
        self.process = subprocess.Popen(
            [*TRTDISAGG, "up", str(self.file), "--no-tui"],
            env={**self.env, "NOTIFY_SOCKET": ear.address, **watchdog},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )

    def ask(self) -> int:
        return post(f"http://127.0.0.1:{self.port}/v1/completions", REQUEST)[0]


def tell(url: str) -> None:
    urllib.request.urlopen(url, data=b"", timeout=60).close()


@contextlib.contextmanager
def service(directory: Path, *misbehaviour: str) -> Iterator[tuple[Service, Ear]]:
    """A service and who hears it; in the end nothing of it is left."""
    with listening(directory) as ear:
        it = Service(directory, ear, *misbehaviour)
        with it.process:
            try:
                yield it, ear
            finally:
                it.process.kill()
        assert it.left_over() == []


def test_a_service_from_its_start_to_its_end(tmp_path: Path) -> None:
    """Ready when it can serve and not before; alive all the time, also while it drains; its end is no failure."""
    with service(tmp_path) as (it, ear), concurrent.futures.ThreadPoolExecutor(1) as client:
        ear.until("READY=1")
        assert "STATUS=starting: 0 of 2 servers ready" in ear.heard
        assert "EXTEND_TIMEOUT_USEC=30000000" in ear.heard
        assert it.ask() == 200
        assert ear.until("WATCHDOG=1")
        generation = f"http://{it.server('generation-0')['url']}"
        tell(f"{generation}/fake/hold")
        answer = client.submit(it.ask)
        assert ear.until("STATUS=2 of 2 servers ready, 1 request")
        assert "STOPPING=1" not in ear.heard

        it.process.send_signal(signal.SIGTERM)
        assert ear.until("STOPPING=1")
        assert ear.until("EXTEND_TIMEOUT_USEC=")
        assert ear.until("WATCHDOG=1")
        assert not answer.done()
        tell(f"{generation}/fake/go")
        assert answer.result(60) == 200
        assert it.process.wait(60) == 0
        heard = ear.rest()
        assert heard.count("READY=1") == heard.count("STOPPING=1") == 1
        assert [line for line in heard if line.startswith("STATUS=")][-1].startswith("STATUS=stopping: SIGTERM, ")


def test_a_service_reloads(tmp_path: Path) -> None:
    with service(tmp_path) as (it, ear):
        ear.until("READY=1")
        it.process.send_signal(signal.SIGHUP)
        ear.until("RELOADING=1")
        ear.until("READY=1")
        assert it.ask() == 200
        assert "STOPPING=1" not in ear.rest()
        it.process.send_signal(signal.SIGTERM)
        assert it.process.wait(60) == 0


def test_a_service_that_does_not_come_up_is_never_ready(tmp_path: Path) -> None:
    with service(tmp_path, "--fail-for-good") as (it, ear):
        assert it.process.wait(60) == 1
        heard = ear.rest()
        assert "READY=1" not in heard
        assert "STOPPING=1" in heard
        assert any(re.match(r"STATUS=failed: \S+ did not start: cannot load the weights", line) for line in heard), (
            heard
        )


@pytest.mark.anyio
async def test_no_process_of_ours_inherits_what_the_agent_is_told(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guardian least of all: it lives on for a moment when the agent is killed."""
    with listening(tmp_path) as ear:
        for variable in VARIABLES:
            monkeypatch.setenv(variable, ear.address)
        async with running_agent(fake_plan(with_proxy=True), place) as agent:
            await agent.until_ready()
            children = psutil.Process().children(recursive=True)
            assert len(children) == 4, "guardian, proxy, two servers"
            for child in children:
                assert not VARIABLES & child.environ().keys(), child.cmdline()
