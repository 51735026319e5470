"""`join`: what it says when something is missing, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.ports import free_port

from trtdisagg.cli.main import cli


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("trtdisagg.supervisor.rundir.find_running", list)


def join(*args: str) -> Result:
    return CliRunner().invoke(cli, ["join", *args])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--cluster", "localhost:8000"], "--cluster: expected http://HOST:PORT"),
        (["--cluster", "http://192.0.2.1:8000"], "--host: the cluster is on 192.0.2.1; name an address of this host"),
        (["--cluster", "http://localhost:8000", "--host", "0.0.0.0"], "--host 0.0.0.0: is every address"),
        (["--cluster", "http://localhost:8000"], "--model or --file is needed"),
        (["--cluster", "http://localhost:8000", "--file", "c.yaml", "--model", "m"], "--model and the file c.yaml"),
        (["--cluster", "http://localhost:8000", "--file", "c.yaml", "--dtype", "float32"], "--dtype: is said by"),
        (["--cluster", "http://localhost:8000", "--file", "routes.yaml"], "names no model"),
        (["--cluster", "http://localhost:8000", "--model", "m", "--tp_size", "x"], "not a valid integer"),
    ],
)
def test_what_is_wrong(args: list[str], message: str) -> None:
    Path("c.yaml").write_text("model: m\n")
    Path("routes.yaml").write_text("generation_servers: {urls: ['localhost:1']}\n")
    result = join("--role", "generation", *args)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_a_cluster_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = join("--cluster", url, "--role", "generation", "--model", "m")
    assert result.exit_code == 1
    assert f"{url} cannot be reached" in result.stderr
