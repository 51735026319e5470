"""The folder of a run, which outlives its job and is never written over.

OUTPUT_DIR/NAME-001/
    cluster.yaml    as submitted: what was given beside the file is in it
    job.sbatch      the batch script
    job-id          as sbatch said
    logs/           job.log of the script, 0.log of the first node's task, 1.log ..., load.log
    nodes/          while the nodes find each other   (by `up --srun`)
    url             while the cluster can serve       (written by `up --run-dir`)
    exit-code       of the cluster, at its end        (as well)
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from trtdisagg.config.load import Loaded
from trtdisagg.config.written import written
from trtdisagg.errors import StartupError
from trtdisagg.slurm.job import Job
from trtdisagg.slurm.script import render_job

_NUM_LAST_LINES = 20
_TAIL_BYTES = 16 * 1024


def make_folder(loaded: Loaded) -> Path:
    """Make the folder of a new run of a cluster file.

    :raises StartupError: when it cannot be made.
    """
    while True:
        folder = next_folder(loaded)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # somebody was faster
            continue
        except OSError as e:
            raise StartupError(f"The run's folder {folder} cannot be made: {e.strerror}; see slurm.output_dir") from e
        return folder


def next_folder(loaded: Loaded) -> Path:
    """Where the next run of a cluster file will be."""
    settings = loaded.cluster.slurm
    parent = (loaded.path.parent / Path(settings.output_dir).expanduser()).absolute()
    name = settings.run_name or loaded.name
    there = parent.iterdir() if parent.is_dir() else ()
    found = (re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name) for path in there)
    number = 1 + max((int(match[1]) for match in found if match), default=0)
    return parent / f"{name}-{number:03d}"


def submitted(loaded: Loaded) -> str:
    """The cluster file of a run, which may lie anywhere."""
    return written(loaded, f"{loaded.path}, as submitted")


def fill(job: Job, loaded: Loaded) -> None:
    """Write what the job needs into its folder."""
    job.logs.mkdir()
    job.file.write_text(submitted(loaded))
    job.script.write_text(render_job(job))


def keep_job_id(folder: Path, job_id: str) -> None:
    (folder / "job-id").write_text(f"{job_id}\n")


def job_id(folder: Path) -> str | None:
    """None: it was never submitted."""
    return _said(folder, "job-id")


def put_logs_aside(folder: Path) -> None:
    """Make room for those of another job of the same run: what is there becomes `logs-1`, `logs-2`, ..."""
    logs = folder / "logs"
    if any(logs.glob("*")):
        number = 1 + sum(1 for _ in folder.glob("logs-*"))
        logs.rename(folder / f"logs-{number}")
    logs.mkdir(exist_ok=True)


def url(folder: Path) -> str | None:
    """Where clients go; None: the cluster cannot serve yet, or no more."""
    return _said(folder, "url")


def exit_code(folder: Path) -> int | None:
    """How the cluster ended; None: it has not said so."""
    said = _said(folder, "exit-code")
    return None if said is None else int(said)


def _said(folder: Path, name: str) -> str | None:
    """What the cluster has told: the list of files is looked at first, because network file systems remember for a
    while that a file was not there."""
    try:
        return (folder / name).read_text().strip() if name in os.listdir(folder) else None
    except FileNotFoundError:  # gone just now
        return None


def last_lines(folder: Path) -> list[str]:
    """The end of what the first node's task wrote, or the batch script where there was no task."""
    for name in ("0.log", "job.log"):
        path = folder / "logs" / name
        if path.exists() and (lines := _tail(path)):
            return lines
    return []


def _tail(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-_NUM_LAST_LINES:]
