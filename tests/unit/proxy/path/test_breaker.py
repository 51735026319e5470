"""Histories of legs, and whether their server is routed to then."""

from __future__ import annotations

import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import BreakerSpec
from trtdisagg.proxy.path.breaker import Breaker, Breakers
from trtdisagg.registry.members import Roster

RULES = BreakerSpec(num_failures=3, num_legs=5, window_s=10.0, open_s=4.0, max_open_s=10.0)


def server(name: str) -> Member:
    return Member(name=name, role=name.partition("-")[0], model="m", url=name, incarnation=f"{name}.1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("history", "is_open"),
    [
        ("fff", True),
        ("ff", False),
        ("fdfdf", True),
        ("ffdddf", False),  # only two among the last five
        ("ffwf", False),  # the first ones are long ago
        ("fwfff", True),
        ("ddddddfff", True),
    ],
)
def test_it_opens_when_so_many_of_the_last_legs_failed(history: str, is_open: bool) -> None:
    """f: a leg failed; d: one was done; w: the window passes."""
    breaker, now = Breaker(RULES), 100.0
    for event in history:
        now += RULES.window_s + 1 if event == "w" else 0.1
        if event == "d":
            breaker.succeeded()
        elif event == "f" and breaker.is_due(now):
            breaker.open(now)
    assert (breaker.state == "open") is is_open


def opened(breakers: Breakers, member: Member, now: float) -> None:
    for _ in range(RULES.num_failures):
        breakers.failed(member, now)


def roster_of(*members: Member) -> Roster:
    roster = Roster()
    roster.replace("test", members)
    return roster


def test_it_is_cut_off_probed_tried_and_closed() -> None:
    one, other = server("generation-0"), server("generation-1")
    roster = roster_of(one, other)
    breakers = Breakers(RULES, roster)
    opened(breakers, one, 100.0)
    assert (breakers.state(one), roster.is_listed(one)) == ("open", False)
    assert not breakers.may_be_probed(one, 103.9)
    assert breakers.may_be_probed(one, 104.0)
    breakers.probed(one)
    roster.trust(one)
    assert (breakers.state(one), roster.is_listed(one)) == ("half_open", True)
    breakers.succeeded(one)
    assert breakers.state(one) == "closed"


def test_each_time_that_it_fails_again_it_is_away_for_longer() -> None:
    one = server("generation-0")
    roster = roster_of(one, server("generation-1"))
    breakers, now, away = Breakers(RULES, roster), 100.0, []
    opened(breakers, one, now)
    for _ in range(4):
        away.append(next(s for s in range(100) if breakers.may_be_probed(one, now + s)))
        now += away[-1]
        breakers.probed(one)
        roster.trust(one)
        breakers.failed(one, now)
        assert not roster.is_listed(one)
    assert away == [4, 8, 10, 10]


def test_the_last_one_that_generates_is_not_cut_off() -> None:
    context, one, other = server("context-0"), server("generation-0"), server("generation-1")
    roster = roster_of(context, one, other)
    breakers = Breakers(RULES, roster)
    opened(breakers, one, 1.0)
    opened(breakers, other, 1.0)
    opened(breakers, context, 1.0)
    assert [roster.is_listed(m) for m in (context, one, other)] == [False, False, True]


def test_nothing_is_kept_of_those_that_are_well_or_gone() -> None:
    one, other = server("generation-0"), server("generation-1")
    roster = roster_of(one, other)
    breakers = Breakers(RULES, roster)
    breakers.failed(one, 1.0)
    for _ in range(RULES.num_legs):
        breakers.succeeded(one)
    assert not breakers._of
    opened(breakers, one, 2.0)
    roster.replace("test", [other])
    assert not breakers._of
    assert breakers.may_be_probed(one, 2.0)


def test_it_can_be_switched_off() -> None:
    one, other = server("generation-0"), server("generation-1")
    roster = roster_of(one, other)
    opened(Breakers(BreakerSpec(num_failures=0), roster), one, 1.0)
    assert roster.is_listed(one)
