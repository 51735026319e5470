"""Several loops as one sign of life, sent by a thread of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import IO

import msgspec
import pytest

from trtdisagg.engine.beats import STUCK_S, Beats, Stuck, Vitals
from trtdisagg.engine.progress import Pulse
from trtdisagg.protocol.latencies import LATENCY_BOUNDS_S, LatencyCounts
from trtdisagg.protocol.reports import MAX_LINE_BYTES, Beat, Loading, Reporter, decode_report
from trtdisagg.protocol.stats import Stats


def test_progress_of_one_is_progress_while_the_other_has_nothing_to_do() -> None:
    vitals = Vitals()
    first = vitals.look([Pulse(5, is_working=True), Pulse(9, is_working=False)])
    then = vitals.look([Pulse(6, is_working=True), Pulse(9, is_working=False)])
    assert then.num_ticks == first.num_ticks + 1
    assert then.is_working


def test_one_that_works_and_stands_still_stops_all() -> None:
    vitals = Vitals()
    first = vitals.look([Pulse(5, is_working=True), Pulse(9, is_working=False)])
    then = vitals.look([Pulse(600, is_working=True), Pulse(9, is_working=True)])
    assert then == (first.num_ticks, True)
    assert vitals.look([Pulse(601, is_working=True), Pulse(10, is_working=True)]).num_ticks > first.num_ticks


def test_nothing_to_do_is_not_stuck() -> None:
    vitals = Vitals()
    for _ in range(3):
        assert not vitals.look([Pulse(1, is_working=False)]).is_working


def test_progress_never_goes_back() -> None:
    vitals = Vitals()
    first = vitals.look([Pulse(50, is_working=True)])
    assert vitals.look([Pulse(0, is_working=True)]).num_ticks == first.num_ticks


def test_stuck_begins_once_and_again_after_progress() -> None:
    stuck = Stuck()
    standing = Pulse(3, is_working=True)
    assert not stuck.begins(standing, 0.0)
    assert not stuck.begins(standing, STUCK_S - 0.1)
    assert stuck.begins(standing, STUCK_S)
    assert not stuck.begins(standing, STUCK_S + 1)
    assert not stuck.begins(Pulse(4, is_working=True), STUCK_S + 2)
    assert stuck.begins(Pulse(4, is_working=True), 2 * STUCK_S + 2)


def test_time_with_nothing_to_do_is_not_held_against_it() -> None:
    stuck = Stuck()
    assert not stuck.begins(Pulse(3, is_working=False), 0.0)
    assert not stuck.begins(Pulse(3, is_working=False), 100.0)
    assert not stuck.begins(Pulse(3, is_working=True), 100.5)


@pytest.fixture
def pipe() -> Iterator[tuple[Reporter, IO[bytes]]]:
    read_fd, write_fd = os.pipe()
    with os.fdopen(read_fd, "rb") as reports:
        reporter = Reporter(write_fd)
        yield reporter, reports
        reporter.close()


def next_beat(reports: IO[bytes]) -> Beat:
    report = decode_report(reports.readline())
    assert isinstance(report, Beat)
    return report


def test_beats_come_while_nobody_else_runs(pipe: tuple[Reporter, IO[bytes]]) -> None:
    reporter, reports = pipe
    with Beats(reporter, lambda: Stats(num_running=3), [lambda: Pulse(1, is_working=True)]):
        beats = [next_beat(reports) for _ in range(3)]  # this thread, as busy as it could be, is blocked here
    assert {(b.stats.num_running, b.progress, b.is_working) for b in beats} == {(3, 1, True)}


def test_a_beat_that_fails_is_not_the_last(pipe: tuple[Reporter, IO[bytes]], caplog: pytest.LogCaptureFixture) -> None:
    reporter, reports = pipe
    failures = iter([ValueError("not now")])

    def stats() -> Stats:
        if error := next(failures, None):
            raise error
        return Stats()

    with Beats(reporter, stats, []):
        next_beat(reports)
    assert "not now" in caplog.text


def test_nothing_is_sent_after_the_end(pipe: tuple[Reporter, IO[bytes]]) -> None:
    reporter, reports = pipe
    with Beats(reporter, Stats, []):
        next_beat(reports)
    assert "beats" not in {thread.name for thread in threading.enumerate()}
    reporter.close()
    for line in reports:  # ends with the pipe
        assert isinstance(decode_report(line), Beat)


def test_two_threads_may_report(pipe: tuple[Reporter, IO[bytes]]) -> None:
    reporter, reports = pipe
    senders = [
        threading.Thread(target=lambda: [reporter.send(Loading(stage="x" * 50)) for _ in range(200)]) for _ in range(2)
    ]
    for sender in senders:
        sender.start()
    assert all(decode_report(reports.readline()) == Loading(stage="x" * 50) for _ in range(400))
    for sender in senders:
        sender.join()


def test_the_longest_beat_fits_into_a_line() -> None:
    latencies = LatencyCounts()
    for bound in LATENCY_BOUNDS_S:
        latencies.observe(bound)
    counts = [2**40] * (len(latencies.counts) + 1)
    numbers = {field: 2**53 for field in Stats.__struct_fields__ if not field.endswith("counts")}
    stats = Stats(**numbers, first_token_counts=counts, per_token_counts=counts)
    assert len(msgspec.json.encode(Beat(stats=stats, progress=2**53, is_working=True))) < MAX_LINE_BYTES
