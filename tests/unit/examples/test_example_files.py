"""Every cluster file in examples/ can be planned, every client says how it is used, and every program runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_model

from trtdisagg.bench.sweep.expand import make_sweep
from trtdisagg.bench.sweep.file import SweepFile
from trtdisagg.cli.bench.sweep_options import loaded_variants, read_sweep
from trtdisagg.config.load import load
from trtdisagg.config.located import read
from trtdisagg.config.strict import convert
from trtdisagg.slurm.job import num_gpus, plan_job
from trtdisagg.slurm.script import render_job
from trtdisagg.supervisor.nodes.assign import nodes_needed
from trtdisagg.supervisor.survey import survey

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
SLURM = EXAMPLES / "slurm"
SWEEP = EXAMPLES / "sweep.yaml"
CLUSTER_FILES = sorted({*EXAMPLES.glob("*.yaml")} - {SWEEP})
NUM_SERVERS = {
    "smollm2.yaml": (1, 1, 0),
    "trtllm_disagg_config.yaml": (0, 0, 3),
    "trtllm_model_and_urls.yaml": (1, 1, 0),
    "parallel.yaml": (1, 1, 0),
    "several_models.yaml": (2, 2, 0),
    "two_by_one.yaml": (2, 1, 0),
}
"""File: context servers, generation servers, servers that run already."""


def test_every_file_is_looked_at() -> None:
    assert [file.name for file in CLUSTER_FILES] == sorted(NUM_SERVERS)


@pytest.mark.real_model
@pytest.mark.parametrize("file", CLUSTER_FILES, ids=lambda file: file.name)
def test_cluster_file(file: Path) -> None:
    loaded = load(file)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    roles = [server.role for server in plan.servers]
    assert (roles.count("context"), roles.count("generation"), len(plan.upstream)) == NUM_SERVERS[file.name]
    assert plan.proxy is not None
    assert plan.proxy.url == "127.0.0.1:8000"


@pytest.mark.real_model
def test_the_sweep() -> None:
    """Its variants are clusters, of as many servers each, and its load is one that can be run."""
    sweep = read_sweep(SWEEP, {})
    found = {}
    for name, loaded in loaded_variants(sweep).items():
        roles = [server.role for server in survey(loaded.cluster, name=loaded.name, file=loaded.path).servers]
        found[name] = (roles.count("context"), roles.count("generation"))
    assert found == {"1p1d": (1, 1), "aggregated": (0, 2)}
    assert [cell.folder for cell in sweep.cells("1p1d")] == ["c001", "c004", "c008"]


def rendered(file: Path, *overrides: str) -> str:
    loaded = load(file, overrides)
    nodes = nodes_needed(loaded.cluster, num_gpus(loaded.cluster.slurm))
    return render_job(plan_job(loaded, Path("/runs/x-001"), num_nodes=nodes, program=["trtdisagg"]))


def test_the_job_of_a_cluster() -> None:
    """On Slurm, with containers; its model need not be here."""
    text = rendered(SLURM / "cluster.yaml")
    assert "#SBATCH --nodes=2\n" in text
    assert "#SBATCH --gres=gpu:8\n" in text
    assert "    --container-image=/shared/images/trtdisagg.sqsh\n" in text
    loaded = load(SLURM / "cluster.yaml").cluster
    assert loaded.profile is not None
    assert loaded.profile.servers == ["generation-0"]


def test_the_jobs_of_a_sweep() -> None:
    sweep = make_sweep(convert(read(SLURM / "sweep.yaml"), SweepFile))
    nodes = [
        re.findall(r"--nodes=(\d+)", rendered(SLURM / str(variant.cluster), *variant.overrides))[0]
        for variant in sweep.variants
    ]
    assert nodes == ["2", "1"]
    assert sweep.concurrencies[-1] == 1024


@pytest.mark.parametrize(
    "name",
    [
        *("num_ctx_servers", "ctx_tp_size", "ctx_batch_size", "ctx_max_num_tokens", "ctx_enable_attention_dp"),
        *("num_gen_servers", "gen_tp_size", "gen_batch_size", "gen_max_num_tokens", "gen_enable_attention_dp"),
        *("gen_gpu_memory_fraction", "concurrency_list", "sub_file"),
    ],
)
def test_all_parameters_of_tensorrt_llms_script_are_in_the_sweep(name: str) -> None:
    assert f"# {name}\n" in (SLURM / "sweep.yaml").read_text()


def test_there_are_no_other_examples_for_slurm() -> None:
    assert sorted(file.name for file in SLURM.iterdir()) == ["cluster.yaml", "sweep.yaml"]


@pytest.mark.parametrize("client", sorted((EXAMPLES / "clients").glob("*.py")), ids=lambda file: file.name)
def test_client_help(client: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, client, "--help"], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("usage: ")


PROGRAMS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two executors need two cores")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda file: file.name)
def test_program(program: Path, tmp_path: Path) -> None:
    """With a small model. What it prints are two answers to one prompt."""
    model = tiny_model.write(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, program, "hello", "--model", model, "--dtype", "float32", "--max-tokens", "8"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    _, one, other = re.split(r"^(?:by hand|orchestrated|greedy|sampled): +", done.stdout, flags=re.MULTILINE)
    assert one.startswith("hello")
    assert (one == other) == (program.name == "python_disaggregated.py")


def test_programs_are_found() -> None:
    assert [file.name for file in PROGRAMS] == ["python_disaggregated.py", "python_executor.py"]
