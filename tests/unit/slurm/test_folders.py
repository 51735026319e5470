"""The folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.slurm_players import CLUSTER_FILE, make_job

from trtdisagg.config.load import Loaded, load
from trtdisagg.errors import StartupError
from trtdisagg.slurm import folders


def loaded(directory: Path, more: str = "") -> Loaded:
    file = directory / "c.yaml"
    file.write_text(CLUSTER_FILE + more)
    return load(file, ["context_servers.max_batch_size=7"])


def test_runs_are_numbered_and_never_written_over(tmp_path: Path) -> None:
    it = loaded(tmp_path)
    assert folders.next_folder(it) == tmp_path / "slurm-runs" / "c-001", "only said, not made"
    made = [folders.make_folder(it).name for _ in range(2)]
    (tmp_path / "slurm-runs" / "c-011").mkdir()
    (tmp_path / "slurm-runs" / "c-other-099").mkdir()
    assert [*made, folders.make_folder(it).name] == ["c-001", "c-002", "c-012"]


def test_two_who_make_one_at_once_have_one_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = loaded(tmp_path)
    taken = folders.make_folder(it)
    answers = iter([taken, tmp_path / "slurm-runs" / "c-002"])
    monkeypatch.setattr(folders, "next_folder", lambda _: next(answers))
    assert folders.make_folder(it).name == "c-002"


def test_the_name_and_the_place_may_be_said(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    it = loaded(tmp_path, f"slurm: {{run_name: x, output_dir: {elsewhere}}}\n")
    assert folders.make_folder(it) == elsewhere / "x-001"


def test_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "slurm-runs").write_text("")
    with pytest.raises(StartupError, match=r"slurm-runs/c-001 cannot be made: .*; see slurm.output_dir"):
        folders.make_folder(loaded(tmp_path))


def test_the_file_of_the_run_is_as_submitted_and_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    it = loaded(tmp_path, "secret_file: secret\n")
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / "cluster.yaml"
    again.write_text(folders.submitted(it))
    (tmp_path / "c.yaml").unlink()
    found = load(again).cluster
    assert found.context_servers is not None
    assert found.context_servers.max_batch_size == 7
    assert found.secret_file == str(tmp_path / "secret")


def test_what_the_cluster_tells(tmp_path: Path) -> None:
    assert (folders.url(tmp_path), folders.exit_code(tmp_path)) == (None, None)
    (tmp_path / "url").write_text("http://node01:8000\n")
    (tmp_path / "exit-code").write_text("5\n")
    assert (folders.url(tmp_path), folders.exit_code(tmp_path)) == ("http://node01:8000", 5)


def test_the_last_lines_are_those_of_the_first_task(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert folders.last_lines(job.folder) == []
    (job.logs / "job.log").write_text("of the script\n")
    assert folders.last_lines(job.folder) == ["of the script"]
    (job.logs / "0.log").write_text("".join(f"{i:09}\n" for i in range(9999)))
    assert folders.last_lines(job.folder) == [f"{i:09}" for i in range(9979, 9999)]


def test_logs_of_another_job_of_the_same_run_are_kept(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    folders.put_logs_aside(job.folder)
    assert not list(job.folder.glob("logs-*")), "there were none"
    for number in (1, 2):
        (job.logs / "0.log").write_text(f"{number}")
        folders.put_logs_aside(job.folder)
        assert (job.folder / f"logs-{number}" / "0.log").read_text() == f"{number}"
    job.logs.rmdir()
    folders.put_logs_aside(job.folder)
    assert list(job.logs.iterdir()) == []
