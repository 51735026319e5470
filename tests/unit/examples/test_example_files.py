"""Every cluster file in examples/ can be planned, every client says how it is used, and every program runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_model

from trtdisagg.config.load import load
from trtdisagg.supervisor.survey import survey

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
CLUSTER_FILES = sorted(EXAMPLES.glob("*.yaml"))
NUM_SERVERS = {
    "smollm2.yaml": (1, 1, 0),
    "trtllm_disagg_config.yaml": (0, 0, 3),
    "trtllm_model_and_urls.yaml": (1, 1, 0),
    "parallel.yaml": (1, 1, 0),
    "several_models.yaml": (2, 2, 0),
    "two_by_one.yaml": (2, 1, 0),
}
"""File: context servers, generation servers, servers that run already."""


def test_every_file_is_looked_at() -> None:
    assert [file.name for file in CLUSTER_FILES] == sorted(NUM_SERVERS)


@pytest.mark.real_model
@pytest.mark.parametrize("file", CLUSTER_FILES, ids=lambda file: file.name)
def test_cluster_file(file: Path) -> None:
    loaded = load(file)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    roles = [server.role for server in plan.servers]
    assert (roles.count("context"), roles.count("generation"), len(plan.upstream)) == NUM_SERVERS[file.name]
    assert plan.proxy is not None
    assert plan.proxy.url == "127.0.0.1:8000"


@pytest.mark.parametrize("client", sorted((EXAMPLES / "clients").glob("*.py")), ids=lambda file: file.name)
def test_client_help(client: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, client, "--help"], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("usage: ")


PROGRAMS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two executors need two cores")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda file: file.name)
def test_program(program: Path, tmp_path: Path) -> None:
    """With a small model. What it prints are two answers to one prompt."""
    model = tiny_model.write(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, program, "hello", "--model", model, "--dtype", "float32", "--max-tokens", "8"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    _, one, other = re.split(r"^(?:by hand|orchestrated|greedy|sampled): +", done.stdout, flags=re.MULTILINE)
    assert one.startswith("hello")
    assert (one == other) == (program.name == "python_disaggregated.py")


def test_programs_are_found() -> None:
    assert [file.name for file in PROGRAMS] == ["python_disaggregated.py", "python_executor.py"]
