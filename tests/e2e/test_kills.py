"""kill -9 of the real engine in the middle of a stream: the client gets token for token what it would have got."""

from __future__ import annotations

import json
import os
import random
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster import Cluster, running
from helpers.streams import put_together
from helpers.waiting import until

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

SEED = 20261122
MODEL = "smollm2-135m-instruct"
COMMON = {"model": MODEL, "max_tokens": 48, "stream": True, "stream_options": {"include_usage": True}}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "Name a city and its country, as JSON."}]
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": "Once upon a time", "temperature": 0, "logprobs": 2, "return_token_ids": True},
    "seeded": {"prompt": "The three best fruits are", "temperature": 1.2, "top_p": 0.9, "seed": 7, "ignore_eos": True},
    "stop": {"prompt": "One, two, three, four,", "temperature": 0, "stop": ["nine"], "frequency_penalty": 0.3},
    "json": {
        "messages": MESSAGES,
        "temperature": 0.8,
        "seed": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}},
    },
    "chat": {"messages": [{"role": "user", "content": "Tell me about rivers."}], "temperature": 0, "logprobs": True},
}


def test_no_token_is_another_one(tmp_path: Path, in_float32: str, request: pytest.FixtureRequest) -> None:
    text = in_float32.replace("generation_servers: {num_instances: 1}", "generation_servers: {num_instances: 2}")
    rng = random.Random(SEED)
    names = list(ASKED) if request.config.getoption("--soak") else ["seeded", "json"]
    with running(tmp_path, text + "supervision: {max_crashes: 1000, backoff_s: 0.2, max_backoff_s: 0.5}\n") as cluster:
        url = cluster.url
        for name in names:
            expected = said(ask(cluster, url, ASKED[name]))
            kill_behind, before = rng.randint(1, len(expected["tokens"]) // 2), num_broken(cluster)
            logprobs_expected = expected.pop("logprobs")
            while num_broken(cluster) == before:  # a client that is slow may have killed what had said all
                until(lambda: all_ready(cluster), "all servers are ready", 120)
                broken = said(ask(cluster, url, ASKED[name], kill_behind=kill_behind))
                assert broken.pop("logprobs") == pytest.approx(logprobs_expected, abs=1e-3)
                assert broken == expected, f"{name}, broken behind {kill_behind} events"


def num_broken(cluster: Cluster) -> int:
    """How many answers have broken off."""
    log = next(cluster.directory.rglob("proxy.log")).read_text()
    return log.count("WARNING trtdisagg.proxy.path.relay")


def ask(cluster: Cluster, url: str, asked: dict[str, Any], *, kill_behind: int | None = None) -> list[Any]:
    """The events of a stream, whose generation server is killed behind so many of them."""
    path = "chat/completions" if "messages" in asked else "completions"
    body = json.dumps({**COMMON, **asked}).encode()
    request = urllib.request.Request(f"{url}/v1/{path}", body, {"Content-Type": "application/json"})
    events: list[Any] = []
    with urllib.request.urlopen(request, timeout=120) as answer:
        pid = cluster.server(answer.headers["x-trtdisagg-generation"])["pid"]
        for line in answer:
            if line.strip():
                data = line.removeprefix(b"data: ").strip()
                events.append("[DONE]" if data == b"[DONE]" else json.loads(data))
                if len(events) == kill_behind:
                    os.kill(pid, signal.SIGKILL)
    assert events[-1] == "[DONE]", events[-1]
    return events[:-1]


def said(events: list[Any]) -> dict[str, Any]:
    """What a client makes of a stream, but for its id and its time."""
    whole = put_together([*events, "data: [DONE]"])
    tokens = [token for event in events for token in event["seam"][1]]
    usage = {name: whole["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    [choice] = whole["choices"]
    return {"logprobs": logprobs(choice.pop("logprobs")), "choice": choice, "tokens": tokens, "usage": usage}


def logprobs(told: dict[str, Any] | None) -> list[float]:
    """Of the tokens themselves; prefill rounds them otherwise than decode does."""
    if told is None:
        return []
    return told["token_logprobs"] if "token_logprobs" in told else [token["logprob"] for token in told["content"]]


def all_ready(cluster: Cluster) -> bool:
    return all(server["state"] == "ready" for server in cluster.status()["servers"])
