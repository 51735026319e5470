"""What the head knows of a node: histories of coming, going, silence and return."""

from __future__ import annotations

import pytest
from helpers.nodes import hello

from trtdisagg.protocol.nodes import Ended, Leaving, Left, Line, Noticed, Signal, ToHead
from trtdisagg.supervisor.nodes.greeting import RefusedError
from trtdisagg.supervisor.nodes.link import Link
from trtdisagg.supervisor.processes import LostError


class Connection:
    is_cut = False

    def cancel(self) -> None:
        self.is_cut = True


class Process:
    def __init__(self) -> None:
        self.said: list[ToHead] = []
        self.why: str | None = None

    def heard(self, message: ToHead) -> None:
        self.said.append(message)

    def lost(self, why: str) -> None:
        self.why = why


class World:
    """A link with one process, and what it has told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lost: list[str] = []
        self.link = Link(
            "node01",
            timeout_s=10,
            on_notice=self.told.append,
            on_back=lambda: self.told.append("(back)"),
            on_leaving=lambda reason: self.told.append(f"(leaving: {reason})"),
            on_lost=lambda: self.lost.append(self.told[-1]),
        )
        self.process = Process()

    def come(self, session: str = "one", *, is_new: bool = True, received: int = 0) -> Connection:
        connection = Connection()
        self.link.open(hello(session=session, is_new=is_new, received=received), connection)
        self.link.session.reopened(received)
        self.link.processes.setdefault("p", self.process)
        return connection


def test_it_is_away_for_a_while_and_nothing_is_lost() -> None:
    world = World()
    connection = world.come()
    world.link.send(Signal(process="p", number=15))
    assert len(world.link.session.due()) == 1
    world.link.closed(connection, "reset")
    world.link.passed(9)
    world.link.send(Signal(process="p", number=9))
    world.come(is_new=False, received=1)
    assert [number for number, _ in world.link.session.due()] == [2]
    world.link.passed(9)
    assert world.link.state == "here"
    assert world.told == ["node01 is away: reset", "node01 is back"]


def test_without_a_word_for_too_long_it_is_lost_with_all_it_had() -> None:
    world = World()
    connection = world.come()
    world.link.passed(6)
    world.link.heard()
    world.link.passed(6)
    assert world.process.why is None
    world.link.passed(4)
    assert world.process.why == world.told[-1] == "node01 is lost: no word from it for 10 s"
    assert world.lost == world.told[-1:]
    assert connection.is_cut
    with pytest.raises(LostError, match="no word from it"):
        world.link.send(Signal(process="p", number=9))
    assert not world.link.is_usable
    with pytest.raises(RefusedError, match="away for too long"):
        world.come(is_new=False)


def test_one_that_has_started_anew_is_taken_again() -> None:
    world = World()
    world.come()
    world.link.passed(10)
    world.come("two")
    assert world.told[1:] == ["node01 is there again", "(back)"]
    assert world.link.is_usable


def test_one_that_never_heard_that_it_was_let_in_gets_nothing_of_what_counts_as_ended() -> None:
    world = World()
    world.come()
    world.link.send(Signal(process="p", number=15))
    world.link.passed(10)
    world.come()
    assert world.link.session.due() == []
    assert world.told[1:] == ["node01 is there again", "(back)"]


def test_one_that_starts_anew_before_it_was_missed_has_lost_what_it_had() -> None:
    world = World()
    world.link.closed(world.come(), "reset")
    world.come("two")
    assert world.process.why == "node01 is lost: its node agent has started anew"
    assert world.link.state == "here"
    assert world.link.session.due() == []


def test_two_of_one_name_cannot_be_there() -> None:
    world = World()
    world.come()
    with pytest.raises(RefusedError, match="here already"):
        world.come("two")
    assert world.link.state == "here"


def test_a_connection_that_was_given_up_does_not_matter_any_more() -> None:
    """The node comes back before the head has seen the end of the connection before."""
    world = World()
    old = world.come()
    new = world.come(is_new=False)
    assert (old.is_cut, new.is_cut) == (True, False)
    world.link.closed(old, "cancelled")
    assert (world.link.state, world.told) == ("here", [])


def test_one_that_was_told_to_go_is_not_missed() -> None:
    world = World()
    connection = world.come()
    world.link.dismiss(0, "it may")
    with pytest.raises(LostError, match="has to leave"):
        world.link.send(Signal(process="p", number=9))
    world.link.closed(connection, "end")
    world.link.passed(100)
    assert world.told == ["node01 has left"]
    world.come("two")
    assert world.link.is_usable


def test_what_it_says_goes_where_it_belongs() -> None:
    world = World()
    connection = world.come()
    for message in (Line(process="p", line=b"x\n"), Ended(process="gone", returncode=0)):
        world.link.handle(message)
    assert world.process.said == [Line(process="p", line=b"x\n")]
    world.link.handle(Noticed(text="hm"))
    world.link.handle(Leaving(reason="SIGTERM"))
    world.link.handle(Left(reason="SIGTERM a second time"))
    assert world.told == ["node01: hm", "(leaving: SIGTERM)", "node01 has left: SIGTERM a second time"]
    assert connection.is_cut


def test_nothing_can_be_asked_of_one_that_has_not_come() -> None:
    with pytest.raises(LostError, match="node01 has not come"):
        World().link.send(Signal(process="p", number=9))
