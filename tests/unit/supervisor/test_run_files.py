"""What a cluster tells by files in the folder of its run."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from trtdisagg.errors import CrashLoopError, StartupError
from trtdisagg.supervisor.run_files import RunFiles


def there(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_run(tmp_path: Path) -> None:
    (tmp_path / "exit-code").write_text("9\n")
    with RunFiles(tmp_path, "localhost").of_a_run() as files:
        assert there(tmp_path) == {}, "how an earlier one has ended is gone"
        files.serves("http://127.0.0.1:8000")
        assert there(tmp_path) == {"url": "http://127.0.0.1:8000\n"}
        files.ended(143)
    assert there(tmp_path) == {"exit-code": "143\n"}


@pytest.mark.parametrize(
    ("hostname", "url"), [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")], ids=["IPv4", "IPv6"]
)
def test_who_listens_everywhere_is_called_by_the_name_of_the_host(tmp_path: Path, hostname: str, url: str) -> None:
    RunFiles(tmp_path, hostname).serves(url)
    assert there(tmp_path) == {"url": f"http://{socket.gethostname()}:80\n"}


def serve_and_fail(folder: Path, error: BaseException) -> None:
    with RunFiles(folder, "localhost").of_a_run() as files:
        files.serves("http://127.0.0.1:8000")
        raise error


@pytest.mark.parametrize(("error", "code"), [(CrashLoopError(""), 5), (RuntimeError(), 1), (KeyboardInterrupt(), 1)])
def test_an_error_is_an_end(tmp_path: Path, error: BaseException, code: int) -> None:
    with pytest.raises(type(error)):
        serve_and_fail(tmp_path, error)
    assert there(tmp_path) == {"exit-code": f"{code}\n"}


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFiles(None, "localhost").of_a_run() as files:
        files.serves("http://127.0.0.1:8000")
        files.ended(0)
    assert there(tmp_path) == {}


def test_a_folder_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"no folder .*gone"), RunFiles(tmp_path / "gone", "x").of_a_run():
        pytest.fail("began")
