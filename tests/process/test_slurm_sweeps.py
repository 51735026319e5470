"""A sweep on a real Slurm: a job for each variant, of which one is on two nodes and one cannot start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from helpers.cluster import REPOSITORY, TRTDISAGG
from helpers.slurm import needs_slurm, slurm

pytestmark = [*needs_slurm]

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
CLUSTER = f"""\
model: fake
command: {FAKE}
context_servers: {{}}
generation_servers: {{}}
slurm: {{cpus_per_task: 2, time: "5", program: {TRTDISAGG}}}
"""
SWEEP = """\
cluster: cluster.yaml
variants:
- {name: 1p1d, set: {slurm.nodes: 2}}
- {name: broken, set: {generation_servers.cores: [9999]}}
concurrencies: [1, 4]
load: {isl: 16, osl: 8, rounds: 1}
"""


def test_each_variant_is_measured_in_a_job_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    out = tmp_path / "out"
    with slurm(2) as box:
        words = ["sweep", str(tmp_path / "sweep.yaml"), "--dir", str(out)]
        done = box.try_(*TRTDISAGG, "slurm", *words, timeout_s=200)
        logs = "".join(f"\n--- {file}\n{file.read_text()}" for file in sorted(out.rglob("*.log")))
        assert done.returncode == 1, done.stdout + done.stderr + logs
        assert box.processes() == []
    assert "broken, all that is missing: job" in done.stderr, done.stderr
    assert "there is no CPU core 9999" in done.stderr
    for cell, num_prompts in (("c001", 1), ("c004", 4)):
        report = json.loads((out / "1p1d" / cell / "report.json").read_text())
        assert report["completed"] == num_prompts
        assert report["num_cores"] > 0
    ran = json.loads((out / "1p1d" / "run.json").read_text())
    assert ran["machine"]["host"].startswith("node")
    assert [server.rpartition(" of ")[2] for server in ran["servers"]] == ["node01", "node02"]
    assert (out / "report.html").exists()
    assert not list(out.rglob("url")), "nothing serves any more"
