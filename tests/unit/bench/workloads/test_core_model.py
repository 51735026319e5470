from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers.serve_reports import serve_report
from helpers.trained_tokenizers import trained
from rich.console import Console

from trtdisagg.bench.workloads.core_model import CoreModelLoad, core_model_stats, dataset_load, norm_dist_load
from trtdisagg.bench.workloads.lengths import Normal
from trtdisagg.bench.workloads.vocabulary import Vocabulary
from trtdisagg.cli.bench.core_model import command
from trtdisagg.cli.bench.core_model_view import core_model_view, stats_writing
from trtdisagg.errors import ConfigError

REPORT = serve_report(
    duration=2.0,
    completed=4,
    total_input_tokens=514,
    total_output_tokens=82,
    request_throughput=2.0,
    output_throughput=41.0,
    mean_e2el_ms=313.93,
    p99_e2el_ms=624.954,
    p90_e2el_ms=527.75,
)


def lengths(load: CoreModelLoad) -> tuple[list[int], list[int]]:
    asked = list(load.workload.opening())[: load.num_prompts]
    return [a.num_input_tokens or 0 for a in asked], [a.max_tokens for a in asked]


# --- token-norm-dist ------------------------------------------------------------------------------------------------


def test_lengths_are_normally_distributed() -> None:
    load = norm_dist_load(Normal(128, 5), Normal(20, 2), num_requests=2000, max_input_len=None)
    assert (load.num_prompts, load.num_warmups) == (2000, 10)
    inputs, outputs = lengths(load)
    assert statistics.fmean(inputs) == pytest.approx(128, abs=0.5)
    assert statistics.stdev(inputs) == pytest.approx(5, rel=0.1)
    assert statistics.fmean(outputs) == pytest.approx(20, abs=0.2)
    assert statistics.stdev(outputs) == pytest.approx(2, rel=0.1)
    prompts = [a.prompt for a in load.workload.opening()]
    assert [len(p) for p in prompts[:2000]] == inputs
    assert len(set(prompts)) == len(prompts)


def test_of_the_requests_those_that_are_too_long_are_left_out() -> None:
    load = norm_dist_load(Normal(128, 5), Normal(20, 2), num_requests=1000, max_input_len=128)
    assert 400 < load.num_prompts < 650
    assert max(lengths(load)[0]) == 128
    with pytest.raises(ConfigError, match="as short as --max-input-len"):
        norm_dist_load(Normal(128, 5), Normal(20, 2), num_requests=10, max_input_len=1)


# --- dataset --------------------------------------------------------------------------------------------------------


def dataset(tmp_path: Path, num_items: int, **options: Any) -> CoreModelLoad:
    items = [{"input": "the fox " * (i + 1), "instruction": "sum up", "output": "so it is"} for i in range(num_items)]
    file = tmp_path / "data.json"
    file.write_text(json.dumps(items))
    return dataset_load(file, Vocabulary(trained("llama3"), ""), **{"max_input_len": None, **options})


def test_as_many_requests_as_the_dataset_has_and_others_to_warm_up(tmp_path: Path) -> None:
    load = dataset(tmp_path, 5, num_requests=100)
    assert (load.num_prompts, load.num_warmups) == (5, 0)
    assert next(load.workload.opening()).prompt == "the fox  sum up"
    assert lengths(load)[1] == [3] * 5, "three words of 1.3 tokens"
    load = dataset(tmp_path, 20, num_requests=15, tokens_per_word=2.0)
    assert (load.num_prompts, load.num_warmups) == (15, 5)
    assert lengths(load)[1] == [6] * 15


def test_tokens_per_word_are_those_of_the_prompts(tmp_path: Path) -> None:
    vocabulary = Vocabulary(trained("llama3"), "")
    assert dataset(tmp_path, 1, num_requests=1).tokens_per_word == vocabulary.count("the fox  sum up") / 4


def test_long_prompts_of_a_dataset_are_left_out(tmp_path: Path) -> None:
    limit = Vocabulary(trained("llama3"), "").count("the fox the fox  sum up")
    assert dataset(tmp_path, 5, num_requests=5, max_input_len=limit).num_prompts == 2
    with pytest.raises(ConfigError, match="as short as --max-input-len"):
        dataset(tmp_path, 5, num_requests=5, max_input_len=1)


# --- the table ------------------------------------------------------------------------------------------------------

TABLE = """\
+----------------------------+---------+
|            Stat            |  Value  |
+----------------------------+---------+
|        Requests/Sec        |  2.00   |
|       OP tokens/sec        |  41.00  |
|     Avg. latency (ms)      | 313.93  |
|      P99 latency (ms)      | 624.95  |
|      P90 latency (ms)      | 527.75  |
| Avg. IP tokens per request | 128.50  |
| Avg. OP tokens per request |  20.50  |
|     Total latency (ms)     | 2000.00 |
|       Total requests       |  4.00   |
+----------------------------+---------+
"""


def test_the_table_is_that_of_benchmark_core_model() -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(core_model_view(REPORT))
    assert captured.get() == TABLE


def test_rows_of_runs_are_added_below_one_header(tmp_path: Path) -> None:
    file = tmp_path / "stats.csv"
    for _ in range(2):
        with stats_writing(file) as write:
            write(REPORT)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [{name: str(value) for name, value in core_model_stats(REPORT).items()}] * 2


def test_a_file_that_cannot_be_written_is_told_before_the_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--op-stats-csv .* cannot be written"), stats_writing(tmp_path):
        pytest.fail("nothing is to be measured")


def test_a_disk_that_is_full_by_then_is_told_in_a_line() -> None:
    with (
        pytest.raises(ConfigError, match="--op-stats-csv /dev/full cannot be written: No space left on device"),
        stats_writing(Path("/dev/full")) as write,
    ):
        write(REPORT)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-i", "grpc", "dataset"], "'grpc' is not 'openai'"),
        (["--request_rate", "0", "dataset"], "above 0, or -1"),
        (["--time_delay_dist", "normal", "dataset"], "'normal' is not one of"),
        (["token_norm_dist"], "Missing option '--input-mean'"),
        (["token_from_histogram"], "No such command"),
    ],
)
def test_what_the_command_does_not_take(words: list[str], reason: str) -> None:
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 2
    assert reason in done.output
