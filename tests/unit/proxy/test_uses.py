"""Who is in use, and when a server that has left is removed."""

from __future__ import annotations

import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.uses import Uses
from trtdisagg.registry.members import Roster

CONTEXT = Member(name="context-0", role="context", model="m", url="h:1", incarnation="c.1")
GENERATION = Member(name="generation-0", role="generation", model="m", url="h:2", incarnation="g.1")
FOREIGN = Member(name="generation-1", role="generation", model="m", url="h:3")


@pytest.fixture
def roster() -> Roster:
    roster = Roster()
    roster.replace("agent", [CONTEXT, GENERATION])
    return roster


@pytest.fixture
def uses(roster: Roster, caplog: pytest.LogCaptureFixture) -> Uses:
    caplog.set_level("INFO")
    uses = Uses(roster)
    roster.replace("fixed", [FOREIGN])
    return uses


def test_a_request_counts_on_both_its_servers(uses: Uses) -> None:
    with uses.claim() as first, uses.claim() as second:
        first.take(CONTEXT, GENERATION)
        second.take(None, FOREIGN)
        assert uses.in_use() == {"c.1": 1, "g.1": 1, "h:3": 1}
        first.drop_context()
        assert uses.in_use() == {"g.1": 1, "h:3": 1}
        second.take(CONTEXT, GENERATION)
        assert uses.in_use() == {"c.1": 1, "g.1": 2}
        first.drop_generation()
        first.drop_generation()
    assert uses.in_use() == {}


def test_what_a_failed_request_counted_on_is_given_back(uses: Uses) -> None:
    def fail() -> None:
        with uses.claim() as claim:
            claim.take(CONTEXT, GENERATION)
            raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        fail()
    assert uses.in_use() == {}


def test_one_that_leaves_unused_is_removed_at_once(
    roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture
) -> None:
    roster.replace("agent", [CONTEXT])
    roster.replace("agent", [CONTEXT])
    roster.replace("fixed", [])
    assert caplog.messages == ["Server h:2 is removed", "Server h:3 is removed"]


def test_one_that_leaves_in_use_is_removed_when_nothing_counts_on_it(
    roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture
) -> None:
    with uses.claim() as claim:
        claim.take(CONTEXT, GENERATION)
        with uses.claim() as other:
            other.take(None, GENERATION)
            roster.replace("agent", [])
            assert caplog.messages == []
            claim.drop_context()
            assert caplog.messages == ["Server h:1 is removed"]
        assert uses.in_use() == {"g.1": 1}
    assert caplog.messages == ["Server h:1 is removed", "Server h:2 is removed"]


def test_one_that_comes_back_was_never_removed(roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture) -> None:
    with uses.claim() as claim:
        claim.take(None, GENERATION)
        roster.replace("agent", [CONTEXT])
        roster.replace("agent", [CONTEXT, GENERATION])
    assert caplog.messages == []


def test_the_next_incarnation_is_another_server(roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture) -> None:
    second = Member(name="generation-0", role="generation", model="m", url="h:2", incarnation="g.2")
    with uses.claim() as claim:
        claim.take(None, GENERATION)
        roster.replace("agent", [CONTEXT, second])
        with uses.claim() as other:
            other.take(None, second)
            assert uses.in_use() == {"g.1": 1, "g.2": 1}
        assert caplog.messages == []
    assert caplog.messages == ["Server h:2 is removed"]


def test_one_in_another_role_is_the_same_server(roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture) -> None:
    switched = Member(name="generation-0", role="context", model="m", url="h:2", incarnation="g.1")
    roster.replace("agent", [CONTEXT, switched])
    assert caplog.messages == []
