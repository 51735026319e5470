"""The front door: help, errors and exit codes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trtdisagg import __version__
from trtdisagg.cli.main import COMMANDS, cli
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.place import Place


@pytest.fixture(autouse=True)
def _empty_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster runs, and no file is here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(rundir, "find_running", lambda *_: [])  # it looks in /tmp, too, where others' clusters may be


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from trtdisagg.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    root = str(Path(__file__).parents[3])
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "Bring a cluster up" in out.stdout
    loaded = set(json.loads(out.stderr))
    assert not loaded & {"torch", "aiohttp", "rich", "msgspec", "asyncio", "yaml", "psutil"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_help_that_the_list_shows(name: str) -> None:
    command = importlib.import_module(f"trtdisagg.cli.{name.replace('-', '_')}").command
    assert (command.help or "").splitlines()[0] == COMMANDS[name]
    result = run(name, "--help")
    assert result.exit_code == 0
    assert COMMANDS[name] in result.output


@pytest.mark.parametrize("spelling", ["version", "--version"])
def test_version(spelling: str) -> None:
    assert run(spelling).output == f"{__version__}\n"


@pytest.mark.parametrize("args", [["upp"], ["up", "--wait"], ["up", "--no-such"], ["proxy"], ["serve"]])
def test_wrong_usage_is_2(args: list[str]) -> None:
    assert run(*args).exit_code == 2


def test_a_misspelt_command_is_guessed() -> None:
    assert "Did you mean status?" in run("statsu").output


@pytest.mark.parametrize("args", [["down"], ["status"], ["ps"], ["logs"], ["down", "nobody"], ["status", "no.yaml"]])
def test_nothing_runs_is_3(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 3
    assert result.stderr.startswith("trtdisagg: error: ")
    assert result.stdout == ""


def test_which_of_several_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Place.of(f"file {name}", name) for name in ("one", "two")]
    monkeypatch.setattr(rundir, "find_running", lambda: places)
    result = run("down")
    assert result.exit_code == 2
    assert "several clusters run: one, two; name the one you mean" in result.stderr
    places[1] = rundir.Place.of("file three", "one")
    assert "several clusters run: one-" in run("down").stderr


def test_a_wrong_file_is_2_and_one_line() -> None:
    Path("cluster.yaml").write_text("model: smollm2-135m-instruct\nprot: 1\n")
    for args in (["check"], ["up"], ["up", "-d"], ["up", "-f", "cluster.yaml"]):
        result = run(*args)
        assert result.exit_code == 2
        assert result.stderr == "trtdisagg: error: cluster.yaml:2: prot: unknown key; did you mean port?\n"


def test_no_file_here_says_what_to_do() -> None:
    result = run("up")
    assert result.exit_code == 2
    assert "let `trtdisagg init` write one" in result.stderr


@pytest.mark.parametrize("name", ["organization/name", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B-Instruct"])
def test_a_model_in_place_of_a_file(name: str) -> None:
    result = run("up", name)
    assert result.exit_code == 2
    assert f"no such file; a cluster file for a model: `trtdisagg init --model {name}`" in result.stderr


def test_a_cluster_file_in_place_of_a_sweep_file() -> None:
    Path("cluster.yaml").write_text("model: smollm2-135m-instruct\n")
    result = run("bench", "sweep", "cluster.yaml")
    assert result.exit_code == 2
    assert "cluster.yaml is a cluster file; `--cluster cluster.yaml` measures variants of it" in result.stderr


def test_two_files_are_one_too_many() -> None:
    assert "one cluster file, please" in run("up", "a.yaml", "-f", "b.yaml").stderr


def test_a_model_that_is_nowhere_is_1() -> None:
    Path("cluster.yaml").write_text("model: no-such-model\n")
    result = run("check")
    assert result.exit_code == 1
    assert "no-such-model" in result.stderr


# --- engine, proxy, serve -------------------------------------------------------------------------------------------


def test_engine_becomes_the_engine_half(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _path, argv: became.append(argv))
    assert run("engine", "--spec", "x.json").exit_code == 0
    assert became == [[sys.executable, "-m", "trtdisagg.engine", "--spec", "x.json"]]


def test_proxy_needs_one_source() -> None:
    assert run("proxy", "--spec", "a", "-c", "b").exit_code == 2


def test_the_command_line_of_trtllm_serve_disaggregated() -> None:
    result = run("disaggregated", "-c", "f.yaml", "-t", "60", "-r", "100", "-l", "info")
    assert result.exit_code == 2
    assert result.stderr.count("no effect here") == 3
    assert "--request_timeout: no effect here, because" in result.stderr
    assert "f.yaml: no such file" in result.stderr


def test_proxy_refuses_a_spec_that_is_none() -> None:
    Path("spec.json").write_text('{"cluster": 3}')
    result = run("proxy", "--spec", "spec.json")
    assert result.exit_code == 2
    assert "not the spec file of a proxy" in result.stderr


def test_a_spec_file_says_itself_where_servers_are_registered() -> None:
    result = run("proxy", "--spec", "spec.json", "-m", "m.yaml")
    assert result.exit_code == 2
    assert "-m goes with -c" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tp_size", "0"], "--tp_size: context_servers.tensor_parallel_size: expected int >= 1, got int 0"),
        (["--ep_size", "0"], "--ep_size: context_servers.moe_expert_parallel_size: expected -1 (it follows from"),
        (["--backend", "tensorrt"], "--backend: context_servers.backend: 'tensorrt'"),
        (["--cache_transceiver_backend", "MOONCAKE"], "--cache_transceiver_backend: context_servers.cache_transceiver"),
        (["--max_batch_size", "0"], "--max_batch_size: context_servers.max_batch_size: expected int >= 1, got int 0"),
        (["--dtype", "int3"], "--dtype: context_servers.dtype: expected one of"),
        (["--config", "none.yaml"], "--config: context_servers.extra_llm_api_options: none.yaml: no such file"),
        (["--server_role", "GENERATION", "--pp_size", "0"], "--pp_size: generation_servers.pipeline_parallel_size"),
    ],
)
def test_serve_names_the_option_that_is_wrong(options: list[str], message: str) -> None:
    result = run("serve", "smollm2-135m-instruct", *options)
    assert result.exit_code == 2
    assert message in result.stderr
