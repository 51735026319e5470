"""The verbs on the real engine, under load: nothing is lost, and a switched server keeps its weights.

Of a tiny model, since a rolling restart loads each server anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import tiny_model
from helpers.cluster import Cluster, running
from helpers.load import Load

pytestmark = pytest.mark.timeout(600)

TEXT = """\
model: {model}
port: 0
max_seq_len: 128
kv_cache_config: {{max_tokens: 4096}}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 2}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("verbs")
    with running(directory, TEXT.format(model=tiny_model.write(directory / "tiny"))) as it:
        yield it


def load_on(cluster: Cluster) -> Load:
    return Load(cluster.url, 3, "tiny", expected=lambda _: None)


def done(cluster: Cluster, *args: str) -> None:
    result = cluster.run(*args)
    assert result.returncode == 0, result.stderr + cluster.logs()


def pids(cluster: Cluster) -> dict[str, Any]:
    return {server["name"]: server["pid"] for server in cluster.status()["servers"]}


def test_a_switched_server_keeps_its_weights(cluster: Cluster) -> None:
    before = pids(cluster)
    with load_on(cluster).running() as load:
        load.until(3)
        done(cluster, "switch", "generation-1", "--to", "context")
        assert cluster.server("generation-1")["role"] == "context"
        load.until(6)
        done(cluster, "switch", "generation-1", "--to", "generation")
        load.until(3)
    assert load.problems == []
    assert pids(cluster) == before
    assert cluster.run("logs", "generation-1", "-n", "1000").stdout.count("loading: weights") == 1


def test_a_rolling_restart_of_all_loses_nothing(cluster: Cluster) -> None:
    before = pids(cluster)
    with load_on(cluster).running() as load:
        load.until(3)
        done(cluster, "restart", "--rolling", "all")
        load.until(3)
    assert load.problems == []
    after = pids(cluster)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
