"""The engine as the program it is: started from a spec file, asked over HTTP, ended by signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest
from helpers import tiny_model

from trtdisagg.protocol.commands import encode_command
from trtdisagg.protocol.reports import decode_report
from trtdisagg.protocol.spec import Beat, Command, EngineSpec, Failed, Loading, Ready, Report, SwitchRole, TransferSpec

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90
PARENT = """
import os, subprocess, sys
spec, fd = sys.argv[1], int(sys.argv[2])
text = open(spec).read().replace('"parent_pid":1', f'"parent_pid":{os.getpid()}')
open(spec, "w").write(text)
command = int(sys.argv[3])
sys.exit(subprocess.call([sys.executable, "-m", "trtdisagg.engine", "--spec", spec], pass_fds=[fd, command]))
"""


def make_spec(model: Path, name: str, **changes: Any) -> EngineSpec:
    fields: dict[str, Any] = {
        "cluster": "c",
        "role": "both",
        "incarnation": f"{name}.1",
        "model": "tiny",
        "model_path": str(model),
        "dtype": "float32",
        "max_seq_len": 128,
        "max_num_tokens": 32,
        "num_blocks": 32,
        "tokens_per_block": 8,
        "transfer": TransferSpec(transports=["local"]),
    }
    return EngineSpec(name=name, **{**fields, **changes})


class Engine:
    """A process, the reports it sends, and the commands it takes."""

    def __init__(self, process: subprocess.Popen[bytes], reports: IO[bytes], commands: IO[bytes]) -> None:
        self.process = process
        self._reports = reports
        self._commands = commands
        self.url = ""

    def command(self, command: Command) -> None:
        self._commands.write(encode_command(command))
        self._commands.flush()

    def report(self, *kinds: type[Report]) -> Any:
        """The next report of these kinds; None when the process has ended."""
        for line in self._reports:
            if isinstance(report := decode_report(line), kinds):
                return report
        return None

    def ready(self) -> Ready:
        report = self.report(Ready, Failed)
        assert isinstance(report, Ready), report
        self.url = f"http://{report.host}:{report.port}"
        return report

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=TIMEOUT_S) as answer:
            text: bytes = answer.read()
            return text

    def post(self, **fields: Any) -> Any:
        body = json.dumps({"model": "tiny", "temperature": 0, **fields}).encode()
        with urllib.request.urlopen(f"{self.url}/v1/completions", body, timeout=TIMEOUT_S) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def started(spec: EngineSpec, tmp_path: Path, program: list[str] | None = None) -> Iterator[Engine]:
    read_fd, write_fd = os.pipe()
    command_fd, commands_fd = os.pipe()
    path = tmp_path / f"{spec.name}.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, report_fd=write_fd, command_fd=command_fd)))
    command = (
        [*program, str(path), str(write_fd), str(command_fd)]
        if program
        else ["-m", "trtdisagg.engine", "--spec", str(path)]
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *command], pass_fds=[write_fd, command_fd], cwd=tmp_path, env=environment
    )
    os.close(write_fd)
    os.close(command_fd)
    with os.fdopen(read_fd, "rb") as reports, os.fdopen(commands_fd, "wb") as commands:
        try:
            yield Engine(process, reports, commands)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")


def test_requests_over_two_engines_the_last_while_the_context_server_drains(model: Path, tmp_path: Path) -> None:
    with (
        started(make_spec(model, "context-0", enable_block_reuse=False), tmp_path) as context,
        started(make_spec(model, "generation-0", cores=[0], enable_block_reuse=False), tmp_path) as generation,
    ):
        for engine in (context, generation):
            assert engine.report(Loading) is not None
            ready = engine.ready()
            assert (ready.max_seq_len, ready.num_blocks, ready.dtype) == (128, 32, "float32")
        assert os.sched_getaffinity(generation.process.pid) == {0}

        whole = context.post(prompt="x" * 50, max_tokens=20, ignore_eos=True)["choices"][0]["text"]
        rest = generation.post(**ask_context(context, "x" * 50, 20))
        assert rest["choices"][0]["text"] == whole
        assert rest["usage"]["completion_tokens"] == 20
        while not (stats := generation.report(Beat).stats).num_transfers_total:
            pass
        assert (stats.num_transfer_failures_total, stats.num_used_blocks) == (0, 0)
        assert stats.num_transfer_bytes_total > 0

        rest = ask_context(context, "x" * 50, 20)
        context.process.send_signal(signal.SIGTERM)
        while not context.report(Beat).stats.num_held_blocks:
            pass
        assert context.process.poll() is None  # it drains: what it holds is still to be had
        assert generation.post(**rest)["choices"][0]["text"] == whole
        assert context.process.wait(TIMEOUT_S) == 0
        while (stats := generation.report(Beat).stats).num_transfers_total < 2:
            pass
        assert stats.num_transfer_failures_total == 0
        generation.process.send_signal(signal.SIGTERM)
        assert generation.process.wait(TIMEOUT_S) == 0


def ask_context(engine: Engine, prompt: str, max_tokens: int) -> dict[str, Any]:
    """The first token, and what the generation server is to be asked."""
    first = engine.post(
        prompt=prompt, max_tokens=max_tokens, ignore_eos=True, disaggregated_params={"request_type": "context_only"}
    )
    params = first["choices"][0]["disaggregated_params"] | {"request_type": "generation_only"}
    fields = {"prompt": first["prompt_token_ids"], "max_tokens": max_tokens, "ignore_eos": True}
    return {**fields, "disaggregated_params": params}


def test_a_server_in_the_other_role_keeps_weights_blocks_and_answers(model: Path, tmp_path: Path) -> None:
    with (
        started(make_spec(model, "context-0", role="context", enable_block_reuse=False), tmp_path) as one,
        started(make_spec(model, "generation-0", role="generation", enable_block_reuse=False), tmp_path) as other,
    ):
        ready = {engine: engine.ready() for engine in (one, other)}
        texts = [other.post(**ask_context(one, "x" * 50, 9))["choices"][0]["text"]]
        for engine, role in ((one, "generation"), (other, "context")):
            engine.command(SwitchRole(role=role))
            assert engine.ready() == msgspec.structs.replace(ready[engine], role=role)
            assert json.loads(engine.get("/server_info"))["role"] == role
            assert engine.get("/health_generate") == b'{"status":"ok"}'
        texts.append(one.post(**ask_context(other, "x" * 50, 9))["choices"][0]["text"])
        assert texts[0] == texts[1]
        while not (stats := one.report(Beat).stats).num_transfers_total:
            pass
        assert (stats.num_transfer_failures_total, stats.transfer_seconds_total > 0) == (0, True)
        assert sum(stats.first_token_counts) == 2
        assert sum(stats.per_token_counts) == 1


def test_engine_ends_with_its_parent(model: Path, tmp_path: Path) -> None:
    spec = make_spec(model, "context-0", parent_pid=1, transfer=TransferSpec())
    with started(spec, tmp_path, ["-c", PARENT]) as parent:
        assert parent.report(Loading) is not None
        parent.process.kill()
        while parent.report(Loading, Ready, Beat):  # the pipe ends with the engine, the last that has it
            pass


def test_no_model_is_one_clear_message(tmp_path: Path) -> None:
    with started(make_spec(tmp_path / "nothing", "context-0"), tmp_path) as engine:
        failed = engine.report(Failed)
        assert "There is no model at" in failed.message
        assert engine.process.wait(TIMEOUT_S) == 1


def test_port_in_use_is_found_before_anything_is_loaded(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = make_spec(model, "context-0", port=taken.getsockname()[1])
        with started(spec, tmp_path) as engine:
            report = engine.report(Loading, Failed)
            assert isinstance(report, Failed)
            assert f"in use by pid {os.getpid()}" in report.message
            assert engine.process.wait(TIMEOUT_S) == 1


def test_spec_that_does_not_fit_the_model(model: Path, tmp_path: Path) -> None:
    with started(make_spec(model, "context-0", max_seq_len=1000), tmp_path) as engine:
        failed = engine.report(Failed)
        assert failed.fatal
        assert "knows 256 positions" in failed.message
        assert engine.process.wait(TIMEOUT_S) == 2
