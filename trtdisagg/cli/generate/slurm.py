"""`trtdisagg generate slurm`: a batch script that runs a cluster on one node, and lets it end in order."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import click

from trtdisagg.cli.generate.subject import Subject, subject, subject_options

_MARGIN_S = 60
"""Slurm may send its signal so much earlier than it was asked to."""
_MAX_NOTICE_S = 65535
"""What Slurm takes."""

_HEAD = """\
#!/bin/bash
# A trtdisagg cluster on one node, for as long as the job may last:
#   sbatch {name}.sbatch
#   scancel --batch --signal=TERM JOB      drains it and ends the job
#   scancel JOB                            too, but Slurm kills what is left after its KillWait (often 30 s)
# Clients on other nodes reach it if the cluster file says `hostname: 0.0.0.0`.
# Partition, account and the like: as options of sbatch, or here.
#SBATCH --job-name={name}
#SBATCH --output=%x-%j.log
#SBATCH --nodes=1
#SBATCH --ntasks=1
{resources}\
#SBATCH --time={time}
# So long before the end of the job, SIGTERM to this script alone: what it takes to drain, and {margin} s.
#SBATCH --signal=B:TERM@{notice_s}

program=({program})
file={file}
"""

_BODY = """
echo "$(hostname): clients go to port $port"

# In the background, because bash runs a trap only when the command in the foreground returns. A step has all of the
# job's GPUs, but only one core unless it asks for more.
srun --ntasks=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" "${program[@]}" up "$file" --no-tui &
step=$!

# Never a signal to srun: it would kill the servers at once. The cluster is asked, by its own command; where nobody
# answers yet, Slurm passes a signal on to the processes themselves.
drain() {
    interrupted=yes
    "${program[@]}" down "$file" || scancel --signal=TERM "$SLURM_JOB_ID.0"
}
trap drain TERM

# A trap interrupts `wait`, and then its result is not that of srun.
while :; do
    interrupted=no
    wait "$step"
    code=$?
    [ "$interrupted" = yes ] || exit "$code"
done
"""


@click.command()
@subject_options
@click.option("--time", default="1-00:00:00", show_default=True, metavar="LIMIT", help="How long the job may last.")
@click.option("--cpus", type=click.IntRange(min=1), metavar="N", help="CPU cores. [default: the whole node]")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="GPUs. [default: what the node's share has]")
@click.option("--name", metavar="NAME", help="The job's. [default: trtdisagg-CLUSTER]")
def slurm(
    *,
    file: str | None,
    file_at: Path | None,
    program: str | None,
    time: str,
    cpus: int | None,
    gpus: int | None,
    name: str | None,
) -> None:
    """Print a batch script that runs a cluster as a Slurm job on one node."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise click.BadParameter(f"{time!r}: not a time as Slurm writes it, [DAYS-]HOURS:MINUTES:SECONDS")
    of = subject(file, file_at=file_at, program=program)
    click.echo(script(of, name or f"trtdisagg-{of.name}", time=time, cpus=cpus, gpus=gpus), nl=False)


def script(of: Subject, name: str, *, time: str, cpus: int | None, gpus: int | None) -> str:
    """
    :param time: the job's limit, in Slurm's form.
    :param cpus: None: all of a node that is this job's alone.
    :param gpus: None: not asked for.
    """
    resources = "#SBATCH --exclusive\n" if cpus is None else f"#SBATCH --cpus-per-task={cpus}\n"
    if gpus is not None:
        resources += f"#SBATCH --gres=gpu:{gpus}\n"
    head = _HEAD.format(
        name=re.sub(r"[^\w.-]+", "_", name),
        resources=resources,
        time=time,
        margin=_MARGIN_S,
        notice_s=min(math.ceil(of.stop_s) + _MARGIN_S, _MAX_NOTICE_S),
        program=shlex.join(of.program),
        file=shlex.quote(str(of.file)),
    )
    return f"{head}port={of.port}\n{_BODY}"
