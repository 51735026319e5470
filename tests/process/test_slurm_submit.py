"""`trtdisagg slurm submit` on a real Slurm: the folder of a run from its beginning to each of its ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cluster import REPOSITORY
from helpers.slurm import Slurm, needs_slurm, slurm

pytestmark = [*needs_slurm]

FILE = f"""\
name: c
model: fake-model
hostname: 0.0.0.0
port: 8000
command: {[sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py"), "--token-delay-ms", "50"]}
supervision: {{drain_timeout_s: 60, kill_timeout_s: 2, node_timeout_s: 5}}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 1}}
slurm: {{nodes: 2, cpus_per_task: 4, setup: ["export SET_UP=yes"], env: {{A: b c}}}}
"""
URL = "http://node01:8000"
BODY = {"model": "fake-model", "prompt": "hello", "max_tokens": 40, "stream": True}


@pytest.fixture(scope="module")
def box() -> Iterator[Slurm]:
    with slurm(2) as it:
        (it.directory / "cluster.yaml").write_text(FILE)
        yield it


class Submitted:
    """A job that serves."""

    def __init__(self, box: Slurm) -> None:
        self.box = box
        done = box.try_("trtdisagg", "slurm", "submit", "cluster.yaml", "--wait-timeout", "90")
        self.said = done.stderr
        assert (done.returncode, done.stdout) == (0, f"{URL}\n"), done.stderr + self.logs()
        self.id = (self.folder / "job-id").read_text().strip()

    @property
    def folder(self) -> Path:
        """Of the last run."""
        return max((self.box.directory / "slurm-runs").iterdir())

    def there(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def logs(self) -> str:
        return "".join(f"\n--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("logs/*")))

    def until_over(self) -> str:
        """:returns: its state, when nothing of it runs any more."""
        state = self.box.until_over(self.id)
        assert self.box.processes() == [], self.logs()
        return state


def stream(box: Slurm) -> subprocess.Popen[str]:
    """A client on the other node, whose answer takes some 2 s."""
    url = f"http://{box.nodes['node01'].address}:8000/v1/completions"
    argv = [*box.nodes["node02"].prefix, "curl", "--silent", "--no-buffer", "--json", json.dumps(BODY), url]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_a_cluster_on_two_nodes_serves_until_it_is_drained(box: Slurm) -> None:
    job = Submitted(box)
    assert re.search(rf"job {job.id}: running$", job.said, flags=re.MULTILINE), job.said
    assert box.processes("node01", having="fakes/engine.py")
    assert box.processes("node02", having="fakes/engine.py")
    with stream(box) as answer:
        assert answer.stdout is not None
        first = answer.stdout.readline()
        box.ask("scancel", "--batch", "--signal=TERM", job.id)
        rest, _ = answer.communicate(timeout=90)
    assert first.startswith("data: ")
    assert rest.endswith("data: [DONE]\n\n"), "a request that runs is finished"
    assert job.until_over() == "COMPLETED", job.logs()
    assert job.there() == {"cluster.yaml", "job.sbatch", "job-id", "logs", "exit-code"}, "it has no url any more"
    assert (job.folder / "exit-code").read_text() == "0\n"
    assert {path.name for path in (job.folder / "logs").iterdir()} == {"job.log", "0.log", "1.log"}


def test_a_cluster_whose_first_task_is_killed_has_failed(box: Slurm) -> None:
    job = Submitted(box)
    status = box.try_("trtdisagg", "status", str(job.folder / "cluster.yaml"), "--json", on="node01")
    os.kill(json.loads(status.stdout)["agent_pid"], signal.SIGKILL)
    assert job.until_over() == "FAILED", job.logs()
    assert "exit-code" not in job.there()
    assert "url" not in job.there()
    assert "it was killed, or never began. srun: exit code 137" in job.logs()
