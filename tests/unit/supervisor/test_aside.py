"""Lines that somebody is slow to take."""

from __future__ import annotations

import threading

from helpers.traces import until

from trtdisagg.supervisor.aside import Aside

SAID = b"[%d lines are left out here: they could not be written in time]\n"


class Slow:
    """Takes nothing until it is let."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.taken: list[tuple[str, bytes]] = []

    def write(self, name: str, line: bytes) -> None:
        assert self.may.wait(20)
        self.taken.append((name, line))


def test_lines_are_written_in_order_and_all_of_them_before_the_end() -> None:
    slow = Slow()
    slow.may.set()
    lines = [(f"n{i % 3}", b"%d\n" % i) for i in range(1000)]
    with Aside(slow.write) as aside:
        for name, line in lines:
            aside.put(name, line)
    assert aside.is_over
    assert slow.taken == lines


def test_who_has_lines_is_not_held_up_and_those_without_room_are_counted() -> None:
    slow = Slow()
    with Aside(slow.write, max_bytes=250) as aside:
        for name in "aabab":
            aside.put(name, b"1234\n")
        assert slow.taken == []
        slow.may.set()
        until(lambda: aside._num_bytes_written == aside._num_bytes_put, "there is room", 20)
        aside.put("b", b"x\n")
    assert slow.taken == [("a", b"1234\n"), ("a", b"1234\n"), ("b", SAID % 2), ("b", b"x\n"), ("a", SAID % 1)]


def test_lines_that_are_left_out_last_are_counted_at_the_end() -> None:
    slow = Slow()
    with Aside(slow.write, max_bytes=250) as aside:
        for _ in range(5):
            aside.put("a", b"\n")
        aside.put("a", b"")
        aside.put("b", 300 * b"x")
        slow.may.set()
    assert slow.taken == [("a", b"\n"), ("a", b"\n"), ("a", SAID % 3), ("a", b""), ("b", SAID % 1)]
