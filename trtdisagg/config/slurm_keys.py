"""What the file says to Slurm, for `trtdisagg slurm submit`: the job that runs the cluster. A cluster that is started
otherwise reads none of it."""

from __future__ import annotations

from trtdisagg.config.key_types import Count, CountOrZero, Section


class ContainerConfig(Section, frozen=True):
    """As pyxis takes them: options of srun."""

    image: str
    """A file of enroot's (`/images/trtdisagg.sqsh`) or `REGISTRY#IMAGE:TAG`; trtdisagg is installed in it."""
    mounts: list[str] = []
    """`/HOST/PATH:/PATH/INSIDE[:FLAGS]` each. The run's folder and that of the cluster file are mounted as they are."""
    workdir: str | None = None
    """Where the program starts; without it, where the image says."""


class SlurmConfig(Section, frozen=True):
    partition: str | None = None
    """Without it, Slurm's default."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """How long the job may last, in quotes: "[DAYS-]HOURS:MINUTES:SECONDS" or minutes; without it, what the partition
    says. The cluster is drained before the end."""
    job_name: str | None = None
    """Without it, `trtdisagg-` and the cluster's name."""
    nodes: Count | None = None
    """Without it, as many as the servers need."""
    gpus_per_node: CountOrZero | str = 0
    """GPUs that are asked for on each node: 8, or with Slurm's name of their type `h200:8`. 0: none, servers run on
    CPUs."""
    cpus_per_task: Count | None = None
    """Cores that are asked for on each node; without it, the nodes are the job's alone, with all their memory."""
    extra_args: list[str] = []
    """More options of sbatch, each in its long form: `--constraint=ib`, `--reservation=NAME`."""
    container: ContainerConfig | None = None
    """Where the nodes' programs run in one."""
    mpi: str | None = None
    """`srun --mpi=`: pmix, pmi2, none; without it, Slurm's default."""
    setup: list[str] = []
    """Commands for bash on each node before the program starts, such as `module load cuda`; one that fails ends the
    node's task."""
    env: dict[str, str] = {}
    """Environment variables of the job; no secrets, since everybody may see a job's script."""
    program: list[str] = []
    """How trtdisagg is called on the nodes; without it, as the program that submits the job, in a container
    `trtdisagg`."""
    run_name: str | None = None
    """Names the run's folder, with a number added; without it, the cluster's name."""
    output_dir: str = "slurm-runs"
    """Where the folders of runs are made, on a file system that all nodes share: relative to the cluster file."""
