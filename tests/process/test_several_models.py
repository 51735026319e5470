"""Several models in one cluster file, on fake engines: each has servers of its own, and comes and goes alone."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.cluster import REPOSITORY, Cluster, post, running
from helpers.load import Load
from helpers.ports import free_port
from helpers.waiting import until

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
MODELS = {"a": "- {name: a, model: fake-a}", "b": "- {name: b, model: fake-b, served_model_name: org/b}"}
THIRD = "- {name: c, model: fake-c}"


def text(port: int, *entries: str) -> str:
    models = "\n".join(entries)
    return f"name: several\nport: {port}\ncommand: {FAKE}\nsupervision: {{kill_timeout_s: 5}}\nmodels:\n{models}\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("models"), text(free_port(), *MODELS.values())) as it:
        yield it


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.load(e)


def taken(cluster: Cluster) -> dict[str, int]:
    """Requests that each server has taken."""
    servers = [s for s in cluster.status()["servers"] if s["role"] != "proxy"]
    states = {s["name"]: get(f"http://{s['url']}/fake/state")[1] for s in servers}
    return {name: c["context"] + c["generation"] + c["aggregated"] for name, c in states.items()}


def ask(cluster: Cluster, model: str) -> tuple[int, Any]:
    return post(f"{cluster.url}/v1/completions", {"model": model, "prompt": "hello", "max_tokens": 4})


def served(cluster: Cluster) -> list[str]:
    return [card["id"] for card in get(f"{cluster.url}/v1/models")[1]["data"]]


def test_requests_for_one_model_never_reach_servers_of_another(cluster: Cluster) -> None:
    assert served(cluster) == ["a", "org/b"]
    before = taken(cluster)
    assert sorted(before) == ["a.context-0", "a.generation-0", "b.context-0", "b.generation-0"]
    for _ in range(5):
        status, answer = ask(cluster, "org/b")
        assert (status, answer["model"]) == (200, "org/b")
    after = taken(cluster)
    assert {name: after[name] - before[name] for name in before} == {
        "a.context-0": 0,
        "a.generation-0": 0,
        "b.context-0": 5,
        "b.generation-0": 5,
    }
    assert ask(cluster, "b")[0] == 404, "clients ask by the served name"


def test_links_for_kv_are_within_a_model(cluster: Cluster) -> None:
    links = cluster.status()["links"]
    assert links
    assert all(link["context"].partition(".")[0] == link["generation"].partition(".")[0] for link in links)


def test_one_model_is_scaled_and_the_last_that_generates_is_kept(cluster: Cluster) -> None:
    done = cluster.run("scale", str(cluster.file), "b.generation=2")
    assert done.returncode == 0, done.stderr
    assert "b.generation-1" in taken(cluster)
    assert cluster.run("scale", str(cluster.file), "b.generation=1").returncode == 0
    refused = cluster.run("drain", str(cluster.file), "b.generation-0")
    assert refused.returncode != 0
    assert "no server would be left that generates for b" in refused.stderr
    unknown = cluster.run("scale", str(cluster.file), "generation=2")
    assert "there is no role 'generation' to scale; there are: a.context, a.generation" in unknown.stderr


def test_a_model_is_taken_away_and_another_added_while_the_first_serves(cluster: Cluster) -> None:
    port = int(cluster.url.rpartition(":")[2])
    with Load(cluster.url, 4, model="a").running() as load:
        load.until(4)
        cluster.file.write_text(text(port, MODELS["a"], THIRD))
        done = cluster.run("up", str(cluster.file), "-d", "--wait")
        assert done.returncode == 0, done.stderr
        load.until(4)
    assert load.problems == []
    until(lambda: served(cluster) == ["a", "c"], "the models that are served", instead=lambda: served(cluster))
    assert ask(cluster, "c")[0] == 200
    assert ask(cluster, "org/b")[0] == 404
    assert get(f"{cluster.url}/health") == (200, {"status": "ok"})
