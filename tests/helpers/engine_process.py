"""Engines as the programs they are: one process for each rank, started from spec files, asked over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
from helpers.cluster import runtime_directory
from helpers.netns import Host
from helpers.waiting import DEADLINE_S, until

from trtdisagg.protocol.commands import Command, encode_command
from trtdisagg.protocol.reports import Failed, Ready, Report, decode_report
from trtdisagg.protocol.spec import EngineSpec, TransferSpec

ROOT = Path(__file__).parents[2]


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
        "transfer": TransferSpec(transports=["local"], lease_ms=600_000),
    }
    return EngineSpec(name=name, **{**fields, **changes})


class Engine:
    """A process, the reports it sends, and the commands it takes."""

    def __init__(self, process: subprocess.Popen[bytes], reports: IO[bytes], commands: IO[bytes]) -> None:
        self.process = process
        self._reports = reports
        self._commands = commands
        self.url = ""
        self.secret = ""

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
        with urllib.request.urlopen(f"{self.url}{path}", timeout=DEADLINE_S) as answer:
            text: bytes = answer.read()
            return text

    def metrics(self) -> dict[str, float]:
        """Of `/metrics`, what has no labels but the server's own, as it is now."""
        lines = [line for line in self.get("/metrics").decode().splitlines() if not line.startswith("#")]
        return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def until_free(self) -> None:
        """Wait until nothing runs, and no block belongs to anybody."""
        names = ["trtllm_num_requests_running", "trtllm_num_requests_waiting"]
        names += [f"trtdisagg_kv_blocks_{kind}" for kind in ("used", "held")]

        def owned() -> dict[str, float]:
            values = self.metrics()
            return {name: values[name] for name in names if values[name]}

        until(lambda: not owned(), "no block is in use", instead=owned)

    def post(self, **fields: Any) -> Any:
        return json.loads(self._post("/v1/completions", {"model": "tiny", "temperature": 0, **fields}))

    def release(self, ticket: str) -> None:
        """Nobody will come for what it holds."""
        self._post("/kv/release", {"ticket": ticket})

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            text: bytes = answer.read()
            return text


@contextlib.contextmanager
def started(
    spec: EngineSpec,
    tmp_path: Path,
    program: list[str] | None = None,
    *,
    inside: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Engine]:
    """
    :param inside: what runs a command on another host.
    :param variables: of its environment, beside ours.
    """
    read_fd, write_fd = os.pipe()
    command_fd, commands_fd = os.pipe()
    path = tmp_path / f"{spec.name}.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(spec, report_fd=write_fd, command_fd=command_fd)))
    command = (
        [*program, str(path), str(write_fd), str(command_fd)]
        if program
        else ["-m", "trtdisagg.engine", "--spec", str(path)]
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(variables or {})}
    inherited = [write_fd, command_fd, *([] if spec.gang_fd is None else [spec.gang_fd])]
    process = subprocess.Popen([*inside, sys.executable, *command], pass_fds=inherited, cwd=tmp_path, env=environment)
    os.close(write_fd)
    os.close(command_fd)
    with os.fdopen(read_fd, "rb") as reports, os.fdopen(commands_fd, "wb") as commands:
        try:
            engine = Engine(process, reports, commands)
            engine.secret = Path(spec.secret_file).read_text() if spec.secret_file else ""
            yield engine
        finally:
            process.kill()
            process.wait()


def ask_context(engine: Engine, prompt: str, max_tokens: int, *, seam: Any = None, **more: Any) -> dict[str, Any]:
    """The first token, and what the generation server is to be asked.

    :param seam: of the context leg.
    :param more: of both legs beside the usual.
    """
    wanted = {"max_tokens": max_tokens, "ignore_eos": True, **more}
    first = engine.post(prompt=prompt, disaggregated_params={"request_type": "context_only"}, seam=seam, **wanted)
    params = first["choices"][0]["disaggregated_params"] | {"request_type": "generation_only"}
    return {"prompt": first["prompt_token_ids"], "disaggregated_params": params, **wanted}


@contextlib.contextmanager
def started_gang(spec: EngineSpec, directory: Path) -> Iterator[list[Engine]]:
    """All ranks of a server; rank 0, which is asked, comes first."""
    spec = msgspec.structs.replace(spec, gang_socket=str(runtime_directory(directory) / f"{spec.name}.gang"))
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(started(msgspec.structs.replace(spec, rank=rank), _made(directory / f"rank-{rank}")))
            for rank in range(spec.parallel.num_ranks)
        ]


@contextlib.contextmanager
def started_across(spec: EngineSpec, hosts: Sequence[Host], directory: Path) -> Iterator[list[Engine]]:
    """Likewise, rank i on hosts[i]; they reach each other by TCP alone."""
    first = hosts[0]
    listener = first.inside(lambda: socket.create_server((first.address, 0)))
    address = f"{first.address}:{listener.getsockname()[1]}"
    with listener, contextlib.ExitStack() as stack:
        ranks = []
        for rank, host in enumerate(hosts):
            own = {"rank": rank, "host": host.address, "gang_address": address}
            own["gang_fd"] = None if rank else listener.fileno()
            spec_of_rank = msgspec.structs.replace(spec, **own)
            place = _made(directory / f"{spec.name}-{rank}")
            starting = started(spec_of_rank, place, inside=host.prefix, variables={"UCX_TLS": "tcp"})
            ranks.append(stack.enter_context(starting))
        yield ranks


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory
