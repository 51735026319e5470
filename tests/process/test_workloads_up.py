"""What loads ask, seen by the servers that are asked: a whole cluster of fake engines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.cluster import Cluster, running
from helpers.plans import FAKE_ENGINE
from helpers.ports import free_port
from helpers.trained_tokenizers import trained


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("workloads")
    (directory / "fake-model").mkdir()
    trained("llama3").save(str(directory / "fake-model" / "tokenizer.json"))
    text = f"""\
name: workloads
model: {directory / "fake-model"}
port: {free_port()}
command: {FAKE_ENGINE}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 1}}
"""
    with running(directory, text) as it:
        yield it


def bench(cluster: Cluster, *words: str) -> dict[str, Any]:
    """The report that a command of `bench` wrote."""
    file = cluster.directory / "report.json"
    done = cluster.run("bench", *words[:1], "--json", str(file), *words[1:])
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = {**json.loads(file.read_text()), "stdout": done.stdout, "stderr": done.stderr}
    return report


def test_conversations_hold_the_answers_before(cluster: Cluster) -> None:
    words = ["--endpoint=chat", "--turns=3", "--num-prompts=4", "--isl=10", "--osl=5"]
    report = bench(cluster, "serve", *words)
    assert (report["completed"], report["failed"]) == (12, 0)
    assert report["total_output_tokens"] == 12 * 5
    assert "warning" not in report["stderr"], "the tokenizer is where the cluster has its model from"
    single = bench(cluster, "serve", *words, "--turns=1")
    assert report["total_input_tokens"] > 5 * single["total_input_tokens"], "later turns are told what was said before"


def test_a_dataset_is_asked(cluster: Cluster) -> None:
    (cluster.directory / "prompts").write_text("first\nsecond\n")
    report = bench(cluster, "serve", "--dataset=prompts", "--osl=4", "--num-prompts=2")
    assert (report["completed"], report["total_input_tokens"], report["total_output_tokens"]) == (2, 5 + 6, 8)
    assert "prompts: 2 conversations (a prompt a line), OSL 4" in report["stderr"]
    (cluster.directory / "broken").write_text('{"prompt": "a"}\n{"prompt": 7}\n')
    done = cluster.run("bench", "serve", "--dataset=broken")
    assert (done.returncode, done.stderr) == (
        2,
        "trtdisagg: error: broken, line 2: prompt is to be text, not 7\n",
    )


def test_core_model_with_the_words_of_its_users(cluster: Cluster) -> None:
    before = ["-i", "openai", "--request_rate", "500", "--time_delay_dist", "exponential_dist", "--op_stats_csv", "csv"]
    lengths = ["--input_mean", "12", "--input_stdev", "2", "--output_mean", "6", "--output_stdev", "0"]
    report = bench(cluster, "core-model", *before, "token_norm_dist", *lengths, "--num_requests", "20")
    assert (report["completed"], report["total_output_tokens"]) == (20, 120)
    assert "|       Total requests       |" in report["stdout"]
    (row,) = csv.DictReader((cluster.directory / "csv").read_text().splitlines())
    assert float(row["Avg. OP tokens per request"]) == 6
    assert float(row["Avg. IP tokens per request"]) == report["total_input_tokens"] / 20


def test_core_model_of_a_dataset(cluster: Cluster) -> None:
    items = [{"input": "the quick fox", "instruction": "go on", "output": "it went " * 5}] * 3
    (cluster.directory / "data.json").write_text(json.dumps(items))
    address = cluster.url.removeprefix("http://")
    words = [
        "-u",
        address,
        "-c",
        "2",
        "dataset",
        "--dataset",
        "data.json",
        "--tokenizer-dir",
        "fake-model",
        "--num-requests",
        "2",
    ]
    report = bench(cluster, "core-model", *words)
    assert (report["completed"], report["total_output_tokens"]) == (2, 2 * int(1.3 * 10))
    assert report["total_input_tokens"] == 2 * len("the quick fox go on")
    assert "Tokenizer: Tokens per word = " in report["stderr"]
