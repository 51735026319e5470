"""`trtdisagg slurm sweep`, with programs that play Slurm's commands."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from helpers.serve_reports import serve_report
from helpers.slurm_players import put_players

from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.cli.main import cli
from trtdisagg.slurm.commands import JobState
from trtdisagg.slurm.endings import endings

CLUSTER = """\
model: m
port: 1234
context_servers: {tensor_parallel_size: 2}
generation_servers: {}
slurm:
  partition: short
  gpus_per_node: 4
  container: {image: /an/image.sqsh, mounts: ["/data:/data"]}
"""
SWEEP = """\
cluster: cluster.yaml
variants:
- {name: one}
- {name: two, set: {generation_servers.num_instances: 4, slurm.partition: long}}
concurrencies: [4]
load: {isl: 16}
"""
PLAYERS = {
    "sbatch": """\
echo "sbatch $*" >> "$here/log"
folder=$(dirname "${@: -1}")
if grep --quiet "partition=none" "$folder/job.sbatch"; then
    echo "invalid partition" >&2
    exit 1
elif [ "$(basename "$folder")" = "$(cat "$here/good")" ]; then
    mkdir "$folder/c004" && cp "$here/report.json" "$folder/c004/report.json"
else
    echo "trtdisagg: error: there is no model m" > "$folder/logs/0.log"
    echo 2 > "$folder/exit-code"
fi
echo $((40 + $(wc -l < "$here/log")))""",
    "squeue": 'cat "$here/state"',
}


@pytest.fixture
def players(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that ends every job at once; that of the variant in the file `good` is measured."""
    place = tmp_path / "players"
    place.mkdir()
    monkeypatch.setenv("PATH", put_players(place, PLAYERS)["PATH"])
    (place / "report.json").write_bytes(msgspec.json.encode(serve_report(output_throughput=7.0)))
    (place / "good").write_text("one\n")
    (place / "state").write_text("")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return place


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["slurm", "sweep", *words])


def test_each_variant_is_a_job_that_measures_it(players: Path, tmp_path: Path) -> None:
    done = call("sweep.yaml", "--dir", "out", "--dry-run", "--qos", "high")
    assert done.exit_code == 0, done.stderr
    assert not (tmp_path / "out").exists()
    _, one, two = done.stdout.split("### ")
    assert one.startswith(f"{tmp_path}/out/one/job.sbatch\n")
    for text, name, partition, num_nodes in ((one, "one", "short", 1), (two, "two", "long", 2)):
        assert f"#SBATCH --partition={partition}\n" in text
        assert "#SBATCH --qos=high\n" in text
        assert f"#SBATCH --nodes={num_nodes}\n" in text
        assert f"-{name}\n" in next(line + "\n" for line in text.splitlines() if "--job-name=" in line)
        assert f"trtdisagg bench sweep --resume {tmp_path}/out --only {name} --url" in text
        assert f"/data:/data,{tmp_path}/out:{tmp_path}/out" in text


def test_what_ends_without_a_report_is_told_and_tried_again(players: Path, tmp_path: Path) -> None:
    done = call("sweep.yaml", "--dir", "out")
    assert done.exit_code == 1, done.output
    assert "one: done" in done.stderr
    folder = Folder.open(tmp_path / "out")
    failure = folder.failure("two")
    assert failure
    assert failure.reason == "job 42 ended early, its cluster with exit code 2: there is no model m"
    assert (tmp_path / "out" / "report.html").exists()
    assert [(v.num_gpus, v.num_cores) for v in folder.sweep.variants] == [(3, 0), (6, 0)]
    assert "port: 0" in folder.cluster_file("one").read_text()

    (players / "good").write_text("two\n")
    done = call("--resume", "out")
    assert done.exit_code == 0, done.output
    assert "one: done before" in done.stderr
    assert folder.failure("two") is None
    assert (tmp_path / "out" / "two" / "logs-1" / "0.log").exists()
    assert [line.split("/")[-2] for line in (players / "log").read_text().splitlines()] == ["one", "two", "two"]


def test_a_job_that_is_there_still_is_not_submitted_again(players: Path, tmp_path: Path) -> None:
    (players / "good").write_text("none\n")
    assert call("sweep.yaml", "--dir", "out", "--no-wait", "--only", "one").exit_code == 0
    (players / "state").write_text("PENDING|Priority\n")
    done = call("--resume", "out", "--only", "one", "--no-wait")
    assert done.exit_code == 0, done.output
    assert "one: job 41" in done.stderr
    assert len((players / "log").read_text().splitlines()) == 1


def test_what_slurm_refuses_is_told_and_the_others_go_on(players: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        SWEEP.replace("name: one", "name: bad, set: {slurm.partition: none}}\n- {name: one")
    )
    done = call("sweep.yaml", "--dir", "out", "--only", "bad", "--only", "one")
    assert done.exit_code == 1, done.output
    assert "\nbad: sbatch: invalid partition\none: job 42\none: done\n" in done.stderr
    assert "bad, all that is missing: sbatch: invalid partition" in done.stderr
    assert call("--resume", "out", "--only", "bad", "--no-wait").exit_code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sweep.yaml --run-name x", "--run-name is for `slurm submit`"),
        ("sweep.yaml --only three", "there is no such variant; there are one, two"),
        ("--resume out --qos high", "the sweep is the one in it"),
        ("sweep.yaml --gpus-per-node 1 --load isll=3", "load.isll: unknown key"),
        ("sweep.yaml --set modl=x", "one: --set modl: unknown key"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_submitted(players: Path, words: str, said: str) -> None:
    done = call(*words.split())
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert not (players / "log").exists()


def test_an_endpoint_needs_no_job(players: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("variants: [{name: theirs, url: 'http://x'}]\nconcurrencies: [1]\n")
    done = call("sweep.yaml", "--dir", "out")
    assert (done.exit_code, "it runs already: `bench sweep` measures it" in done.stderr) == (2, True)


def test_jobs_are_waited_for_each_by_itself() -> None:
    states = {
        "1": iter([JobState("PENDING", "Resources"), JobState("RUNNING"), JobState("")]),
        "2": iter([JobState("RUNNING"), JobState("")]),
    }
    told: list[str] = []
    naps: list[float] = []
    ended = list(endings({"a": "1", "b": "2"}, say=told.append, look=lambda i: next(states[i]), sleep=naps.append))
    assert ended == ["b", "a"]
    assert told == ["a: job 1 is pending (Resources)", "b: job 2 is running", "a: job 1 is running"]
    assert len(naps) == 2
