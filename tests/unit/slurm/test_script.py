"""What is asked of Slurm for a cluster file, and the words of the batch script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.slurm_players import make_job

from trtdisagg.errors import ConfigError
from trtdisagg.slurm.job import num_gpus, seconds
from trtdisagg.slurm.script import render_job

ALL_KEYS = """\
slurm:
  partition: gpu
  account: me
  qos: high
  time: "1-00:00:00"
  job_name: mine
  gpus_per_node: h200:8
  cpus_per_task: 16
  extra_args: [--constraint=ib&fast, --mem=64G, '--comment=it is # mine', --contiguous, '--wckey=a\\b']
  mpi: pmix
  setup: [module load cuda, 'echo "it''s $HOME"']
  env: {A: "b 'c' $d"}
  container: {image: reg#img:1, mounts: ["/data:/data:ro"], workdir: /work}
"""


def script(directory: Path, more: str = "", num_nodes: int = 1) -> str:
    return render_job(make_job(directory, more=more, num_nodes=num_nodes))


def asked(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_what_is_asked_of_slurm_where_the_file_says_nothing(tmp_path: Path) -> None:
    assert asked(script(tmp_path, num_nodes=3)) == [
        "--job-name=trtdisagg-c",
        f"--output={tmp_path}/slurm-runs/c-001/logs/job.log",
        "--nodes=3",
        "--ntasks-per-node=1",
        "--exclusive",
        "--mem=0",
        "--no-kill",
        "--no-requeue",
        "--signal=B:TERM@100",
    ], "30 s to drain, 10 s to stop, and what Slurm may be early"


def test_every_key_is_used(tmp_path: Path) -> None:
    text = script(tmp_path, ALL_KEYS + "  nodes: 4\n", num_nodes=3)
    assert asked(text) == [
        "--job-name=mine",
        f"--output={tmp_path}/slurm-runs/c-001/logs/job.log",
        "--partition=gpu",
        "--account=me",
        "--qos=high",
        "--time=1-00:00:00",
        "--nodes=4",
        "--ntasks-per-node=1",
        "--cpus-per-task=16",
        "--gres=gpu:h200:8",
        "--no-kill",
        "--no-requeue",
        "--signal=B:TERM@100",
        "--constraint='ib&fast'",
        "--mem=64G",
        "--comment='it is # mine'",
        "--contiguous",
        r"--wckey='a\\b'",
    ]
    assert "program=(trtdisagg)\n" in text, "in a container it is the image's"


def test_in_a_container_the_folders_of_run_and_file_are_where_they_are_outside(tmp_path: Path) -> None:
    text = script(tmp_path / "inside", ALL_KEYS)
    assert f"    '--container-mounts={tmp_path}/inside:{tmp_path}/inside,/data:/data:ro'\n" in text
    runs = tmp_path / "runs"
    beside = script(tmp_path / "beside", f"{ALL_KEYS}  output_dir: {runs}\n")
    assert f"--container-mounts={runs}/c-001:{runs}/c-001,{tmp_path}/beside:{tmp_path}/beside,/data" in beside
    assert "    '--container-image=reg#img:1'\n" in text
    assert "    --container-workdir=/work\n" in text
    assert ' down "' not in text, "the program is not there outside, nor is the cluster's socket"


def test_the_set_up_runs_before_the_program_and_ends_the_task_where_it_fails(tmp_path: Path) -> None:
    """The part of the script that makes the command, run by bash."""
    text = script(tmp_path, ALL_KEYS.replace("module load cuda", "cd /"))
    lines = text[text.index("program=(") : text.index("rm -f")]
    probe = 'printf "%s|" "${step[@]}"; "${step[@]: -4}" sh -c \'echo "$PWD, $A"\''
    out = subprocess.run(["bash", "-c", lines + probe], capture_output=True, text=True, check=True, timeout=60).stdout
    words, _, said = out.rpartition("|")
    assert words.split("|")[:2] == ["--cpus-per-task=16", "--mpi=pmix"]
    assert said.splitlines()[-1] == "/, b 'c' $d"
    lines = lines.replace("cd /", "false")
    assert subprocess.run(["bash", "-c", lines + probe], capture_output=True, timeout=60, check=False).returncode == 1


def test_bash_reads_it(tmp_path: Path) -> None:
    job = make_job(tmp_path / 'it\'s 100% "odd" $x', more=ALL_KEYS, load_command=["load", "a b"])
    done = subprocess.run(["bash", "-n", str(job.script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("load_command", [[], ["load", "a b"]])
def test_shellcheck_has_nothing_to_say(tmp_path: Path, load_command: list[str]) -> None:
    job = make_job(tmp_path, more=ALL_KEYS, load_command=load_command)
    done = subprocess.run(
        ["shellcheck", "--severity=warning", str(job.script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == ""


def test_what_slurm_takes_for_no_name_of_a_file(tmp_path: Path) -> None:
    """Behind a backslash it leaves % as it is; what is mounted into a container stands in a list."""
    with pytest.raises(ConfigError, match=r"slurm.output_dir: Slurm would misread the '\\\\' of '/"):
        make_job(tmp_path / "back\\slash")
    make_job(tmp_path / "a,b")
    with pytest.raises(ConfigError, match=r"slurm.output_dir: Slurm would misread the ',' of '/"):
        make_job(tmp_path / "c,d", more=ALL_KEYS)
    with pytest.raises(ConfigError, match=r"slurm.container: Slurm would misread the ':' of '/.*/e:f'"):
        make_job(tmp_path / "e:f", more=f"{ALL_KEYS}  output_dir: {tmp_path}/runs\n")


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("8", 8), ("h200:4", 4)])
def test_the_number_of_gpus(tmp_path: Path, text: str, number: int) -> None:
    job = make_job(tmp_path, more=f"slurm: {{gpus_per_node: {text}}}\n")
    assert num_gpus(job.settings) == job.num_gpus == number
    assert any(line.startswith("--gres") for line in asked(render_job(job))) is bool(number)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("30", 30 * 60),
        ("2:30", 150),
        ("1:00:05", 3605),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 30 * 60),
        ("2-00:00:01", 48 * 3600 + 1),
    ],
)
def test_times_as_slurm_writes_them(time: str, expected: int) -> None:
    assert seconds(time) == expected


def test_a_job_has_the_nodes_that_the_servers_need(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"slurm.nodes: 2, but the servers need 3 nodes of 8 GPUs"):
        make_job(tmp_path, more="slurm: {nodes: 2, gpus_per_node: 8}\n", num_nodes=3)


def test_a_job_has_more_time_than_it_takes_to_end(tmp_path: Path) -> None:
    """100 s before the end it is drained: with less, at once."""
    make_job(tmp_path, more='slurm: {time: "1:41"}\n')
    with pytest.raises(ConfigError, match=r"slurm.time: 1:40 is not longer than the 100 s before its end"):
        make_job(tmp_path, more='slurm: {time: "1:40"}\n')
