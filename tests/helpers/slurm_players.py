"""Programs that play Slurm's commands and the cluster, so that jobs are submitted and run without either.

They write what they are asked into `log`; `state` is what squeue says of the job, as `RUNNING|None`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from trtdisagg.config.load import load
from trtdisagg.slurm import folders
from trtdisagg.slurm.job import Job, plan_job

_SRUN = """\
echo "srun $*" >> "$here/log"
trap 'echo "srun got a signal" >> "$here/log"; exit 137' TERM HUP INT
while [[ $1 == -* ]]; do shift; done
"$@" &
wait $!
"""
_CLUSTER = """\
case $1 in
load) echo "load $*" >> "$here/log"; exit "$(cat "$here/load-end")";;
down) echo "down $*" >> "$here/log"; [ -e "$here/deaf" ] && exit 3; echo 0 > "$here/end"; exit;;
esac
echo "trtdisagg $*" >> "$here/log"
folder=$5
echo > "$here/up"
read -r code told < "$here/end"
[ "$told" = silent ] || echo "$code" > "$folder/exit-code"
exit "$code"
"""
_PLAYERS = {
    "srun": _SRUN,
    "trtdisagg": _CLUSTER,
    "squeue": 'echo "squeue $*" >> "$here/log"; cut -d"|" -f1 "$here/state"; echo > "$here/asked"',
    "scancel": 'echo "scancel $*" >> "$here/log"; echo 143 > "$here/end"',
}
CLUSTER_FILE = """\
name: c
model: m
port: 1234
supervision: {drain_timeout_s: 30, kill_timeout_s: 10}
context_servers: {max_batch_size: 4}
generation_servers: {}
"""


def put_players(directory: Path, players: dict[str, str] | None = None) -> dict[str, str]:
    """
    :returns: an environment in which they are found.
    """
    for name, text in (players or _PLAYERS).items():
        path = directory / name
        path.write_text(f'#!/bin/bash\nhere="$(dirname "$0")"\n{text}\n')
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}


def make_job(directory: Path, *, more: str = "", num_nodes: int = 1, load_command: list[str] | None = None) -> Job:
    """A job with its folder, whose program is the player's."""
    directory.mkdir(exist_ok=True)
    file = directory / "a file.yaml"
    file.write_text(CLUSTER_FILE + more)
    loaded = load(file)
    folder = folders.make_folder(loaded)
    program = [str(directory / "trtdisagg")]
    job = plan_job(loaded, folder, num_nodes=num_nodes, program=program, load=load_command or [])
    folders.fill(job, loaded)
    return job


class PlayedJob:
    """The batch script of a job, run by bash in a directory of its own."""

    def __init__(self, directory: Path, *, more: str = "", load_command: list[str] | None = None) -> None:
        self.directory = directory
        self.job = make_job(directory, more=more, load_command=load_command)
        env = put_players(directory)
        (directory / "state").write_text("RUNNING|None\n")
        for name in ("end", "up", "load-end", "asked"):
            os.mkfifo(directory / name)
        env |= {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "node01"}
        self.process = subprocess.Popen(
            ["bash", str(self.job.script)], env=env, cwd=directory, stderr=subprocess.PIPE, text=True
        )
        self.until("up")

    def until(self, name: str) -> None:
        """Wait until the cluster is `up`, or squeue was `asked`."""
        (self.directory / name).read_text()

    def end(self, how: str) -> None:
        """:param how: the cluster's exit code; ` silent` behind it: it is killed, and cannot tell that."""
        (self.directory / "end").write_text(f"{how}\n")

    @property
    def log(self) -> list[str]:
        return (self.directory / "log").read_text().splitlines()
