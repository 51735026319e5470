"""Measures what the supervisor costs: a script, because times on a shared machine are figures, not tests.

    python tests/measure_supervisor.py [--servers 64] [--idle 30] [--rounds 3]

Times of day are the best of several rounds; CPU time is counted by the kernel and hardly depends on who else works.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from helpers.cluster import REPOSITORY, TRTDISAGG, Cluster
from helpers.ports import free_port

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
_TICKS_S = os.sysconf("SC_CLK_TCK")


def many(num_servers: int) -> str:
    """A cluster file with so many fake engines, half of them context servers."""
    return f"""\
name: many
model: fake-model
port: {free_port()}
command: {FAKE}
context_servers: {{num_instances: {num_servers // 2}}}
generation_servers: {{num_instances: {num_servers - num_servers // 2}}}
"""


def cpu_s(pid: int) -> float:
    """CPU time of a process since its start, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional set of a process, in 10^6 bytes."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    rss, pss = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("Rss", "Pss"))
    return rss, pss


def wall_s(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def best_s(*args: str, env: dict[str, str], count: int = 9) -> float:
    """The fastest of several runs of a command."""
    command = [*TRTDISAGG, *args]
    return min(
        wall_s(lambda: subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)) for _ in range(count)
    )


def measure(num_servers: int, idle_s: float) -> None:
    """One round: up, idle, status, down."""
    with tempfile.TemporaryDirectory(prefix="cost") as directory:
        cluster = Cluster(Path(directory), many(num_servers))
        up_s = wall_s(cluster.up)
        try:
            pid = cluster.status()["agent_pid"]
            to_ready_s = cpu_s(pid)
            time.sleep(idle_s / 10)
            before, started = cpu_s(pid), time.monotonic()
            time.sleep(idle_s)
            share = (cpu_s(pid) - before) / (time.monotonic() - started)
            rss_mb, pss_mb = memory_mb(pid)
            status_s = best_s("status", str(cluster.file), env=cluster.env)
        finally:
            down_s = wall_s(cluster.down)
        left = cluster.left_over()
    print(
        f"{num_servers} servers: up {up_s:.1f} s (agent's CPU {to_ready_s:.2f} s), idle {share:.2%} of a core, ", end=""
    )
    print(f"RSS {rss_mb:.0f} MB, PSS {pss_mb:.0f} MB, status {status_s:.3f} s, down {down_s:.1f} s, left {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=64)
    parser.add_argument("--idle", type=float, default=30.0, metavar="S")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"--help {best_s('--help', env=dict(os.environ)):.3f} s")
    for _ in range(args.rounds):
        measure(args.servers, args.idle)


if __name__ == "__main__":
    main()
