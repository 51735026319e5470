"""Servers whose ranks mpirun has started, and `trtdisagg proxy` beside them, on one file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import tiny_model
from helpers.cluster import REPOSITORY, TRTDISAGG, runtime_directory
from helpers.mpi import launcher, needs_mpi
from helpers.netns import hosts, needs_netns
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S, until

pytestmark = needs_mpi
BODY = {"model": "tiny", "prompt": "x" * 50, "max_tokens": 12, "temperature": 0, "ignore_eos": True}


def needs_root(test: Callable[..., None]) -> Callable[..., None]:
    for mark in needs_netns:
        test = mark(test)
    return test


class World:
    """mpirun and what it has started."""

    def __init__(self, kind: str, directory: Path, prefixes: Sequence[list[str]], *args: str) -> None:
        self.log = directory / "log"
        mpirun, variables = launcher(kind)
        environment = {
            **os.environ,
            **variables,
            "XDG_RUNTIME_DIR": str(runtime_directory(directory)),
            "PYTHONPATH": str(REPOSITORY),
        }
        argv = [*mpirun]
        for i, prefix in enumerate(prefixes):
            argv += [*([":"] if i else []), "-n", "1", *prefix, *TRTDISAGG, *args]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=directory
            )

    def until_serves(self, *names: str) -> None:
        def missing() -> list[str]:
            assert self.process.poll() is None, self.log.read_text()
            return [name for name in names if f"{name} serves" not in self.log.read_text()]

        until(lambda: not missing(), "all serve", instead=self.log.read_text)

    def shared_memory(self) -> list[str]:
        """What its processes have mapped of MPICH's."""
        lines: list[str] = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(OSError):  # gone meanwhile
                lines += Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        return [line for line in lines if "mpich_shm_" in line]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def world(kind: str, directory: Path, prefixes: Sequence[list[str]], *args: str) -> Iterator[World]:
    """
    :param prefixes: what each process is run by.
    """
    started = World(kind, directory, prefixes, *args)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def proxy(directory: Path, file: Path) -> Iterator[Path]:
    """:returns: its log."""
    path = directory / "proxy.log"
    with path.open("wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        argv = [*TRTDISAGG, "proxy", "-c", str(file)]
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=directory, env=environment)
    try:
        yield path
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE_S)


def post(url: str, body: dict[str, Any], secret: str = "") -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        return json.load(answer)


def text_of(port: int) -> str:
    """What is answered there."""
    text: str = post(f"http://127.0.0.1:{port}/v1/completions", BODY)["choices"][0]["text"]
    return text


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=DEADLINE_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def moved(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("trtdisagg_kv_transfer")]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines if "_bucket" not in line}


def write_file(
    directory: Path, host: str = "localhost", *, more: str = "", tp: int = 1, has_context: bool = True
) -> tuple[Path, list[int]]:
    """A file as TensorRT-LLM's, and the ports of proxy, context and generation server."""
    ports = [free_port() for _ in range(3)]
    model = tiny_model.write(directory / "tiny")
    context = f'context_servers: {{num_instances: 1, urls: ["{host}:{ports[1]}"]}}' if has_context else ""
    file = directory / "disagg_config.yaml"
    file.write_text(f"""\
model: {model}
hostname: localhost
port: {ports[0]}
dtype: float32
kv_cache_config: {{max_tokens: 1024}}
{context}
generation_servers: {{num_instances: 1, tensor_parallel_size: {tp}, urls: ["{host}:{ports[2]}"]}}
{more}""")
    return file, ports


@pytest.mark.parametrize("kind", ["mpich", "openmpi"])
def test_they_serve_as_one_server_alone_does(kind: str, tmp_path: Path) -> None:
    file, (port, _, generation) = write_file(tmp_path)
    with world(kind, tmp_path, [[], []], "disaggregated_mpi_worker", "-c", str(file)) as started:
        started.until_serves("context-0", "generation-0")
        assert all("(deleted)" in line for line in started.shared_memory()), "nothing is left, however they end"
        with proxy(tmp_path, file) as log_of_proxy:
            until(lambda: is_healthy(port), "the proxy routes", instead=log_of_proxy.read_text)
            handed_over = text_of(port)
        counts = moved(generation)
        assert (counts["trtdisagg_kv_transfers_total"], counts["trtdisagg_kv_transfer_failures_total"]) == (1, 0)
        assert handed_over == text_of(generation)
        log = started.log.read_text()
        assert log.count("mpi-worker is deprecated") == 1
        assert "comes by mpi" in log
        started.process.terminate()
        code = started.process.wait(DEADLINE_S)
    if kind == "mpich":  # Open MPI kills its processes half a second after it was told to end
        assert code == 0, started.log.read_text()
        assert started.log.read_text().count("drained") == 2
    assert not list(runtime_directory(tmp_path).iterdir())


def test_another_number_of_processes_does_not_start(tmp_path: Path) -> None:
    file, _ = write_file(tmp_path)
    with world("mpich", tmp_path, [[]] * 3, "mpi-worker", "-c", str(file)) as started:
        assert started.process.wait(DEADLINE_S) == 2
    log = started.log.read_text()
    assert "has started 3 processes, and the file has 2 ranks" in log
    assert log.count("trtdisagg: error:") == 1


def test_processes_that_mpi_knows_nothing_of_are_told_so(tmp_path: Path) -> None:
    """As those of `srun --mpi=none`: each is alone in a world of one."""
    file, _ = write_file(tmp_path)
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "node1", "SLURM_NODEID": "0"}
    step |= {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    environment = {**os.environ, **launcher("mpich").variables, **step, "PYTHONPATH": str(REPOSITORY)}
    argv = [*TRTDISAGG, "mpi-worker", "-c", str(file)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 1
    assert "2 processes were started, and MPI (MPICH" in done.stderr
    assert "finds 1: mpirun must be that of the same MPI, and srun needs --mpi=pmix" in done.stderr


@needs_root
def test_a_server_spans_hosts(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--soak"):
        pytest.skip("with --soak: its ranks meet as others that span hosts do")
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text("sesame")
    with hosts(2) as two:
        more = f"secret_file: {tmp_path / 'secret'}"
        file, (_, _, port) = write_file(tmp_path, two[0].address, more=more, tp=2, has_context=False)
        prefixes = [host.prefix for host in two]
        with world("mpich", tmp_path, prefixes, "mpi-worker", "-c", str(file)) as started:
            started.until_serves("generation-0")
            url = f"http://{two[0].address}:{port}/v1/completions"
            answer = two[0].inside(lambda: post(url, BODY, "sesame"))
        assert answer["usage"]["completion_tokens"] == BODY["max_tokens"]
