"""What a node agent keeps for a head that is away."""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.nodes import Ended, Line, Reported, ToHead
from trtdisagg.protocol.reports import Beat, Loading
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor.nodes.outbox import Outbox
from trtdisagg.supervisor.nodes.session import Session
from trtdisagg.supervisor.nodes.stream import Wake

BEAT = Reported(process="p", report=Beat(stats=Stats()))
LOADING = Reported(process="p", report=Loading(stage="weights"))
_decode = msgspec.msgpack.Decoder(ToHead).decode


def line(text: str) -> Line:
    return Line(process="p", line=text.encode())


def test_beats_are_for_a_head_that_hears_them() -> None:
    session = Session()
    outbox = Outbox(session, Wake())
    outbox.say(BEAT)
    outbox.say(LOADING)
    outbox.is_open = True
    outbox.say(BEAT)
    assert [_decode(message) for _, message in session.due()] == [LOADING, BEAT]


def test_lines_beyond_the_bound_are_counted_and_all_else_is_kept() -> None:
    session = Session()
    outbox = Outbox(session, Wake(), max_bytes=100)
    said = [line("a" * 40 + "\n"), line("b" * 90 + "\n"), line("c" * 90 + "\n"), Ended(process="p", returncode=0)]
    for message in said:
        outbox.say(message)
    kept = session.due()
    assert [_decode(message) for _, message in kept] == [said[0], said[3]]
    session.reopened(len(kept))
    outbox.say(line("d\n"))
    text = "[2 lines are left out here: the head did not take them in time]\n"
    assert [_decode(message) for _, message in session.due()] == [line(text), line("d\n")]
