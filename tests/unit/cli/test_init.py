"""`init`: a file that `check` takes, and never one instead of another."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from trtdisagg.cli import init as module
from trtdisagg.cli.main import cli
from trtdisagg.text.model_files import resolve_model

pytestmark = pytest.mark.real_model

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(cli, list(args))


def test_what_it_writes_can_be_checked(run: Run) -> None:
    done = run("init")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "cluster.yaml is for this machine: " in done.stderr
    assert "Run it with: trtdisagg up cluster.yaml" in done.stderr
    checked = run("check")
    assert checked.exit_code == 0
    assert "smollm2-135m-instruct" in checked.stdout
    assert run("doctor", "--no-probe").exit_code == 0


def test_a_file_that_is_there_stays(run: Run) -> None:
    Path("cluster.yaml").write_text("mine")
    refused = run("init")
    assert refused.exit_code == 2
    assert "cluster.yaml is there already" in refused.stderr
    assert Path("cluster.yaml").read_text() == "mine"
    assert run("init", "--force").exit_code == 0
    assert "model: smollm2-135m-instruct" in Path("cluster.yaml").read_text()


def test_stdout(run: Run) -> None:
    assert yaml.safe_load(run("init", "-").stdout)["model"] == "smollm2-135m-instruct"
    assert list(Path().iterdir()) == []


def test_a_model_is_named_as_the_file_sees_it(run: Run) -> None:
    Path("models").mkdir()
    shutil.copy(resolve_model("smollm2-135m-instruct").path, "models/m.gguf")
    for file, model in (("c.yaml", "models/m.gguf"), ("models/c.yaml", "./m.gguf")):
        assert run("init", file, "--model", "models/m.gguf").exit_code == 0
        assert yaml.safe_load(Path(file).read_text())["model"] == model
        assert run("check", file).exit_code == 0


def test_a_model_that_is_not_there(run: Run) -> None:
    done = run("init", "--model", "smollm3")
    assert done.exit_code == 1
    assert "There is no model `smollm3`" in done.stderr
    assert list(Path().iterdir()) == []


def test_a_directory_that_is_not_there(run: Run) -> None:
    done = run("init", "nowhere/c.yaml")
    assert done.exit_code == 1
    assert "nowhere/c.yaml cannot be written: No such file or directory" in done.stderr


def test_a_port_that_is_free(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(module, "_PORTS", range(port, port + 1))
        assert "is free" in run("init").stderr
        monkeypatch.setattr(module, "_PORTS", range(port, port + 50))
        assert run("init").exit_code == 0
    assert yaml.safe_load(Path("cluster.yaml").read_text())["port"] > port
