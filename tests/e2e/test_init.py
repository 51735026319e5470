"""The file that `init` writes is one that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.cluster import post, running

from trtdisagg.cli.main import cli


@pytest.mark.real_model
def test_the_first_file_runs(tmp_path: Path) -> None:
    written = CliRunner().invoke(cli, ["init", "-"])
    assert written.exit_code == 0, written.output
    with running(tmp_path, written.stdout) as cluster:
        body = {"model": "smollm2-135m-instruct", "prompt": "One, two, three,", "max_tokens": 4, "temperature": 0}
        status, answer = post(cluster.url + "/v1/completions", body)
    assert status == 200, answer
