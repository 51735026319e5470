"""Faults in an order drawn from a seed, with the real engine under load: every answer is the right one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.chaos import freeze, kill, scene
from helpers.cluster import Cluster, post
from helpers.load import NUM_TOKENS
from helpers.traces import leaving_nothing

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(900)]

SEED = 20261122
MODEL = "smollm2-135m-instruct"
PATIENT = "supervision: {max_crashes: 100, backoff_s: 0.2, max_backoff_s: 0.5, stall_timeout_s: 6}\n"
ONLY_ONE = ("503",)
"""There is one server of each role: while it is frozen, or away for longer than clients are made to wait, none."""
PROMPTS = ["The capital of France is", "Water boils at", "One, two, three,", "The opposite of cold is"]


def ask(cluster: Cluster, prompt: str) -> str:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0}
    status, answer = post(cluster.url + "/v1/completions", body)
    assert status == 200, answer
    text: str = answer["choices"][0]["text"]
    return text


def test_random_faults(tmp_path: Path, in_float32: str, request: pytest.FixtureRequest) -> None:
    num_faults = 10 if request.config.getoption("--soak") else 3
    rng = random.Random(SEED)
    cluster = Cluster(tmp_path, in_float32 + PATIENT)
    kinds = {"kill": kill, "freeze": freeze}
    pairs = [(kind, name) for kind in kinds for name in ("context-0", "generation-0", "proxy")]
    drawn = rng.sample(pairs, len(pairs)) + rng.choices(pairs, k=10)
    with leaving_nothing(cluster, {int(in_float32.partition("port: ")[2].split()[0])}):
        questions = {prompt: ask(cluster, prompt) for prompt in PROMPTS}
        assert "Paris" in questions[PROMPTS[0]]
        with scene(cluster, 2, model=MODEL, prompts=PROMPTS, expected=questions.get) as it:
            for kind, name in drawn[:num_faults]:
                it.suffer(f"{kind} {name}", kinds[kind](name), ONLY_ONE)
            it.check_agent()
