"""What must hold in `slurm`, beyond the type of each key."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trtdisagg.config.located import Located
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.slurm_keys import ContainerConfig, SlurmConfig
from trtdisagg.errors import ConfigError

_KEYS = {
    "--account": "account",
    "--cpus-per-task": "cpus_per_task",
    "--gpus": "gpus_per_node",
    "--gpus-per-node": "gpus_per_node",
    "--gres": "gpus_per_node",
    "--job-name": "job_name",
    "--nodes": "nodes",
    "--partition": "partition",
    "--qos": "qos",
    "--time": "time",
}
"""Options of sbatch that have keys of their own."""
OURS = {
    "--array": "a job runs one cluster",
    "--chdir": "the run's folder is where the job's files go",
    "--clusters": "submit it on a machine of that cluster; other clusters' jobs are not waited for",
    "--error": "the run's folder has a log for each task",
    "--export": "the job has the environment of who submits it, and slurm.env",
    "--gpus-per-task": "the agent of a node divides its GPUs among the servers",
    "--no-kill": "the job says so already",
    "--no-requeue": "the job says so already",
    "--ntasks": "there is one task on each node",
    "--ntasks-per-node": "there is one task on each node",
    "--output": "the run's folder has a log for each task",
    "--parsable": "the job says so already",
    "--requeue": "a cluster does not begin again in the folder of its run",
    "--signal": "supervision.drain_timeout_s says how long before the end the cluster is drained",
    "--test-only": "`trtdisagg slurm submit --dry-run` submits nothing",
    "--wait": "`trtdisagg slurm submit` waits",
    "--wrap": "the job has a script",
}
"""Options of sbatch that are not to be given, by variables neither, and why."""
_WORD = (re.compile(r"[\w.,:+@%-]+"), "letters, digits and . , : + @ % _ - only")
_FORMS = {
    "partition": _WORD,
    "account": _WORD,
    "qos": _WORD,
    "job_name": _WORD,
    "mpi": _WORD,
    "time": (re.compile(r"(\d+-)?\d+(:\d+){0,2}"), "not a time as Slurm writes it, [DAYS-]HOURS:MINUTES:SECONDS"),
    "gpus_per_node": (re.compile(r"[\w.-]+:\d+"), "expected a number, or TYPE:NUMBER such as h200:8"),
    "run_name": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), "letters, digits, dot, dash and underscore only"),
}
"""Key: what its value looks like, and what is said of one that does not."""
_OPTION = re.compile(r"(--[a-z][a-z0-9-]*)(=[^\n]*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|KEY)$", re.IGNORECASE)


def check_slurm(cluster: ClusterFile, root: Located) -> None:
    """
    :param root: the same file with places.
    :raises ConfigError: with the line and path of what does not fit.
    """
    for key, message in _faults(cluster.slurm):
        path = f"slurm.{key}"
        raise ConfigError(f"{root.at(path).place.naming(path)}: {message}")


def _faults(config: SlurmConfig) -> Iterator[tuple[str, str]]:
    for key, (form, what) in _FORMS.items():
        value = getattr(config, key)
        if isinstance(value, str) and not form.fullmatch(value):
            yield key, f"{value!r}: {what}"
    for i, text in enumerate(config.extra_args):
        if problem := _problem(text):
            yield f"extra_args[{i}]", f"{text!r}: {problem}"
    for name in config.env:
        if not _VARIABLE.fullmatch(name):
            yield f"env.{name}", "not a name of a variable"
        if _SECRET.search(name):
            yield f"env.{name}", "everybody may see a job's script; have the program, or a line of `setup`, read a file"
    if config.container is not None:
        yield from _faults_of_container(config.container)


def _problem(text: str) -> str | None:
    """What is wrong with an option of sbatch."""
    matched = _OPTION.fullmatch(text)
    if matched is None:
        return "expected one option in its long form, --NAME or --NAME=VALUE"
    # sbatch takes the beginning of a name for the whole, where only one begins so.
    for option, key in _KEYS.items():
        if option.startswith(matched[1]):
            return f"say slurm.{key}"
    for option, why in OURS.items():
        if option.startswith(matched[1]):
            return f"not {option}: {why}"
    return None


def _faults_of_container(config: ContainerConfig) -> Iterator[tuple[str, str]]:
    for i, mount in enumerate(config.mounts):
        if not re.fullmatch(r"/[^:,\n]*:/[^:,\n]*(:[^:,\n]+)?", mount):
            yield f"container.mounts[{i}]", f"{mount!r}: expected /HOST/PATH:/PATH/INSIDE[:FLAGS]"
    if config.workdir is not None and not config.workdir.startswith("/"):
        yield "container.workdir", f"{config.workdir!r}: expected an absolute path"
