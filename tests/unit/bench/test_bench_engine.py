"""`trtdisagg bench engine` as it is called: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from helpers import tiny_model

from trtdisagg.bench import program as bench
from trtdisagg.bench.program import MeasureError, measured
from trtdisagg.cli.main import cli
from trtdisagg.protocol.bench import Measure, Report

LONG_S = 60.0


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", "engine", *map(str, args)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that knows enough positions for w3."""
    directory = tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return directory


def test_the_whole_of_it(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = call("--model", model, "--dtype", "float32", "--threads", 1, "--rounds", 1, "--json", file)
    assert done.exit_code == 0, done.output
    assert "round 1 of 1: w3" in done.stderr
    assert "w2 many at once" in done.stdout
    assert "memory" in done.stdout
    written = json.loads(file.read_bytes())
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    assert report.measured.num_rounds == 1
    for workload in ("w1", "w2", "w3"):
        result = written[workload]
        assert result["tok_s"] >= result["median_tok_s"] > 0
        assert result["fraction_of_limit"] == pytest.approx(result["tok_s"] / result["limit_tok_s"])
    assert set(written["limits"]) >= {"memory_gb_s", "gemm_float32_gflop_s", "gemm_bfloat16_gflop_s"}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="executors need cores of their own: two")
def test_apart(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    args = ["--model", model, "--dtype", "float32", "--rounds", 1, "--workloads", "w1", "--disagg", "--json", file]
    done = call(*args)
    assert done.exit_code == 0, done.output
    assert "context and generation apart" in " ".join(done.stdout.split()), "however long the model's path is"
    written = json.loads(file.read_bytes())
    assert written["w1"]["tok_s"] > 0
    assert "w2" not in written


@pytest.mark.parametrize(
    ("args", "exit_code", "words"),
    [
        (["--model", "nowhere"], 1, "no model `nowhere`"),
        (["--workloads", "w1,w9"], 2, "no workload 'w9'"),
        (["--rounds", "0"], 2, "--rounds"),
        (["--json", "/nowhere/report.json"], 2, "/nowhere/report.json cannot be written"),
    ],
)
def test_what_cannot_be_measured(args: list[str], exit_code: int, words: str) -> None:
    done = call(*args)
    assert done.exit_code == exit_code
    assert words in done.stderr
    assert not done.stdout


def test_a_model_that_is_too_small(tmp_path: Path) -> None:
    """Nothing is left where the report would have gone."""
    model, out = tiny_model.write(tmp_path / "tiny"), tmp_path / "out"
    out.mkdir()
    done = call("--model", model, "--json", out / "report.json")
    assert done.exit_code == 2
    assert "w3 needs 1025 positions" in done.stderr
    assert not list(out.iterdir())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has another program measure."""

    def replace(code: str) -> None:
        running = bench._running

        def run(command: list[str], *args: Any) -> Any:
            return running([sys.executable, "-c", code], *args)

        monkeypatch.setattr(bench, "_running", run)

    return replace


def test_a_program_that_dies_is_told_with_its_last_words(program: Callable[[str], None]) -> None:
    program("import sys; sys.exit('out of memory')")
    with pytest.raises(MeasureError, match="exit code 1: out of memory"):
        measured("m", Measure(model="m"), Report, print, timeout_s=LONG_S)


def test_a_program_that_hangs_is_killed(program: Callable[[str], None]) -> None:
    program("import time; time.sleep(1000)")
    with pytest.raises(MeasureError, match=r"signal 9 \(limit: 0.2 s\)"):
        measured("m", Measure(model="m"), Report, print, timeout_s=0.2)
