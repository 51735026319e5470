"""A step of Slurm as its tasks see it, without Slurm: processes with the variables that `srun` would give them.

The nodes are this machine's loopback address, and each has a runtime directory of its own; the state directory is
shared, as a home directory is on clusters.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count

from helpers.cluster import TRTDISAGG, Cluster, runtime_directory

_JOBS = count(1)


class Step:
    """
    :param tasks: how many each node has.
    :param more: variables that it has beside those of any step.
    :ivar tasks: their processes, in the order of their SLURM_PROCID.
    """

    def __init__(self, cluster: Cluster, tasks: Sequence[int], more: Mapping[str, str] | None = None) -> None:
        self.cluster = cluster
        self.nodes = [f"node{i:02}" for i in range(1, len(tasks) + 1)]
        self.tasks: list[subprocess.Popen[str]] = []
        self._job_id = f"{os.getpid()}{next(_JOBS)}"
        self._numbers = list(tasks)
        self._more = more or {}

    def start(self, *argv: str) -> None:
        """Start the command in all tasks, as `srun` does."""
        for node, number in enumerate(self._numbers):
            for local_id in range(number):
                self.tasks.append(self._task(node, local_id, argv))

    def start_later(self, node: int, *argv: str) -> None:
        """Start a command in a later step of the job, with one task on one node, as `srun --overlap` does."""
        name = self.nodes[node]
        alone = {"STEP_ID": "1", "STEP_NODELIST": name, "STEP_NUM_TASKS": "1", "STEP_TASKS_PER_NODE": "1"}
        more = {f"SLURM_{key}": value for key, value in {**alone, "NODEID": "0", "PROCID": "0"}.items()}
        self.tasks.append(self._task(node, 0, argv, more))

    def _task(
        self, node: int, local_id: int, argv: Sequence[str], more: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        log = self.cluster.directory / f"task-{len(self.tasks)}.log"
        env = {**self.cluster.env, **self._variables(node, local_id), **(more or {})}
        if node:
            env["XDG_RUNTIME_DIR"] = str(runtime_directory(self.cluster.directory / str(node)))
        with log.open("w") as out:
            return subprocess.Popen([*TRTDISAGG, *argv], env=env, stdout=out, stderr=subprocess.STDOUT, text=True)

    def _variables(self, node: int, local_id: int) -> dict[str, str]:
        return {
            "SLURM_JOB_ID": self._job_id,
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": f"node[01-{len(self.nodes):02}]",
            "SLURM_STEP_NUM_TASKS": str(sum(self._numbers)),
            "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, self._numbers)),
            "SLURM_NODEID": str(node),
            "SLURM_PROCID": str(sum(self._numbers[:node]) + local_id),
            "SLURM_LOCALID": str(local_id),
            **self._more,
        }

    @property
    def has_ended(self) -> bool:
        """Whether any task has."""
        return any(task.poll() is not None for task in self.tasks)

    def said(self, task: int) -> str:
        return (self.cluster.directory / f"task-{task}.log").read_text()

    def signal(self, number: signal.Signals) -> None:
        """To all tasks, as `scancel` does."""
        for task in self.tasks:
            if task.poll() is None:
                task.send_signal(number)

    def exit_codes(self, timeout_s: float = 60) -> list[int]:
        """Wait for the end of all."""
        try:
            return [task.wait(timeout_s) for task in self.tasks]
        except subprocess.TimeoutExpired as e:
            raise AssertionError("\n".join(self.said(i) for i in range(len(self.tasks)))) from e

    def __enter__(self) -> Step:
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.tasks:
            task.kill()
            task.wait()
