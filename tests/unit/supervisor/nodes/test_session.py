"""An exchange over connections that are cut at any moment: each message arrives once, and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.supervisor.nodes.session import ACKNOWLEDGE_EVERY, WRITE_BYTES, GapError, Session


class End:
    """One end, and what is under way to it."""

    def __init__(self) -> None:
        self.session = Session()
        self.coming: deque[tuple[int, int, bytes]] = deque()
        self.taken: list[bytes] = []
        self.num_sent = 0

    def send(self) -> None:
        self.num_sent += 1
        self.session.send(str(self.num_sent).encode())

    def write_to(self, other: End) -> None:
        received = self.session.tell_received()
        other.coming.extend((number, received, message) for number, message in self.session.due() or [(0, b"")])

    def read(self) -> None:
        if self.coming:
            number, received, message = self.coming.popleft()
            if self.session.take(number, received):
                self.taken.append(message)


def cut(a: End, b: End) -> None:
    """What is under way is lost; on the next connection each says what it has."""
    a.coming.clear()
    b.coming.clear()
    a.session.reopened(b.session.num_received)
    b.session.reopened(a.session.num_received)


ACTS: list[Callable[[End, End], None]] = [lambda one, _: one.send(), End.write_to, lambda one, _: one.read(), cut]


def settle(a: End, b: End) -> None:
    """On a connection that lasts, each writes and hears of it."""
    for writer, reader in (a, b), (b, a), (a, b):
        writer.write_to(reader)
        while reader.coming:
            reader.read()


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(ACTS)), max_size=200))
def test_each_message_arrives_once_and_in_order(story: list[tuple[int, Callable[[End, End], None]]]) -> None:
    ends = End(), End()
    for which, act in story:
        one, other = ends[which], ends[1 - which]
        act(one, other)
    cut(*ends)
    settle(*ends)
    for one, other in (ends, ends[::-1]):
        assert one.taken == [str(i + 1).encode() for i in range(other.num_sent)]
        assert one.session.has_all_arrived
        assert one.session.num_kept_bytes == 0


def test_what_is_written_is_not_due_again_on_the_same_connection() -> None:
    session = Session()
    session.send(b"a")
    assert session.due() == [(1, b"a")]
    session.send(b"b")
    assert session.due() == [(2, b"b")]
    assert session.due() == []
    session.reopened(1)
    assert session.due() == [(2, b"b")]


def test_what_has_gathered_is_due_in_parts() -> None:
    session = Session()
    sizes = [WRITE_BYTES // 2, WRITE_BYTES // 2, 1, 2 * WRITE_BYTES, 1]
    for size in sizes:
        session.send(bytes(size))
    parts = []
    while session.has_due:
        parts.append([number for number, _ in session.due()])
    assert parts == [[1, 2], [3], [4], [5]]
    assert session.due() == []


def test_the_other_end_is_told_before_it_has_kept_too_much() -> None:
    session = Session()
    for number in range(1, ACKNOWLEDGE_EVERY + 1):
        assert not session.owes_word
        session.take(number, 0)
    assert session.owes_word
    assert session.tell_received() == ACKNOWLEDGE_EVERY
    assert not session.owes_word


def test_what_comes_after_a_missing_message_is_not_taken() -> None:
    session = Session()
    session.take(1, 0)
    assert not session.take(1, 0), "it was repeated"
    with pytest.raises(GapError):
        session.take(3, 0)
    assert session.num_received == 1
