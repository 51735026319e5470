"""Every cluster file in examples/ can be planned, and every client says how it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trtdisagg.config.load import load
from trtdisagg.supervisor.survey import survey

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
CLUSTER_FILES = sorted(EXAMPLES.glob("*.yaml"))
NUM_SERVERS = {
    "smollm2.yaml": (1, 1, 0),
    "trtllm_disagg_config.yaml": (0, 0, 3),
    "trtllm_model_and_urls.yaml": (1, 1, 0),
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
