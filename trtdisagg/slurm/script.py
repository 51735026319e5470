"""The batch script of a job: one task of `trtdisagg up --srun` on each node, and an end in order. Pure.

Slurm's ways of ending a job, and what becomes of each:

    scancel --batch --signal=TERM JOB   the script alone gets SIGTERM, and asks the cluster to drain
    time limit                          the same, so long before the limit as draining takes and Slurm may be early
    scancel --signal=TERM JOB           the tasks alone get SIGTERM
    scancel JOB                         script and tasks get SIGTERM at once, SIGKILL after KillWait (often 30 s)
    a node is lost, or its task         the others go on (--no-kill, --kill-on-bad-exit=0, --wait=0)

srun never gets a signal: it would kill the tasks at once. Nor is its exit code believed, which is 0 when a node was
lost: the cluster's own is in the run's folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from trtdisagg.slurm.job import EARLY_S, Job

_HEAD = """\
#!/bin/bash
# The cluster {cluster} on {nodes}, until its time is over or:
#   scancel --batch --signal=TERM JOB      drains it and ends the job
#   scancel JOB                            too, but Slurm kills what is left after its KillWait (often 30 s)
{resources}\
# A node that is lost ends what ran there and no more; nothing is begun again behind anybody's back.
#SBATCH --no-kill
#SBATCH --no-requeue
# So long before the end of the job, SIGTERM to this script alone: what it takes to drain, and {early_s} s.
#SBATCH --signal=B:TERM@{notice_s}
{extra}\

folder={folder}
program=({program})
{environment}\
{step}\
rm -f "$folder/url" "$folder/exit-code"

# In the background, because bash runs a trap only when the command in the foreground returns. --wait=0: the tasks go on
# when one has ended, whatever slurm.conf says.
srun --no-kill --kill-on-bad-exit=0 --wait=0 --ntasks-per-node=1 --output={logs}/%t.log "${{step[@]}}" \\
    "${{program[@]}}" up --srun "$folder/cluster.yaml" --run-dir "$folder" --rendezvous "$folder/nodes" --no-tui &
cluster=$!

{why}
drain() {{
    interrupted=yes
    kill -0 "$cluster" 2> /dev/null || return
    {down}[ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = COMPLETING ] && return
    scancel --signal=TERM "$SLURM_JOB_ID.0"
}}
trap drain TERM

# Waits for a process and sets its exit code. A trap interrupts `wait`, whose result is then not that of the process.
finish() {{
    while :; do
        interrupted=no
        wait "$1"
        code=$?
        [ "$interrupted" = yes ] || return
    done
}}
{load}\

finish "$cluster"
rm -f "$folder/url"
if ! ended=$(cat "$folder/exit-code" 2> /dev/null); then
    echo "The first task has not said how the cluster ended: it was killed, or never began. srun: exit code $code" >&2
    ended=$((code ? code : 1))
fi
# SIGTERM is how a cluster is asked to drain: one that did has ended well.
[ "$ended" = 143 ] && ended=0
{exit}
"""

_WHY = """\
# Never a signal to srun: it would kill the servers at once. The cluster is asked, by its own command. Where nobody
# answers yet, Slurm passes a signal on, which reaches servers as well, unless its ProctrackType is cgroup. Where all of
# the job is ending it has done so, and a second signal would cut short what the first began."""
_DOWN = '"${program[@]}" down "$folder/cluster.yaml" && return\n    '
_WHY_IN_A_CONTAINER = """\
# Never a signal to srun: it would kill the servers at once. A cluster cannot be asked from outside of its container, so
# Slurm passes a signal on to the tasks. Where all of the job is ending it has done so, and a second signal would cut
# short what the first began."""

_LOAD = """
load=1
until [ -e "$folder/url" ] || ! kill -0 "$cluster" 2> /dev/null; do sleep 1; done
if [ -e "$folder/url" ]; then
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --gres=none --output={logs}/load.log \\
        "${{step[@]}}" {command} --url "$(cat "$folder/url")" &
    finish $!
    load=$code
    drain
fi
"""


def render_job(job: Job) -> str:
    """The batch script, whole."""
    environment = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in job.settings.env.items())
    logs = shlex.quote(pattern(job.logs))
    return _HEAD.format(
        cluster=job.cluster,
        nodes="one node" if job.num_nodes == 1 else f"{job.num_nodes} nodes",
        resources=_directives(_resources(job)),
        early_s=EARLY_S,
        notice_s=job.notice_s,
        extra=_directives(job.settings.extra_args),
        folder=shlex.quote(str(job.folder)),
        program=shlex.join(job.program),
        environment=environment,
        step=_step(job),
        logs=logs,
        why=_WHY_IN_A_CONTAINER if job.settings.container else _WHY,
        down="" if job.settings.container else _DOWN,
        load=_LOAD.format(logs=logs, command=shlex.join(job.load)) if job.load else "",
        exit='exit "$((ended ? ended : load))"' if job.load else 'exit "$ended"',
    )


def pattern(path: Path) -> str:
    """A path as Slurm's names of files take it, where %t is the number of a task."""
    return str(path).replace("%", "%%")


def _directives(options: Iterable[str]) -> str:
    """sbatch reads quotes as a shell does, but takes a backslash in them for one that quotes."""
    parts = (option.replace("\\", "\\\\").partition("=") for option in options)
    return "".join(f"#SBATCH {name}{equals}{value and shlex.quote(value)}\n" for name, equals, value in parts)


def _resources(job: Job) -> Iterator[str]:
    settings = job.settings
    yield f"--job-name={job.name}"
    yield f"--output={pattern(job.logs / 'job.log')}"
    for option in ("partition", "account", "qos", "time"):
        if (value := getattr(settings, option)) is not None:
            yield f"--{option}={value}"
    yield f"--nodes={job.num_nodes}"
    yield "--ntasks-per-node=1"
    if settings.cpus_per_task is None:
        yield "--exclusive"
        if not any(option.startswith("--mem") for option in settings.extra_args):
            yield "--mem=0"
    else:
        yield f"--cpus-per-task={settings.cpus_per_task}"
    if job.num_gpus:
        yield f"--gres=gpu:{settings.gpus_per_node}"


def _step(job: Job) -> str:
    """What is in front of each command that srun starts: all cores of the job's, the container, the set-up."""
    settings = job.settings
    # A task is bound to one core unless it asks for more.
    options = [f"--cpus-per-task={settings.cpus_per_task}" if settings.cpus_per_task else "--cpu-bind=none"]
    options += [f"--mpi={settings.mpi}"] if settings.mpi else []
    if box := settings.container:
        own = [job.origin] if job.origin in job.folder.parents else [job.folder, job.origin]
        seen = [f"{folder}:{folder}" for folder in own]
        options += [f"--container-image={box.image}", f"--container-mounts={','.join([*seen, *box.mounts])}"]
        options += [f"--container-workdir={box.workdir}"] if box.workdir else []
    words = [f"'{word}'" if "," in word and shlex.quote(word) == word else shlex.quote(word) for word in options]
    if not settings.setup:
        return _array("step", words)
    commands = "\n".join(["set -e", *settings.setup, 'exec "$@"'])
    return f"setup={shlex.quote(commands)}\n" + _array("step", [*words, 'bash -c "$setup" setup'])


def _array(name: str, words: Iterable[str]) -> str:
    return f"{name}=(\n" + "".join(f"    {word}\n" for word in words) + ")\n"
