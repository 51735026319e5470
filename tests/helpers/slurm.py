"""A Slurm of several nodes on this machine: a controller and nodes that are network namespaces of their own.

    host 0     slurmctld; commands are run here
    host 1     slurmd of node01, and what jobs start there, with its own address, loopback, host name, run directory
    ...

Names of hosts and run directories are of a mount namespace of each node, so nothing of the machine's own is touched;
other files are shared, as on a cluster file system. GPUs are device nodes without a driver.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
from helpers.cluster import REPOSITORY
from helpers.netns import Host, hosts, needs_netns

needs_slurm = [
    *needs_netns,
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None or shutil.which("munged") is None, reason="no slurm-wlm here"),
]
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 90.0
KILL_WAIT_S = 4
"""Slurm's own is 30."""
NODE_TIMEOUT_S = 10
"""Without a sign of life for so long a node counts as lost. Slurm's own is 300."""
_CGROUPS = Path("/sys/fs/cgroup")
_GPU_MAJOR = 195
"""The number that NVIDIA's devices have, so that a control group can tell them apart."""
_AT_NODE = 'mount --bind "$1" /etc/hosts && mount --bind "$2" "$3" && hostname "$4" && shift 4 && exec "$@"'


class Slurm:
    """
    :param directory: for its state, keys and logs.
    :param nodes: the first one is the controller's host.
    :param with_cgroups: a step sees only its own GPUs, numbered from 0, as on most clusters.
    """

    def __init__(self, directory: Path, made: Sequence[Host], *, num_gpus: int, with_cgroups: bool) -> None:
        self.directory = directory
        self._controller, *nodes = made
        self.nodes = {f"node{i:02d}": host for i, host in enumerate(nodes, 1)}
        self._num_gpus = num_gpus
        self._with_cgroups = with_cgroups
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TRTDISAGG"))},
            "SLURM_CONF": str(directory / "slurm.conf"),
            "XDG_RUNTIME_DIR": str(self._shared("run")),
            "XDG_STATE_HOME": str(self._shared("state")),
            "PYTHONPATH": str(REPOSITORY),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    # --- what a user does -------------------------------------------------------------------------------------------

    def ask(self, *argv: str, timeout_s: float = 120, env: Mapping[str, str] | None = None) -> str:
        """Run a command on the controller's host; it has to go well."""
        done = self.try_(*argv, timeout_s=timeout_s, env=env)
        assert done.returncode == 0, f"{' '.join(argv)}: rc {done.returncode}\n{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def try_(
        self, *argv: str, timeout_s: float = 120, env: Mapping[str, str] | None = None, on: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller's host, or as a user who has logged in to a node."""
        where = self._at(on) if on else self._controller.prefix
        return subprocess.run(
            [*where, *argv],
            env={**self.env, **(env or {})},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def submit(self, script: str, *options: str) -> str:
        """
        :returns: the job's id.
        """
        path = self.directory / "job.sh"
        path.write_text(script)
        return self.ask("sbatch", "--parsable", *options, str(path)).strip()

    def is_over(self, job: str) -> bool:
        return (
            not self.ask("squeue", "--noheader", "--jobs", job, "--states=all", "--format=%T")
            .strip()
            .startswith(("PENDING", "RUNNING", "COMPLETING"))
        )

    def state(self, job: str) -> str:
        """`COMPLETED`, `TIMEOUT`, ..."""
        return self.ask("squeue", "--noheader", "--jobs", job, "--states=all", "--format=%T").strip()

    def until_over(self, job: str, timeout_s: float = END_TIMEOUT_S) -> str:
        """
        :returns: the state it ended in.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_over(job):
            assert time.monotonic() < deadline, f"job {job} is {self.state(job)}{self.logs()}"
            time.sleep(0.1)
        return self.state(job)

    def on(self, node: str | None = None) -> list[psutil.Process]:
        """What runs on one node, or on any."""
        wanted = {
            os.stat(f"/run/netns/{host.name}").st_ino for name, host in self.nodes.items() if node in (None, name)
        }
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                is_there = os.stat(f"/proc/{process.pid}/ns/net").st_ino in wanted
                if is_there and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def processes(self, node: str | None = None, *, having: str = "trtdisagg") -> list[str]:
        """Command lines of what jobs run, on one node or on any."""
        lines = []
        for process in self.on(node):
            with contextlib.suppress(psutil.Error):
                lines.append(" ".join(process.cmdline()))
        return [line for line in lines if having in line and "slurmstepd" not in line]

    def logs(self) -> str:
        """What the controller and the nodes say."""
        files = sorted(self.directory.glob("log/*"))
        return "".join(f"\n--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    # --- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for name in ("log", "spool", "ctld", "dev", "tmp", "munge", "hosts"):
            (self.directory / name).mkdir(parents=True)
        for node in self.nodes:
            (self.directory / "run-of" / node).mkdir(parents=True, mode=0o700)
        self._make_gpus()
        self._write_files()
        self._munge()
        self._start("slurmctld", [*self._controller.prefix, "slurmctld", "-D"])
        for node in self.nodes:
            self._start(node, [*self._at(node), "slurmd", "-D", "-N", node])
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.try_("sinfo", "--noheader", "--Node", "--format=%T").stdout.split() != ["idle"] * len(self.nodes):
            assert all(daemon.poll() is None for daemon in self._daemons.values()), self.logs()
            assert time.monotonic() < deadline, f"the nodes are not idle in time{self.logs()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Cancel what runs, end the daemons, and see to it that no process is left on any node."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.try_("scancel", "--user=root", timeout_s=10)
            deadline = time.monotonic() + 2 * KILL_WAIT_S
            while self._stepds() and time.monotonic() < deadline:
                time.sleep(0.05)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for daemon in reversed(self._daemons.values()):
                if daemon.poll() is None:
                    daemon.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                for daemon in self._daemons.values():
                    daemon.wait(5)
        for stepd in self._stepds():
            with contextlib.suppress(psutil.Error):
                stepd.kill()
        for node in self.nodes if self._with_cgroups else ():
            for top in _CGROUPS.glob(f"*/slurm_{node}"):
                for path, _, _ in os.walk(top, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(path).rmdir()

    def _start(self, name: str, argv: Sequence[str]) -> None:
        with (self.directory / "log" / f"{name}.out").open("wb") as log:
            self._daemons[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd="/", start_new_session=True
            )

    def _stepds(self) -> list[psutil.Process]:
        """They outlive the slurmd that started them."""
        found = []
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if (
                    process.info["name"] == "slurmstepd"
                    and process.environ().get("SLURM_CONF") == self.env["SLURM_CONF"]
                ):
                    found.append(process)
        return found

    # --- files ------------------------------------------------------------------------------------------------------

    def _shared(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def _at(self, node: str) -> list[str]:
        """What runs a command on a node."""
        files = [str(self.directory / "etc-hosts"), str(self.directory / "run-of" / node), self.env["XDG_RUNTIME_DIR"]]
        return [*self.nodes[node].prefix, "unshare", "--mount", "--uts", "sh", "-c", _AT_NODE, "sh", *files, node]

    def _make_gpus(self) -> None:
        for i in range(self._num_gpus):
            os.mknod(self.directory / "dev" / f"nvidia{i}", stat.S_IFCHR | 0o666, os.makedev(_GPU_MAJOR, i))

    def _munge(self) -> None:
        munge = self.directory / "munge"
        munge.chmod(0o755)
        key = munge / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        options = [f"--{option}={munge / file}" for option, file in files.items()]
        self._start("munged", ["munged", "--foreground", "--force", *options])
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (munge / "socket").exists():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    def _write_files(self) -> None:
        at = self.directory
        lines = [f"{host.address}\t{name}\n" for name, host in self.nodes.items()]
        (at / "etc-hosts").write_text("127.0.0.1\tlocalhost\n" + "".join(lines))
        gres = f" Gres=gpu:card:{self._num_gpus}" if self._num_gpus else ""
        node_lines = [
            f"NodeName={name} NodeAddr={host.address} NodeHostname={name} CPUs=16 RealMemory=4096{gres} State=UNKNOWN"
            for name, host in self.nodes.items()
        ]
        kind = "cgroup" if self._with_cgroups else "linuxproc"
        (at / "slurm.conf").write_text(
            "\n".join(
                [
                    "ClusterName=test",
                    f"SlurmctldHost={os.uname().nodename}({self._controller.address})",
                    *("SlurmUser=root", "SlurmdUser=root", "AuthType=auth/munge", "CredType=cred/munge"),
                    f"AuthInfo=socket={at}/munge/socket",
                    *(f"StateSaveLocation={at}/ctld", f"SlurmdSpoolDir={at}/spool/%n", f"TmpFS={at}/tmp/%n"),
                    *(f"SlurmctldPidFile={at}/ctld.pid", f"SlurmdPidFile={at}/%n.pid"),
                    *(f"SlurmctldLogFile={at}/log/slurmctld", f"SlurmdLogFile={at}/log/%n"),
                    f"ProctrackType=proctrack/{kind}",
                    f"TaskPlugin=task/{'cgroup' if self._with_cgroups else 'none'}",
                    # a few real CPUs pose as many
                    *("JobAcctGatherType=jobacct_gather/none", "SlurmdParameters=config_overrides"),
                    *("SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "GresTypes=gpu"),
                    *(
                        "MpiDefault=none",
                        "ReturnToService=2",
                        "JobCompType=jobcomp/filetxt",
                        f"JobCompLoc={at}/log/jobs",
                    ),
                    *(f"KillWait={KILL_WAIT_S}", f"SlurmdTimeout={NODE_TIMEOUT_S}", "UnkillableStepTimeout=15"),
                    "SchedulerParameters=bf_interval=1,sched_min_interval=0,batch_sched_delay=0",
                    *node_lines,
                    "PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
                ]
            )
            + "\n"
        )
        gpus = f"Name=gpu Type=card File={at}/dev/nvidia[0-{self._num_gpus - 1}]\n" if self._num_gpus else ""
        (at / "gres.conf").write_text(f"AutoDetect=off\n{gpus}")
        (at / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={_CGROUPS}\nCgroupAutomount=no\nConstrainDevices=yes\n"
            "ConstrainCores=no\n"
        )


@contextlib.contextmanager
def slurm(num_nodes: int, *, num_gpus: int = 0, with_cgroups: bool = False) -> Iterator[Slurm]:
    """A Slurm whose nodes are idle; gone at the end, with all that its jobs have started and written."""
    with hosts(num_nodes + 1) as made:
        # Its daemons have sockets in it: the path must be short.
        directory = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
        one = Slurm(directory, made, num_gpus=num_gpus, with_cgroups=with_cgroups)
        try:
            one.start()
            yield one
        finally:
            one.stop()
            shutil.rmtree(directory)
