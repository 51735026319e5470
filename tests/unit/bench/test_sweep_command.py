"""`trtdisagg bench sweep` and `report` as they are called: what is refused, what would be run."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.sweeps import filled, sweep_of

from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.cli.main import cli

FILE = """\
cluster: c.yaml
variants:
- {name: one}
- {name: two, set: {generation_servers.num_instances: 2}}
concurrencies: [1, 8]
request_rates: [0.5]
load: {isl: 16, rounds: 4, num_prompts: 9, dataset: prompts.txt}
goodput: {ttft: 500}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "c.yaml").write_text("model: fake\n")
    (tmp_path / "in" / "prompts.txt").write_text("x\n")
    (tmp_path / "in" / "sweep.yaml").write_text(FILE)


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *words])


def told(*words: str) -> list[str]:
    done = call("sweep", *words, "--dry-run")
    assert done.exit_code == 0, done.output
    return done.stderr.splitlines()


def test_what_a_file_would_run(tmp_path: Path) -> None:
    load = f"--goodput ttft:500 --isl 16 --dataset {tmp_path}/in/prompts.txt"
    cells = [
        f"  c001: bench serve --concurrency 1 --rounds 4 --seed 9960 {load}",
        f"  c008: bench serve --concurrency 8 --rounds 4 --seed 3660 {load}",
        f"  r0.5: bench serve --request-rate 0.5 --num-prompts 9 --seed 2628 {load}",
    ]
    cluster = f"{tmp_path}/in/c.yaml"
    two = [f"two: {cluster} --set generation_servers.num_instances=2", *cells]
    assert told("in/sweep.yaml") == [f"one: {cluster}", *cells, *two]
    assert told("in/sweep.yaml", "--only", "two") == two


def test_options_stand_for_a_file(tmp_path: Path) -> None:
    words = ["--cluster", "in/c.yaml", "--concurrencies", "1,8", "--load", "osl=4", "--repetitions", "2"]
    words += ["--variant", "a:port=0;context_servers.num_instances=2", "--grid", "max_batch_size=8,16"]
    found = told(*words, "--goodput", "tpot=30")
    assert [line for line in found if line[0] != " "] == [
        f"a: {tmp_path}/in/c.yaml --set port=0 --set context_servers.num_instances=2",
        f"max_batch_size=8: {tmp_path}/in/c.yaml --set max_batch_size=8",
        f"max_batch_size=16: {tmp_path}/in/c.yaml --set max_batch_size=16",
    ]
    assert found[1:5] == [
        f"  {name}: bench serve --concurrency {n} --seed {seed} --goodput tpot:30 --osl 4"
        for name, n, seed in (("c001", 1, 9960), ("c008", 8, 3660), ("c001-2", 1, 7608), ("c008-2", 8, 9287))
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("in/sweep.yaml --load isll=3", r"--load: load.isll: unknown key; did you mean isl\?"),
        ("in/sweep.yaml --load url=x", "load.url: unknown key; `bench serve` is told that by the sweep"),
        ("in/sweep.yaml --load rounds=0", "load.rounds: Invalid value for '--rounds': 0 is not in the range"),
        ("in/sweep.yaml --load dataset=nowhere", r"Invalid value for '--dataset': File .* does not exist"),
        ("in/sweep.yaml --load isl", "--load: 'isl': expected KEY=VALUE"),
        ("in/sweep.yaml --concurrencies 1,x", r"--concurrencies: concurrencies\[1\]: Expected int"),
        ("in/sweep.yaml --goodput fast=1", "goodput: fast: there are ttft, tpot, itl, e2el"),
        ("in/sweep.yaml --only tow", r"--only tow: there is no such variant; did you mean two\?"),
        ("in/sweep.yaml --variant a:modl=x", "a: --set modl: unknown key; did you mean model"),
        ("in/sweep.yaml --cluster nowhere.yaml", "one: .*nowhere.yaml: no such file"),
        ("nowhere.yaml", "nowhere.yaml: no such file"),
        ("--resume in", "in has no sweep.json: it is not the folder of a sweep"),
        ("--resume in --repetitions 2", "the sweep is the one in it; beside it there is only --only"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(words: str, said: str) -> None:
    done = call("sweep", *words.split())
    assert done.exit_code == 2
    assert re.search(said, done.stderr), done.stderr


def test_a_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = call("sweep", "in/sweep.yaml", "--dir", "out")
    assert (done.exit_code, "out is there already; name another" in done.stderr) == (2, True)


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    figures = {("a", cell): {"output_throughput": 5.0} for cell in ("c001", "c008")}
    folder = filled(tmp_path / "out", sweep_of("a"), figures)
    done = call("sweep", "--resume", "out")
    assert done.exit_code == 0, done.output
    assert "a: done before" in done.stderr
    assert "8 at once" in done.stdout
    assert sorted(p.name for p in Folder.open(folder.path).path.glob("*.*")) == [
        "latency-concurrency.png",
        "report.html",
        "sweep.json",
        "throughput.png",
    ]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "out", sweep_of("a"), {})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folder, "write_failure", full)
    done = call("sweep", "--resume", "out")
    assert done.exit_code == 1, done.output
    assert "error: out: No space left on device; --resume out goes on once that is mended" in done.stderr


def test_a_report_of_several_sweeps_needs_a_place(tmp_path: Path) -> None:
    for name in ("x", "y"):
        filled(tmp_path / name, sweep_of(name), {(name, "c001"): {}})
    done = call("report", "x", "y")
    assert (done.exit_code, "say where it goes with --output" in done.stderr) == (2, True)
    done = call("report", "x", "y", "--output", "both")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "both" / "report.html").exists()
    assert not (tmp_path / "x" / "report.html").exists()


def test_without_matplotlib_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = call("sweep", "in/sweep.yaml")
    assert (done.exit_code, 'pip install "trtdisagg[bench]"' in done.stderr) == (1, True)
