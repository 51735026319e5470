"""Whom a real proxy routes to: told by an agent, found at fixed addresses, doubted and trusted again."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import words
from helpers.serving import DEADLINE_S, MODEL, FakeEngine, Serving, serving

from trtdisagg.protocol.control import Members


def get(cluster: Serving, path: str) -> tuple[int, Any]:
    return fetch(urllib.request.Request(cluster.url + path))


def complete(cluster: Serving, prompt: str, model: str = MODEL) -> tuple[int, Any]:
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": 3}).encode()
    return fetch(urllib.request.Request(f"{cluster.url}/v1/completions", body))


def fetch(request: urllib.request.Request) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        with e:
            return e.code, json.load(e)


def until(condition: Callable[[], bool]) -> None:
    """Poll what another process finds out for itself."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_members_come_and_go(tmp_path: Path) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": [], "generation-1": []}) as cluster:
        context, first, second = (cluster[n] for n in ("context-0", "generation-0", "generation-1"))
        cluster.tell()
        assert get(cluster, "/health")[0] == 503
        assert complete(cluster, "p")[0] == 503
        cluster.tell(context.member, first.member)
        assert get(cluster, "/health") == (200, {"status": "ok"})
        assert [complete(cluster, f"p{i}")[0] for i in range(3)] == [200] * 3
        assert first.state()["generation"] == 3
        cluster.tell(context.member, second.member)
        assert [complete(cluster, f"p{i}")[0] for i in range(3)] == [200] * 3
        assert (first.state()["generation"], second.state()["generation"]) == (3, 3)
        cluster.tell(context.member, first.member, second.member)
        assert [complete(cluster, f"p{i}")[0] for i in range(4)] == [200] * 4
        assert (first.state()["generation"], second.state()["generation"]) == (5, 5), "taken in turn"


def test_ready_is_when_every_model_has_what_it_needs(tmp_path: Path) -> None:
    with serving(tmp_path, {"context-0": [], "generation-0": []}) as cluster:
        context, generation = cluster["context-0"].member, cluster["generation-0"].member
        needs: Any = {MODEL: ["context", "generation"]}
        cluster.proxy.stop()
    with serving(tmp_path, {}) as cluster:
        assert get(cluster, "/health") == (503, {"status": "starting", "missing": ["no server"]})
        cluster.tell(generation, needs=needs)
        status, health = get(cluster, "/health")
        assert (status, health["status"]) == (503, "starting")
        assert health["missing"] == [f"no context server for {MODEL}"]
        cluster.tell(context, generation, needs=needs)
        assert get(cluster, "/health") == (200, {"status": "ok"})
        cluster.tell(generation, needs=needs)
        status, health = get(cluster, "/health")
        assert (status, health["status"]) == (200, "degraded"), "it still answers"
        cluster.tell(context, needs=needs)
        status, health = get(cluster, "/health")
        assert (status, health["status"]) == (503, "unavailable")
        assert complete(cluster, "p")[0] == 503
        assert complete(cluster, "p", "another")[0] == 404


def test_without_renewal_what_is_known_goes_on_and_health_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, {"both-0": []}) as cluster:
        cluster.tell(cluster["both-0"].member, ttl_ms=1)
        until(lambda: get(cluster, "/health") == (200, {"status": "ok", "stale": True}))
        assert complete(cluster, "p")[0] == 200
        cluster.tell(cluster["both-0"].member)
        assert get(cluster, "/health") == (200, {"status": "ok"})


def test_a_server_of_both_roles_answers_alone(tmp_path: Path) -> None:
    with serving(tmp_path, {"both-0": [], "both-1": []}) as cluster:
        for i in range(4):
            status, answer = complete(cluster, f"p{i}")
            assert (status, answer["choices"][0]["text"]) == (200, words.answer(f"p{i}", 3))
        assert [cluster[n].state()["aggregated"] for n in ("both-0", "both-1")] == [2, 2]


def test_only_context_servers_is_not_enough(tmp_path: Path) -> None:
    with serving(tmp_path, {"context-0": []}) as cluster:
        status, answer = complete(cluster, "p")
        assert status == 503
        assert "generation" in answer["error"]["message"]
        assert get(cluster, "/health")[0] == 503


@pytest.mark.parametrize("change", [{"wire_version": 99}, {"members": "none"}])
def test_what_an_agent_of_another_kind_tells_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with serving(tmp_path, {"both-0": []}) as cluster:
        told = msgspec.to_builtins(Members(members=[])) | change
        with pytest.raises(OSError, match="refused PUT /members"):
            cluster.tell_raw(msgspec.json.encode(told))
        assert get(cluster, "/health")[0] == 200, "the set before it stands"


def test_a_server_in_doubt_is_routed_to_again_when_it_is_well(tmp_path: Path) -> None:
    with serving(tmp_path, {"both-0": [], "both-1": []}) as cluster:
        first = cluster["both-0"]
        port = int(first.url.rpartition(":")[2])
        first.process.kill()
        first.process.wait()
        assert [complete(cluster, f"p{i}")[0] for i in range(4)] == [200] * 4
        assert cluster["both-1"].state()["aggregated"] == 4
        again = FakeEngine(tmp_path, "both-0", port=port)
        try:
            again.wait_ready()

            def is_asked() -> bool:
                assert complete(cluster, "p")[0] == 200
                return bool(again.state()["aggregated"])

            until(is_asked)
        finally:
            again.close()


def test_servers_with_fixed_addresses_are_found_lost_and_found(tmp_path: Path) -> None:
    with serving(tmp_path, {"context-0": ["--ready-after=0.5"], "generation-0": []}, fixed=True) as cluster:
        until(lambda: get(cluster, "/health") == (200, {"status": "ok"}))
        assert get(cluster, "/v1/models")[1]["data"][0]["id"] == MODEL
        assert complete(cluster, "p")[1]["choices"][0]["text"] == words.answer("p", 3)
        assert "seam" in cluster["context-0"].state()["bodies"]["context"], "found out that it is one of ours"
        cluster["generation-0"].process.send_signal(signal.SIGTERM)
        cluster["generation-0"].process.wait(DEADLINE_S)
        until(lambda: get(cluster, "/health")[0] == 503)
        assert complete(cluster, "p")[0] == 503
        again = FakeEngine(tmp_path, "generation-0", port=int(cluster["generation-0"].url.rpartition(":")[2]))
        try:
            until(lambda: get(cluster, "/health") == (200, {"status": "ok"}))
            assert complete(cluster, "p")[0] == 200
        finally:
            again.close()


def test_foreign_servers_with_fixed_addresses(tmp_path: Path) -> None:
    engines = {"context-0": ["--foreign"], "generation-0": ["--foreign"]}
    with serving(tmp_path, engines, fixed=True) as cluster:
        until(lambda: get(cluster, "/health")[0] == 200)
        assert complete(cluster, "p")[1]["choices"][0]["text"] == words.answer("p", 3)
        assert "seam" not in cluster["context-0"].state()["bodies"]["context"]


def test_the_clusters_secret_goes_with_every_leg(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("swordfish\n")
    engines = {"context-0": [], "generation-0": []}
    with serving(tmp_path, engines, secret_file=str(secret), engine_secret_file=str(secret)) as cluster:
        assert complete(cluster, "p")[0] == 200
        assert cluster["generation-0"].state()["headers"]["generation"]["Authorization"] == "Bearer swordfish"


def test_a_wrong_secret_is_the_clusters_fault_not_the_clients(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("swordfish\n")
    with serving(tmp_path, {"both-0": []}, engine_secret_file=str(secret)) as cluster:
        status, answer = complete(cluster, "p")
        assert status == 502
        assert "secret" in answer["error"]["message"]
        assert "swordfish" not in cluster.proxy.log.read_text()
