"""Directories that only their user may enter, and a lock that is never held by two."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trtdisagg.errors import AlreadyRunningError, StartupError
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.place import Place


@pytest.fixture
def env(tmp_path: Path, short_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(short_path), "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def place(env: dict[str, str]) -> Place:
    return Place.of("a key", "my cluster", env)


def test_directories_are_private_and_gone_afterwards(place: Place) -> None:
    with rundir.hold(place, "run"):
        assert not place.log_dir.exists(), "not everybody writes logs"
        rundir.make_log_dir(place)
        for directory in (place.run_dir.parent, place.run_dir, place.log_dir):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        secret = rundir.make_secret(place)
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert len(secret.read_text()) == 64
    assert not place.run_dir.exists()
    assert place.log_dir.exists()


def test_what_cannot_be_removed_keeps_no_secret_there(place: Place) -> None:
    with rundir.hold(place, "run"):
        for i in range(4):
            (place.run_dir / f"theirs-{i}").mkdir()
            place.spec_file(f"ours-{i}").write_bytes(b"{}")
        rundir.make_secret(place)
    assert sorted(path.name for path in place.run_dir.iterdir()) == [f"theirs-{i}" for i in range(4)]


def test_a_directory_for_logs_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    place = Place.of("a key", "c", {"XDG_STATE_HOME": str(tmp_path / "state")})
    with pytest.raises(StartupError, match="/logs, cannot be made: Not a directory; set XDG_STATE_HOME"):
        rundir.make_log_dir(place)


def test_only_one_holds_it(place: Place) -> None:
    assert rundir.running_pid(place) is None
    with rundir.hold(place, "run"):
        assert rundir.running_pid(place) == os.getpid()
        with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}") as caught, rundir.hold(place, "other"):
            pass
        assert caught.value.pid == os.getpid()
        assert place.run_dir.exists(), "the loser leaves the winner's files alone"
    assert rundir.running_pid(place) is None
    with rundir.hold(place, "again"):
        pass


def test_a_new_agent_waits_while_the_guardian_of_a_killed_one_clears_up(place: Place) -> None:
    place.run_dir.mkdir(parents=True, mode=0o700)
    place.run_dir.parent.chmod(0o700)
    fd = os.open(place.lock_file, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"999999999 deadbeef\n")
    fcntl.flock(fd, fcntl.LOCK_EX)
    guardian = subprocess.Popen(["sleep", "0.3"], pass_fds=[fd])
    os.close(fd)
    with rundir.hold(place, "next"):
        assert guardian.wait(30) == 0
        assert rundir.running_pid(place) == os.getpid()


def test_what_a_killed_run_left_is_killed(place: Place) -> None:
    """Agent and guardian were both killed: the mark in the lock file finds the rest."""
    place.run_dir.mkdir(parents=True, mode=0o700)
    place.run_dir.parent.chmod(0o700)
    place.lock_file.write_text("999999999 deadbeef\n")
    place.control_socket.touch()
    left = subprocess.Popen(["sleep", "60"], env={"TRTDISAGG_RUN": "deadbeef.context-0.1"})
    with rundir.hold(place, "new"):
        assert left.wait(30) == -9
        assert not place.control_socket.exists()


def test_a_foreign_directory_is_refused(place: Place) -> None:
    place.run_dir.parent.mkdir(mode=0o755)
    place.run_dir.parent.chmod(0o755)
    with pytest.raises(StartupError, match="only this user may enter"), rundir.hold(place, "run"):
        pass
    place.run_dir.parent.rmdir()
    place.run_dir.parent.symlink_to("/")
    with pytest.raises(StartupError, match="only this user may enter"), rundir.hold(place, "run"):
        pass
    place.run_dir.parent.unlink()


def test_a_cluster_is_found_by_its_file_and_by_its_name(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    place = Place.of(file, "the-name", env)
    assert rundir.find(file, env) is None
    with rundir.hold(place, "run"):
        rundir.make_log_dir(place)
        assert rundir.find(file, env) == place
        assert rundir.find_by_name("the-name", env) == [place]
        assert rundir.find_by_name("the", env) == []
        assert place in rundir.find_running(env)
    assert rundir.find(file, env) == place, "its logs are still there"
    assert rundir.find_by_name("the-name", env) == []


def test_addresses_of_sockets_are_never_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    place = Place.of("key", "name" * 20, {"XDG_RUNTIME_DIR": str(deep)})
    assert len(str(place.control_socket)) <= 107
    assert place.run_dir.parent == Path(f"/tmp/trtdisagg-{os.geteuid()}")


def test_the_longest_address_counts(short_path: Path) -> None:
    """A proxy's socket bears the number of its incarnation."""
    base = short_path / "x"
    base.mkdir()
    shortest = len(str(Place.of("key", "n", {"XDG_RUNTIME_DIR": str(base)}).run_dir / "control.sock"))
    name = "n" * (107 - shortest + 1)
    base = base.rename(short_path / ("x" * len(name)))
    place = Place.of("key", "n", {"XDG_RUNTIME_DIR": str(base)})
    assert len(str(base / "trtdisagg" / place.run_dir.name / "control.sock")) == 107
    assert place.run_dir.parent == Path(f"/tmp/trtdisagg-{os.geteuid()}")


def test_another_process_sees_the_lock(place: Place, env: dict[str, str]) -> None:
    code = (
        "from trtdisagg.supervisor.place import Place; from trtdisagg.supervisor.rundir import running_pid; "
        "print(running_pid(Place.of('a key', 'my cluster')))"
    )
    with rundir.hold(place, "run"):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == str(os.getpid())


def test_what_a_killed_agent_left_is_no_cluster_that_runs(env: dict[str, str]) -> None:
    dead, alive = Place.of("file dead", "same", env), Place.of("file alive", "same", env)
    dead.run_dir.parent.mkdir(mode=0o700)
    dead.run_dir.mkdir(mode=0o700)
    dead.lock_file.write_text("12345")
    with rundir.hold(alive, "run"):
        assert rundir.find_by_name("same", env) == [alive]


def test_the_name_of_a_runtime_directory_names_one_of_several(env: dict[str, str]) -> None:
    one, two = Place.of("file one", "same", env), Place.of("file two", "same", env)
    with rundir.hold(one, "run"), rundir.hold(two, "run"):
        assert len(rundir.find_by_name("same", env)) == 2
        assert rundir.find_by_name(two.run_dir.name, env) == [two]


def test_one_with_another_runtime_directory_is_found(
    env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service has none of a login's variables; then it is in /tmp, while a login's own directory is elsewhere."""
    monkeypatch.setattr(
        "trtdisagg.supervisor.place._TEMPORARY", tmp_path
    )  # in the real one every command of every test would see it
    file = tmp_path / "cluster.yaml"
    without = {"XDG_STATE_HOME": env["XDG_STATE_HOME"]}
    place = Place.of(file, "the-name", without)
    with rundir.hold(place, "run"):
        assert place.run_dir.parent == tmp_path / f"trtdisagg-{os.geteuid()}"
        assert rundir.find(file, env) == place
        assert rundir.find_by_name("the-name", env) == [place]


def test_a_service_is_found_by_its_user(
    env: dict[str, str], tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cluster.yaml"
    monkeypatch.setattr("trtdisagg.supervisor.place.SERVICES", short_path)
    ours = short_path / "one"
    ours.mkdir(mode=0o700)
    place = Place.of(file, "the-name", {**env, "XDG_RUNTIME_DIR": str(ours)})
    with rundir.hold(place, "run"):
        assert rundir.find(file, env) == place
        assert place in rundir.find_running(env)
        os.chown(ours, 12345, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert rundir.find(file, env) != place, "another user's"


def test_what_runs_comes_before_what_a_killed_agent_left(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    left = Place.of(file, "old-name", env)
    left.run_dir.mkdir(parents=True, mode=0o700)
    left.run_dir.parent.chmod(0o700)
    place = Place.of(file, "new-name", env)
    with rundir.hold(place, "run"):
        assert rundir.find(file, env) == place
    assert rundir.find(file, env) == left
