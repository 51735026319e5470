"""Who is in use, and when a server that has left is removed."""

from __future__ import annotations

import msgspec
import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.members.uses import Uses
from trtdisagg.proxy.routing.ask import Ask, Load
from trtdisagg.proxy.routing.room import UNKNOWN_TOKENS
from trtdisagg.registry.members import Roster

CONTEXT = Member(name="context-0", role="context", model="m", url="h:1", incarnation="c.1")
GENERATION = Member(name="generation-0", role="generation", model="m", url="h:2", incarnation="g.1")
FOREIGN = Member(name="generation-1", role="generation", model="m", url="h:3")
ASK = Ask(model="m", num_prompt_tokens=100, max_tokens=10)


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
    with uses.claim(ASK) as first, uses.claim(ASK) as second:
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


def test_no_request_counts_for_more_than_its_server_can_hold(uses: Uses) -> None:
    small = msgspec.structs.replace(GENERATION, max_seq_len=1000)
    with uses.claim(Ask(model="m", num_prompt_tokens=100, max_tokens=10**19, num_answers=2)) as claim:
        claim.take(CONTEXT, small)
        assert uses.load(small) == Load(2, 2000)
        claim.take_generation(FOREIGN)
        assert uses.load(FOREIGN) == Load(2, 2 * UNKNOWN_TOKENS)
    assert uses.in_use() == {}


def test_what_a_failed_request_counted_on_is_given_back(uses: Uses) -> None:
    def fail() -> None:
        with uses.claim(ASK) as claim:
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
    with uses.claim(ASK) as claim:
        claim.take(CONTEXT, GENERATION)
        with uses.claim(ASK) as other:
            other.take(None, GENERATION)
            roster.replace("agent", [])
            assert caplog.messages == []
            claim.drop_context()
            assert caplog.messages == ["Server h:1 is removed"]
        assert uses.in_use() == {"g.1": 1}
    assert caplog.messages == ["Server h:1 is removed", "Server h:2 is removed"]


def test_one_that_comes_back_was_never_removed(roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture) -> None:
    with uses.claim(ASK) as claim:
        claim.take(None, GENERATION)
        roster.replace("agent", [CONTEXT])
        roster.replace("agent", [CONTEXT, GENERATION])
    assert caplog.messages == []


def test_the_next_incarnation_is_another_server(roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture) -> None:
    second = Member(name="generation-0", role="generation", model="m", url="h:2", incarnation="g.2")
    with uses.claim(ASK) as claim:
        claim.take(None, GENERATION)
        roster.replace("agent", [CONTEXT, second])
        with uses.claim(ASK) as other:
            other.take(None, second)
            assert uses.in_use() == {"g.1": 1, "g.2": 1}
        assert caplog.messages == []
    assert caplog.messages == ["Server h:2 is removed"]


def test_one_in_another_role_is_the_same_server(roster: Roster, uses: Uses, caplog: pytest.LogCaptureFixture) -> None:
    switched = Member(name="generation-0", role="context", model="m", url="h:2", incarnation="g.1")
    roster.replace("agent", [CONTEXT, switched])
    assert caplog.messages == []


# --- load -----------------------------------------------------------------------------------------------------------


def test_the_load_of_a_context_server_ends_with_its_leg_and_its_use_when_its_kv_is_taken_over(uses: Uses) -> None:
    with uses.claim(ASK) as claim:
        claim.take(CONTEXT, GENERATION)
        assert uses.load(CONTEXT) == Load(1, 100)
        assert uses.load(GENERATION) == Load(1, 110)
        claim.prefilled()
        claim.prefilled()
        assert uses.load(CONTEXT) == Load()
        assert uses.in_use() == {"c.1": 1, "g.1": 1}
        claim.drop_context()
        assert uses.in_use() == {"g.1": 1}
        claim.take(CONTEXT, GENERATION)
        assert (uses.load(CONTEXT), uses.load(GENERATION)) == (Load(1, 100), Load(1, 110))
    assert (uses.load(CONTEXT), uses.load(GENERATION), uses.in_use()) == (Load(), Load(), {})


def test_several_answers_are_a_load_of_several(uses: Uses) -> None:
    with uses.claim(Ask(model="m", num_prompt_tokens=100, max_tokens=10, num_answers=4)) as claim:
        claim.take(None, GENERATION)
        assert uses.load(GENERATION) == Load(4, 140)
        assert uses.in_use() == {"g.1": 1}


def test_whoever_watches_is_told_when_there_is_less(uses: Uses) -> None:
    told: list[tuple[str, Load]] = []
    uses.watch(lambda member: told.append((member.name, uses.load(member))))
    with uses.claim(ASK) as claim, uses.claim(ASK) as other:
        other.take(None, GENERATION)
        claim.take(CONTEXT, GENERATION)
        assert told == []
        claim.prefilled()
    assert told == [("context-0", Load()), ("generation-0", Load(1, 110)), ("generation-0", Load())]


class Table:
    """What two processes of one proxy tell each other."""

    def __init__(self) -> None:
        self.told: dict[str, Load] = {}
        self.theirs: dict[str, Load] = {}

    def load(self, identity: str) -> Load:
        return self.theirs.get(identity, Load())

    def tell(self, identity: str, load: Load) -> None:
        self.told[identity] = load


def test_other_processes_are_told_and_added(roster: Roster) -> None:
    table = Table()
    uses = Uses(roster, table)
    table.theirs["g.1"] = Load(2, 30)
    with uses.claim(ASK) as claim:
        claim.take(CONTEXT, GENERATION)
        assert table.told == {"c.1": Load(1, 100), "g.1": Load(1, 110)}
        assert uses.load(GENERATION) == Load(3, 140)
        claim.drop_context()
        assert table.told["c.1"] == Load()
    assert table.told["g.1"] == Load()
    assert uses.load(GENERATION) == Load(2, 30)
