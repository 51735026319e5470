"""A rank under a profiler that starts it as a child of its own, as nsys does."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
from helpers.cluster import REPOSITORY, Cluster

FILE = f"""\
name: profiled
model: fake-model
port: 0
command: {[sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]}
generation_servers: {{num_instances: 1}}
profile: {{servers: [generation-0], args: [--trace=cuda]}}
"""
NSYS = """\
#!/bin/bash
for word; do [[ $word == --output=* ]] && report=${word#--output=}; done
while [[ $1 == profile || $1 == --* ]]; do shift; done
trap : TERM
"$@" &
wait $!
wait $!
echo "exit code $?" > "$report.nsys-rep"
"""


def test_a_rank_lives_under_its_profiler_which_writes_a_report(tmp_path: Path) -> None:
    nsys = tmp_path / "bin" / "nsys"
    nsys.parent.mkdir()
    nsys.write_text(NSYS)
    nsys.chmod(0o755)
    cluster = Cluster(tmp_path, FILE)
    cluster.env["PATH"] = f"{nsys.parent}:{cluster.env['PATH']}"
    cluster.up()
    try:
        (engine,) = psutil.Process(cluster.server("generation-0")["pid"]).children()
        assert "--spec" in engine.cmdline()
    finally:
        down = cluster.down("-t", "10")
    assert down.returncode == 0, down.stderr
    (report,) = (tmp_path / "profiles").iterdir()
    assert report.name.endswith(".generation-0.1.rank0.nsys-rep")
    assert report.read_text() == "exit code 0\n"
    assert cluster.left_over() == []
