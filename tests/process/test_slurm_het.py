"""A heterogeneous job on a real Slurm."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from helpers.cluster import REPOSITORY, TRTDISAGG
from helpers.ports import free_port
from helpers.slurm import Slurm, needs_slurm, slurm
from helpers.waiting import until

pytestmark = [*needs_slurm]

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]


def ask(box: Slurm, node: str, port: int) -> str:
    """A completion, asked for on a node."""
    body = '{"model": "fake", "prompt": "a", "max_tokens": 2}'
    words = ["-s", "-f", "-H", "Content-Type: application/json", "-d", body]
    return box.try_("curl", *words, f"http://127.0.0.1:{port}/v1/completions", on=node).stdout


def test_unlike_parts_of_a_job_are_one_cluster(tmp_path: Path) -> None:
    """A part of one node with two tasks, and one of two nodes with a task each."""
    port = free_port()
    file, log = tmp_path / "cluster.yaml", tmp_path / "up.log"
    file.write_text(
        f"model: fake\nport: {port}\ncommand: {FAKE}\n"
        "context_servers: {num_instances: 2}\ngeneration_servers: {num_instances: 1}\n"
    )
    script = f"""#!/bin/bash
#SBATCH -N1 -n2 --ntasks-per-node=2
#SBATCH hetjob
#SBATCH -N2 -n2 --ntasks-per-node=1
srun --het-group=0,1 {shlex.join(TRTDISAGG)} up --srun {file} > {log} 2>&1
"""
    with slurm(3) as box:
        job = box.submit(script)
        until(
            lambda: bool(ask(box, "node01", port)), "it serves", instead=lambda: log.read_text() if log.exists() else ""
        )
        assert [len(box.processes(node, having="fakes/engine.py")) for node in box.nodes] == [1, 1, 1]
        down = box.try_(*TRTDISAGG, "down", str(file), on="node01")
        assert down.returncode == 0, down.stderr + log.read_text()
        assert box.until_over(job).split() == ["COMPLETED"] * 2, log.read_text()
        assert box.processes() == []
