"""One real cluster for all tests that only talk to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.cluster import Cluster, running
from helpers.ports import free_port

FLOAT32 = """\
model: smollm2-135m-instruct
port: {port}
dtype: float32
max_seq_len: 2048
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 1}}
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One context and one generation server with the real model in float32, KV over shared memory."""
    with running(tmp_path_factory.mktemp("cluster"), FLOAT32.format(port=free_port())) as it:
        yield it


@pytest.fixture
def in_float32() -> str:
    """The text of a cluster file of its own for a test that disturbs its cluster."""
    return FLOAT32.format(port=free_port())
