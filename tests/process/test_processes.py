"""One child process, with small shell scripts in the place of servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from helpers.agents import TEST_MARK, left_over

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.reports import Failed, Loading, Ready, Report
from trtdisagg.supervisor import processes
from trtdisagg.supervisor.processes import ChildProcess

pytestmark = pytest.mark.anyio


class Script:
    """A child that runs a shell script, and what it said. `$REPORTS` is the descriptor for reports."""

    def __init__(self, text: str, **env: str) -> None:
        self.lines: list[bytes] = []
        self.reports: list[Report] = []
        self.line_came = anyio.Event()
        self.child = ChildProcess(
            lambda fd, _: ["sh", "-c", text.replace("$REPORTS", f"/proc/self/fd/{fd}")],
            env=env,
            mark=f"{os.getpid()}.script.1",
            on_line=self._line,
            on_report=self.reports.append,
        )

    def _line(self, line: bytes) -> None:
        self.lines.append(line)
        self.line_came.set()

    async def run(self, on_start: Callable[[int], None] = lambda _: None) -> int:
        with anyio.fail_after(60):
            return await self.child.run(on_start)


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(TEST_MARK, str(tmp_path))
    num_fds = len(os.listdir("/proc/self/fd"))
    yield
    assert left_over(str(tmp_path)) == []
    assert len(os.listdir("/proc/self/fd")) == num_fds


async def test_lines_of_both_streams_and_the_status() -> None:
    script = Script("echo out; echo err >&2; printf unfinished; exit 3")
    assert await script.run() == 3
    assert script.lines == [b"out\n", b"err\n", b"unfinished\n"]
    assert list(script.child.last_lines) == ["out", "err", "unfinished"]


async def test_only_the_last_lines_are_kept() -> None:
    script = Script("seq 1 1000; exit 1")
    await script.run()
    assert len(script.lines) == 1000
    assert list(script.child.last_lines) == [str(i) for i in range(991, 1001)]


async def test_a_line_without_end_comes_in_pieces() -> None:
    script = Script("head -c 200000 /dev/zero")
    await script.run()
    assert sum(len(line) - 1 for line in script.lines) == 200_000
    assert max(len(line) for line in script.lines) <= 2 * 64 * 1024


async def test_reports_are_read_even_when_the_child_ends_at_once() -> None:
    ready = '{"type":"ready","host":"h","port":1}'
    script = Script(f"""echo '{{"type":"loading","stage":"weights"}}' >$REPORTS; echo '{ready}' >$REPORTS""")
    assert await script.run() == 0
    assert script.reports == [Loading(stage="weights"), Ready(host="h", port=1)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"type":"nonsense"}', "sent a report that cannot be read"),
        ("Segmentation fault", "sent a report that cannot be read"),
        (f'{{"type":"ready","host":"h","port":1,"wire_version":{WIRE_VERSION + 1}}}', "they are of two releases"),
    ],
)
async def test_what_is_no_report_of_ours_is_a_failure(line: str, words: str) -> None:
    script = Script(f"echo '{line}' >$REPORTS")
    await script.run()
    (report,) = script.reports
    assert isinstance(report, Failed)
    assert report.fatal
    assert words in report.message


async def test_what_a_child_started_goes_with_it() -> None:
    """In its own group and in another session, with the pipes open and SIGTERM ignored."""
    deaf = "trap '' TERM HUP INT; echo $$; sleep 60; sleep 60"
    script = Script(f"""setsid sh -c "{deaf}" & sh -c "{deaf}" & sleep 0.2; kill -9 $$""")
    assert await script.run() == -signal.SIGKILL


async def test_pipes_that_others_keep_open_do_not_hold_us_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cleared its environment is not known to be ours, and is not waited for."""
    monkeypatch.setattr(processes, "_END_OF_PIPES_S", 0.1)
    script = Script("env -i setsid sleep 60 & echo $!")
    assert await script.run() == 0
    os.kill(int(script.lines[0]), signal.SIGKILL)


async def test_signals_reach_the_whole_group() -> None:
    script = Script(
        "trap 'echo parent; wait; exit 7' TERM; sh -c 'trap \"echo child; exit\" TERM; echo up; sleep 60 & wait' & wait"
    )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await script.line_came.wait()
        script.child.signal(signal.SIGTERM)
    assert sorted(script.lines) == [b"child\n", b"parent\n", b"up\n"]


async def test_a_signal_before_the_start_is_as_good_as_one_after() -> None:
    script = Script("echo never")
    script.child.signal(signal.SIGTERM)
    assert await script.run() == -signal.SIGTERM
    assert script.lines == []


async def test_a_cancelled_child_is_killed() -> None:
    script = Script("trap '' TERM; setsid sleep 60 & echo up; sleep 60")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await script.line_came.wait()
        tasks.cancel_scope.cancel()


async def test_the_environment_is_built_and_ours_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("LISTEN_FDS", "1")
    before = dict(os.environ)
    script = Script("env", EXTRA="added")
    await script.run()
    lines = set(script.lines)
    assert {b"EXTRA=added\n", f"TRTDISAGG_RUN={os.getpid()}.script.1\n".encode()} <= lines
    assert not [line for line in lines if line.startswith((b"NOTIFY_SOCKET", b"LISTEN_FDS"))]
    assert dict(os.environ) == before


async def test_a_child_gets_no_descriptor_but_its_own() -> None:
    with open("/dev/null") as other:  # noqa: ASYNC230 (any descriptor will do)
        os.set_inheritable(other.fileno(), True)  # noqa: FBT003
        script = Script("ls /proc/self/fd | wc -l; : $REPORTS")
        await script.run()
    assert int(script.lines[0]) == 6, "0, 1, 2, reports, commands, and what ls has open"


async def test_a_program_that_is_not_there_is_an_error() -> None:
    child = ChildProcess(lambda *_: ["/no/such"], env={}, mark="m", on_line=lambda _: None, on_report=lambda _: None)
    with pytest.raises(FileNotFoundError):
        await child.run(lambda _: None)


def test_the_guardian_is_quick_and_needs_no_package() -> None:
    """Its start is part of every start, and it must work when all else is broken."""
    program = Path(processes.__file__).with_name("guardian.py")
    code = f"import sys; sys.argv=['g','none','/none']; exec(open({str(program)!r}).read())"
    code += "; print([m for m in sys.modules if 'trtdisagg' in m or 'site-packages' in str(sys.modules[m])])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], input="bye\n", capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"
