"""A cluster put together by hand: servers started one by one, and a proxy over a file that only lists them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cluster import TRTDISAGG, environment, post
from helpers.ports import free_port

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(600)]


@contextlib.contextmanager
def started(directory: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    log = directory / f"{args[0]}-{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*TRTDISAGG, *args], env=environment(directory), stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(120)
    assert code == 128 + signal.SIGTERM, log.read_text()


def wait_until_healthy(port: int, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"{process.args!r} is not healthy: {[log.read_text() for log in directory.glob('*.log')]}")


def test_two_context_servers_and_one_generation_server(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(4)]
    file = tmp_path / "disagg_config.yaml"
    file.write_text(f"""\
hostname: localhost
port: {ports[3]}
backend: pytorch
context_servers:
  num_instances: 2
  urls: ["localhost:{ports[0]}", "localhost:{ports[1]}"]
generation_servers:
  num_instances: 1
  urls: ["localhost:{ports[2]}"]
""")
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(
                started(
                    tmp_path, "serve", "smollm2-135m-instruct", "--role", role, "--host", "localhost",
                    "--port", str(port), "--dtype", "float32", "--max_seq_len", "1024",
                )
            )
            for role, port in zip(["context", "context", "generation"], ports, strict=False)
        ]  # fmt: skip
        proxy = stack.enter_context(started(tmp_path, "proxy", "-c", str(file)))
        for port, process in zip(ports, [*servers, proxy], strict=True):
            wait_until_healthy(port, process, tmp_path)
        body = {"model": "smollm2-135m-instruct", "prompt": "The capital of France is", "max_tokens": 6}
        for _ in range(4):
            status, answer = post(f"http://localhost:{ports[3]}/v1/completions", {**body, "temperature": 0})
            assert status == 200, answer
            assert answer["choices"][0]["text"].startswith(" Paris.\n\nThe")
        for port in ports[:2]:
            with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=60) as metrics:
                assert b"trtllm_request_success_total" in metrics.read()
