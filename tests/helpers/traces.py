"""What a cluster may leave behind: processes, ports, sockets, files, shared memory; and what its agent holds."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from helpers.cluster import TEST_MARK, Cluster, runtime_directory
from helpers.waiting import until

SHM = Path("/dev/shm")


@contextlib.contextmanager
def leaving_nothing(cluster: Cluster, ports: set[int]) -> Iterator[Cluster]:
    """A cluster that is up on entry; on exit it is down, and nothing of it is left.

    :param ports: that it listens on.
    """
    cluster.up()
    traces = Traces(cluster, ports)
    try:
        yield cluster
    finally:
        traces.look()
        down = cluster.down("-t", "20")
    assert down.returncode == 0, down.stderr + cluster.logs()
    until(lambda: not traces.left(), "nothing is left over", instead=traces.left)


class Traces:
    """Looks at a cluster while it is there, as often as it is told to, and again when it is gone.

    :param ports: that it listens on.
    """

    def __init__(self, cluster: Cluster, ports: set[int]) -> None:
        self._cluster = cluster
        self._ports = ports
        self._segments: set[str] = set()
        self.look()

    def look(self) -> None:
        """What its processes share now: those that were killed meanwhile may have left theirs."""
        self._segments.update(_segments_of(self._cluster))

    def left(self) -> dict[str, list[str]]:
        """By kind; a cluster that has left nothing: no kind."""
        run = runtime_directory(self._cluster.directory)
        found = {
            "processes": self._cluster.left_over(),
            "ports": [str(port) for port in self._ports & _ports_listened_on()],
            "sockets": [line for line in _unix_sockets() if str(run) in line],
            "files": [str(path) for path in run.rglob("*") if path.name != "trtdisagg"],
            "segments": sorted(self._segments & set(os.listdir(SHM))),
        }
        return {kind: things for kind, things in found.items() if things}


def open_fds(pid: int) -> Counter[str]:
    """What a process has open, and how often; each socket and pipe is only called that."""
    targets = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":[")[0])
    return Counter(targets)


def num_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def guardian_of(agent_pid: int) -> int | None:
    """Pid of the agent's guardian, if it has one now."""
    for child in psutil.Process(agent_pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word.endswith("guardian.py") for word in child.cmdline()):
                return child.pid
    return None


def is_gone(pid: int) -> bool:
    """A zombie that nobody has fetched yet counts as gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def _ports_listened_on() -> set[int]:
    return {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def _unix_sockets() -> list[str]:
    return Path("/proc/net/unix").read_text().splitlines()


def _segments_of(cluster: Cluster) -> Iterator[str]:
    """Names in /dev/shm that its processes have mapped: others use this machine, too."""
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(TEST_MARK) == cluster.env[TEST_MARK]:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                    if f" {SHM}/" in line:
                        yield line.partition(f" {SHM}/")[2]
