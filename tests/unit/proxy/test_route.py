"""Routing as a function: a snapshot, a turn and whom to avoid in, two servers out."""

from __future__ import annotations

import pytest

from trtdisagg.errors import ModelNotFoundError, UnavailableError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.route import choose, choose_successor
from trtdisagg.registry.members import Roster, Snapshot


def snapshot(*names: str, foreign: tuple[str, ...] = ()) -> Snapshot:
    roster = Roster()
    roster.replace(
        "test",
        [
            Member(
                name=name,
                role=name.partition("-")[0],  # type: ignore[arg-type]
                model="m",
                url=name,
                wire_version=None if name in foreign else WIRE_VERSION,
            )
            for name in names
        ],
        needs={"m": ["generation"]},
    )
    return roster.snapshot


def routes(of: Snapshot, num_turns: int, avoid: tuple[str, ...] = ()) -> list[tuple[str | None, str]]:
    chosen = [choose(of, "m", turn, avoid) for turn in range(num_turns)]
    return [(c.context.name if c.context else None, c.generation.name) for c in chosen]


def test_each_role_takes_turns() -> None:
    assert routes(snapshot("context-0", "context-1", "generation-0", "generation-1", "generation-2"), 6) == [
        ("context-0", "generation-0"),
        ("context-1", "generation-1"),
        ("context-0", "generation-2"),
        ("context-1", "generation-0"),
        ("context-0", "generation-1"),
        ("context-1", "generation-2"),
    ]


def test_the_same_server_for_both_legs_is_one_leg() -> None:
    assert routes(snapshot("both-0", "both-1"), 3) == [(None, "both-0"), (None, "both-1"), (None, "both-0")]
    assert routes(snapshot("context-0", "both-1"), 2) == [("context-0", "both-1"), (None, "both-1")]


def test_without_context_servers_generation_is_alone() -> None:
    assert routes(snapshot("generation-0"), 1) == [(None, "generation-0")]


def test_servers_that_failed_are_avoided() -> None:
    servers = snapshot("context-0", "context-1", "generation-0", "generation-1")
    assert routes(servers, 2, ("context-0", "generation-1")) == [("context-1", "generation-0")] * 2


def test_when_all_have_failed_the_context_leg_is_left_out_and_generation_asked_again() -> None:
    servers = snapshot("context-0", "generation-0")
    assert routes(servers, 1, ("context-0",)) == [(None, "generation-0")]
    assert routes(servers, 1, ("generation-0",)) == [("context-0", "generation-0")]


@pytest.mark.parametrize("names", [(), ("context-0",)])
def test_without_generation_there_is_no_answer(names: tuple[str, ...]) -> None:
    with pytest.raises(UnavailableError):
        choose(snapshot(*names), "m", 0)


def test_an_unknown_model_is_unknown_only_when_others_are_known() -> None:
    with pytest.raises(ModelNotFoundError):
        choose(snapshot("both-0"), "other", 0)
    with pytest.raises(UnavailableError):
        choose(Snapshot(), "other", 0)


def test_only_one_of_ours_goes_on_with_a_begun_answer() -> None:
    servers = snapshot("generation-0", "generation-1", "generation-2", foreign=("generation-1",))
    assert {choose_successor(servers, "m", turn, ()).name for turn in range(4)} == {"generation-0", "generation-2"}
    assert choose_successor(servers, "m", 0, ("generation-0",)).name == "generation-2"
    assert choose_successor(snapshot("generation-0"), "m", 0, ("generation-0",)).name == "generation-0"
    with pytest.raises(UnavailableError):
        choose_successor(snapshot("generation-0", foreign=("generation-0",)), "m", 0, ())
