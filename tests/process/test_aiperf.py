"""AIPerf measures what `bench serve` measures: both put the same load on the same cluster, and find the same.

Servers are fake engines with a token every 30 ms, so that the machine matters little. See docs/measuring.md for how
AIPerf is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster import Cluster, running
from helpers.plans import FAKE_ENGINE
from helpers.ports import free_port
from helpers.trained_tokenizers import trained

AIPERF = shutil.which("aiperf")

pytestmark = [
    pytest.mark.aiperf,
    pytest.mark.skipif(AIPERF is None, reason="there is no aiperf (pip install aiperf, in an environment of its own)"),
]

NUM_REQUESTS, CONCURRENCY, ISL, OSL = 24, 4, 64, 48
"""Answers of a second and a half: what passes between two requests of a client is small beside them."""


def test_both_find_the_same(tmp_path: Path) -> None:
    text = f"""\
name: aiperf
model: fake-model
port: {free_port()}
command: {[*FAKE_ENGINE, "--token-delay-ms", "30"]}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 1}}
"""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    trained("llama3").save(str(tokenizer / "tokenizer.json"))
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with running(tmp_path, text) as cluster:
        theirs = measured_by_aiperf(cluster, tokenizer)
        ours = measured_by_bench_serve(cluster, tokenizer)
    print(json.dumps({"aiperf": theirs, "bench serve": ours}, indent=2))
    assert ours["num_requests"] == theirs["num_requests"] == NUM_REQUESTS
    assert ours["num_output_tokens"] == theirs["num_output_tokens"] == NUM_REQUESTS * OSL
    assert ours["p50_ttft_ms"] == pytest.approx(theirs["p50_ttft_ms"], abs=30)
    assert ours["mean_tpot_ms"] == pytest.approx(theirs["mean_tpot_ms"], rel=0.1)
    assert ours["p50_itl_ms"] == pytest.approx(theirs["p50_itl_ms"], rel=0.1)
    assert ours["p50_e2el_ms"] == pytest.approx(theirs["p50_e2el_ms"], rel=0.1)
    assert ours["output_throughput"] == pytest.approx(theirs["output_throughput"], rel=0.15)


def measured_by_bench_serve(cluster: Cluster, tokenizer: Path) -> dict[str, float]:
    file = cluster.directory / "report.json"
    done = cluster.run(
        "bench",
        "serve",
        "--endpoint=chat",
        f"--tokenizer={tokenizer}",
        f"--concurrency={CONCURRENCY}",
        f"--num-prompts={NUM_REQUESTS}",
        f"--isl={ISL}",
        f"--osl={OSL}",
        f"--json={file}",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    named = {"num_requests": report["completed"], "num_output_tokens": report["total_output_tokens"]}
    times = ("p50_ttft_ms", "mean_tpot_ms", "p50_itl_ms", "p50_e2el_ms", "output_throughput")
    return {**named, **{name: report[name] for name in times}}


def measured_by_aiperf(cluster: Cluster, tokenizer: Path) -> dict[str, float]:
    """What it calls inter token latency is the mean of a request, which others call TPOT."""
    artifacts = cluster.directory / "aiperf"
    assert AIPERF is not None
    command = [AIPERF, "profile", "--model", "fake-model", "--tokenizer", str(tokenizer), "--url", cluster.url]
    command += ["--endpoint-type", "chat", "--streaming", "--concurrency", str(CONCURRENCY)]
    command += ["--request-count", str(NUM_REQUESTS), "--isl", str(ISL), "--osl", str(OSL)]
    command += ["--use-server-token-count", "--ui", "none", "--artifact-dir", str(artifacts)]
    done = subprocess.run(command, cwd=cluster.directory, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((artifacts / "profile_export_aiperf.json").read_text())
    return {
        "num_requests": found["request_count"]["avg"],
        "num_output_tokens": found["total_output_tokens"]["avg"],
        "p50_ttft_ms": found["time_to_first_token"]["p50"],
        "mean_tpot_ms": found["inter_token_latency"]["avg"],
        "p50_itl_ms": found["inter_chunk_latency"]["p50"],
        "p50_e2el_ms": found["request_latency"]["p50"],
        "output_throughput": found["output_token_throughput"]["avg"],
    }
