"""A cluster as a Slurm job of several nodes, on a real Slurm: how it comes up, what it survives, how it ends."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster import REPOSITORY
from helpers.nvml import FakeNvml, gpu
from helpers.slurm import Slurm, needs_slurm, slurm
from helpers.tiny_model import write as tiny_model

pytestmark = [*needs_slurm]
FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
PORT = 8000
DEADLINE_S = 90.0
BODY = {"model": "fake-model", "prompt": "hello", "max_tokens": 3}
FILE = """\
model: fake-model
port: 8000
command: {command}
supervision: {{node_timeout_s: 5, drain_timeout_s: 10, kill_timeout_s: 2}}
context_servers: {{num_instances: {context}}}
generation_servers: {{num_instances: {generation}}}
"""
REAL_FILE = """\
model: smollm2-135m-instruct
port: 8000
dtype: float32
max_seq_len: 256
max_num_tokens: 256
supervision: {node_timeout_s: 5, drain_timeout_s: 10, kill_timeout_s: 2}
kv_cache_config: {max_tokens: 2048}
context_servers: {num_instances: 2}
generation_servers: {num_instances: 1}
"""
SCRIPT = """\
#!/bin/bash
#SBATCH --nodes={nodes} --ntasks-per-node={tasks} --no-kill --no-requeue --output={log} {options}
srun --no-kill --kill-on-bad-exit=0 --label trtdisagg up --srun {file} &
wait $!
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Slurm]:
    with slurm(3) as it:
        yield it


OPEN = """
import errno, json, os, sys
with open(sys.argv[1], "w") as group:
    group.write(str(os.getpid()))
def is_allowed(path):
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as e:
        return e.errno != errno.EPERM
    return True
print(json.dumps([i for i, path in enumerate(sys.argv[2:]) if is_allowed(path)]))
"""


class Job:
    """A cluster that was submitted."""

    def __init__(
        self, box: Slurm, text: str, *, nodes: int, tasks: int = 1, options: str = "", name: str = "cluster"
    ) -> None:
        self.box = box
        self.file = box.directory / f"{name}.yaml"
        self.file.write_text(text)
        self.log = box.directory / f"job-{time.monotonic_ns()}.log"
        script = SCRIPT.format(nodes=nodes, tasks=tasks, options=options, log=self.log, file=self.file)
        self.id = box.submit(script)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel it, if it still runs; then nothing of it is left on any node."""
        self.box.try_("scancel", self.id)
        self.box.until_over(self.id)
        deadline = time.monotonic() + DEADLINE_S
        while (left := self.box.processes(having=str(self.file))) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == [], self.text

    def status(self) -> dict[str, Any] | None:
        """As asked for on the first node; None: it does not answer."""
        done = self.box.try_("trtdisagg", "status", str(self.file), "--json", on="node01")
        return json.loads(done.stdout) if done.returncode == 0 else None

    def until(self, what: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            status = self.status()
            if status is not None and is_so(status):
                return status
            assert not self.box.is_over(self.id), f"the job is over before {what}\n{self.text}{self.box.logs()}"
            assert time.monotonic() < deadline, f"not {what}: {status}\n{self.text}{self.box.logs()}"
            time.sleep(0.2)

    def until_ready(self) -> dict[str, Any]:
        return self.until("ready", lambda status: status["state"] == "ready")

    def complete(self, body: dict[str, Any] = BODY) -> tuple[int, Any]:
        """Ask the proxy, on the first node."""
        return self.box.nodes["node01"].fetch(f"http://localhost:{PORT}/v1/completions", body)

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def file_of(context: int, generation: int) -> str:
    return FILE.format(command=json.dumps(FAKE), context=context, generation=generation)


def nodes_of(status: dict[str, Any]) -> dict[str, list[str]]:
    return {server["name"]: server["nodes"] for server in status["servers"] if server["role"] != "proxy"}


def gpus_of(box: Slurm, node: str) -> list[int]:
    """The GPUs that the servers on a node can open, by the numbers that the node itself gives them."""
    found: list[int] = []
    for process in box.on(node):
        if "fakes/engine.py" in " ".join(process.cmdline()):
            mine = openable(process.pid, box.directory / "dev")
            found += [mine[int(gpu)] for gpu in process.environ()["CUDA_VISIBLE_DEVICES"].split(",")]
    return found


def openable(pid: int, devices: Path) -> list[int]:
    """Those that a process could open, were there a driver: its control group forbids the others."""
    line = next((line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if ":devices:" in line), "::/")
    group = Path("/sys/fs/cgroup/devices") / line.split(":", 2)[2].lstrip("/")
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(group / "cgroup.procs"), *map(str, sorted(devices.iterdir()))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


# --- nodes without GPUs ---------------------------------------------------------------------------------------------


def test_verbs_on_the_first_node_are_for_all(box: Slurm) -> None:
    with Job(box, file_of(2, 1), nodes=3) as job:
        status = job.until_ready()
        assert nodes_of(status) == {"context-0": ["node01"], "context-1": ["node02"], "generation-0": ["node03"]}
        assert job.complete()[0] == 200
        assert len(box.processes("node03", having="fakes/engine.py")) == 1
        for args in (["scale", "generation=2"], ["restart", "context-1"], ["drain", "generation-0"]):
            done = box.try_("trtdisagg", *args, on="node01")
            assert done.returncode == 0, done.stderr + job.text
        status = job.until_ready()
        assert nodes_of(status)["generation-1"] == ["node01"], "the first of those with the fewest"
        assert not box.processes("node03", having="fakes/engine.py")
        logs = box.try_("trtdisagg", "logs", "context-1", on="node01")
        assert logs.stdout.count("context-1 serves on port") == 2, logs.stdout
        assert job.complete()[0] == 200


def test_a_node_is_lost_and_its_server_goes_to_another_and_the_node_comes_back(box: Slurm) -> None:
    lost = box.nodes["node03"]
    with Job(box, file_of(2, 1), nodes=3) as job:
        job.until_ready()
        lost.cut()
        try:
            status = job.until("elsewhere", lambda status: "node03" not in nodes_of(status)["generation-0"])
            assert any("node03 is lost" in event for event in status["events"]), status["events"]
            job.until_ready()
            assert job.complete()[0] == 200
            until(lambda: not box.processes("node03", having="fakes/engine.py"))  # it has lost the head
        finally:
            lost.mend()
        srun = f"srun --overlap --jobid={job.id} --nodelist=node03 --ntasks=1 --cpu-bind=none"
        box.ask("bash", "-c", f"{srun} trtdisagg up --srun --rejoin 0 {job.file} > {box.directory}/again.log 2>&1 &")
        job.until("back", lambda status: any("node03 is there again" in event for event in status["events"]))
        done = box.try_("trtdisagg", "scale", "generation=2", on="node01")
        assert done.returncode == 0, done.stderr
        assert nodes_of(job.until_ready())["generation-1"] == ["node03"]


def test_a_task_of_several_on_a_node_is_the_agent_and_the_others_end_with_it(box: Slurm) -> None:
    with Job(box, file_of(1, 1), nodes=2, tasks=3) as job:
        assert nodes_of(job.until_ready()) == {"context-0": ["node01"], "generation-0": ["node02"]}
        agents = [line for line in box.processes("node02", having="up --srun") if "srun --" not in line]
        assert len(agents) == 3
        down = box.try_("trtdisagg", "down", on="node01")
        assert down.returncode == 0, down.stderr
        assert box.until_over(job.id) == "COMPLETED", job.text


@pytest.mark.real_model
def test_a_real_model_on_three_nodes_one_of_which_is_lost(box: Slurm) -> None:
    """SmolLM2: two context servers and one generation server."""
    lost = box.nodes["node03"]
    with Job(box, REAL_FILE, nodes=3) as job:
        before = nodes_of(job.until_ready())
        assert sorted(before.values()) == [["node01"], ["node02"], ["node03"]]
        body = {
            "model": "smollm2-135m-instruct",
            "prompt": "The capital of France is",
            "max_tokens": 8,
            "temperature": 0,
        }
        status, answer = job.complete(body)
        assert (status, answer["choices"][0]["text"][:7]) == (200, " Paris."), answer
        text = answer["choices"][0]["text"]
        lost.cut()
        try:
            job.until("without node03", lambda status: ["node03"] not in nodes_of(status).values())
            job.until_ready()
            status, answer = job.complete(body)
            assert (status, answer["choices"][0]["text"]) == (200, text), answer
        finally:
            lost.mend()


# --- one command on all tasks ---------------------------------------------------------------------------------------


def test_one_command_on_all_tasks_is_one_server(box: Slurm) -> None:
    """As under `trtllm-llmapi-launch`: each task is a rank."""
    model = tiny_model(box.directory / "tiny")
    command = f"trtdisagg serve {model} --tp_size 2 --port 8001 --max_seq_len 64 --max_num_tokens 32"
    log = box.directory / "serve.log"
    job = box.submit(f"#!/bin/bash\nsrun --label {command} > {log} 2>&1\n", "--nodes=2", "--ntasks-per-node=1")
    try:
        body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 4, "temperature": 0}
        deadline = time.monotonic() + DEADLINE_S
        while (answer := box.nodes["node01"].fetch("http://localhost:8001/v1/completions", body))[0] != 200:
            assert time.monotonic() < deadline, f"{answer}\n{log.read_text()}"
            assert not box.is_over(job), log.read_text()
            time.sleep(0.2)
        assert answer[1]["usage"]["completion_tokens"] == 4
        assert [len(box.processes(node, having="-m trtdisagg.engine")) for node in box.nodes] == [1, 1, 0]
    finally:
        box.ask("scancel", job)
        box.until_over(job)
    until(lambda: not box.processes(having=str(model)))


def test_more_ranks_than_tasks_is_an_error_that_names_both(box: Slurm) -> None:
    model = tiny_model(box.directory / "small")
    done = box.try_("srun", "--nodes=2", "trtdisagg", "serve", str(model), "--tp_size", "4")
    assert done.returncode == 2, done.stderr
    assert "srun runs 2 tasks, and tp_size 4 times pp_size 1 is 4" in done.stderr


# --- nodes with GPUs ------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["without-cgroups", "with-cgroups"])
def gpu_box(request: pytest.FixtureRequest, nvml_library: Path) -> Iterator[Slurm]:
    """Two nodes of four GPUs. The driver shows those that may be opened, so with control groups a step's own."""
    with slurm(2, num_gpus=4, with_cgroups=request.param) as it:
        fake = FakeNvml(nvml_library, it.directory)
        fake.describe(*(gpu(i) for i in range(4)))
        it.env |= {**fake.env, "FAKE_NVML_DEVICES": str(it.directory / "dev")}
        yield it


def test_no_gpu_is_given_twice(gpu_box: Slurm) -> None:
    """Two jobs share the nodes: what one has, the other must not."""
    with contextlib.ExitStack() as jobs:
        for i in range(2):
            text = file_of(2, 1).replace("port: 8000", f"name: c{i}\nport: {PORT + i}")
            job = jobs.enter_context(Job(gpu_box, text, nodes=2, options="--gres=gpu:2", name=f"c{i}"))
            job.until_ready()
        pins = [f"{node}: {gpu}" for node in gpu_box.nodes for gpu in gpus_of(gpu_box, node)]
        assert len(set(pins)) == len(pins) == 6, pins


def test_a_file_that_does_not_fit_is_refused_before_anything_starts(gpu_box: Slurm) -> None:
    with Job(gpu_box, file_of(3, 2), nodes=2, options="--gres=gpu:2") as job:
        assert gpu_box.until_over(job.id) == "FAILED"
    assert "generation-1 needs 1 GPU" in job.text
    assert "missing" in job.text
    assert not list((gpu_box.directory / "run-of").rglob("*.json")), "no spec was written"
