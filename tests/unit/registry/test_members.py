"""The roster as histories: sets, leases and doubts in, a snapshot out."""

from __future__ import annotations

from typing import Any

from trtdisagg.protocol.control import Member
from trtdisagg.registry.members import Roster


def member(name: str, **fields: Any) -> Member:
    role = name.partition("-")[0]
    return Member(**{"name": name, "role": role, "model": "m", "url": f"{name}:1", **fields})


def names(roster: Roster, model: str = "m") -> tuple[list[str], list[str]]:
    pools = roster.snapshot.pools[model]
    return [m.name for m in pools.context], [m.name for m in pools.generation]


def test_a_set_takes_the_place_of_the_one_before() -> None:
    roster = Roster()
    roster.replace("agent", [member("context-0"), member("context-1"), member("generation-0")])
    assert names(roster) == (["context-0", "context-1"], ["generation-0"])
    roster.replace("agent", [member("context-1"), member("generation-0")])
    assert names(roster) == (["context-1"], ["generation-0"])


def test_sources_do_not_touch_each_other() -> None:
    roster = Roster()
    roster.replace("agent", [member("context-0")])
    roster.replace("fixed", [member("generation-7")])
    roster.replace("agent", [])
    assert names(roster) == ([], ["generation-7"])


def test_a_server_of_both_roles_counts_in_each() -> None:
    roster = Roster()
    roster.replace("agent", [member("both-0"), member("generation-0")])
    assert names(roster) == (["both-0"], ["both-0", "generation-0"])


def test_a_doubted_server_is_left_out_until_a_probe_succeeds() -> None:
    roster = Roster()
    broken = member("context-0")
    roster.replace("agent", [broken, member("context-1"), member("generation-0")])
    roster.doubt(broken)
    assert names(roster)[0] == ["context-1"]
    assert roster.doubted == [broken]
    assert not roster.is_listed(broken)
    roster.trust(broken)
    assert names(roster)[0] == ["context-0", "context-1"]
    assert roster.doubted == []


def test_doubt_survives_a_renewal_and_ends_with_a_new_incarnation() -> None:
    roster = Roster()
    first, second = member("context-0", incarnation="a"), member("context-0", incarnation="b")
    roster.replace("agent", [first])
    roster.doubt(first)
    roster.replace("agent", [first])
    assert names(roster)[0] == []
    roster.replace("agent", [second])
    assert names(roster)[0] == ["context-0"]
    roster.replace("agent", [first])
    assert names(roster)[0] == ["context-0"], "a doubt does not outlive the member it was about"


def test_doubt_about_a_server_that_is_gone_is_nothing() -> None:
    roster = Roster()
    roster.doubt(member("context-0"))
    assert roster.doubted == []


def test_a_set_is_stale_when_it_was_not_renewed_and_is_used_all_the_same() -> None:
    roster = Roster()
    roster.replace("agent", [member("both-0")], until=15.0)
    assert not roster.is_stale(15.0)
    assert roster.is_stale(15.1)
    assert names(roster) == (["both-0"], ["both-0"])
    roster.replace("agent", [member("both-0")], until=20.0)
    assert not roster.is_stale(15.1)


def test_a_model_whose_servers_are_gone_is_still_known() -> None:
    roster = Roster()
    roster.replace("agent", [member("both-0"), member("both-1", model="other")])
    roster.replace("agent", [member("both-0")])
    assert names(roster, "other") == ([], [])
    assert roster.snapshot.missing() == ["no generation server for other"]
    assert not roster.snapshot.can_serve()


def test_nothing_known_is_not_ready() -> None:
    assert Roster().snapshot.missing() == ["no server"]
    assert not Roster().snapshot.can_serve()


def test_what_a_model_needs_is_told_before_its_servers_are_there() -> None:
    roster = Roster()
    needs = {"m": ["context", "generation"]}
    roster.replace("agent", [], needs=needs)
    assert roster.snapshot.missing() == ["no context server for m", "no generation server for m"]
    roster.replace("agent", [member("generation-0")], needs=needs)
    assert roster.snapshot.missing() == ["no context server for m"]
    assert roster.snapshot.can_serve()
    roster.replace("agent", [member("generation-0"), member("context-0")], needs=needs)
    assert roster.snapshot.missing() == []


def test_a_snapshot_stays_as_it_was_taken() -> None:
    roster = Roster()
    roster.replace("agent", [member("both-0")])
    before = roster.snapshot
    assert roster.snapshot is before
    roster.replace("agent", [])
    assert [m.name for m in before.pools["m"].generation] == ["both-0"]


def test_watchers_are_called_when_something_has_changed() -> None:
    roster = Roster()
    calls: list[list[str]] = []
    roster.watch(lambda: calls.append([m.name for m in roster.members]))
    roster.replace("agent", [member("both-0")], coming={"m": ["context"]}, until=1.0)
    roster.replace("agent", [member("both-0")], coming={"m": ["context"]}, until=2.0)
    assert calls == [["both-0"]], "renewed only"
    roster.doubt(member("both-0"))
    roster.doubt(member("both-0"))
    assert len(calls) == 2
    roster.replace("agent", [], coming={"m": ["context"]})
    assert calls[2:] == [[]], "one that could not be routed to has left"
    roster.replace("agent", [])
    assert len(calls) == 4, "nothing comes any more"


def test_what_comes_and_what_is_in_doubt_is_told_by_model_and_role() -> None:
    roster = Roster()
    both, generation = member("both-0"), member("generation-0", model="other")
    roster.replace("agent", [both, generation], coming={"m": ["context"]})
    roster.replace("registry", [], coming={"m": ["generation"], "new": ["generation"]})
    roster.doubt(both)
    roster.doubt(generation)
    assert roster.snapshot.coming == {"m": {"context", "generation"}, "new": {"generation"}}
    assert roster.snapshot.doubted == {"m": {"context", "generation"}, "other": {"generation"}}
    assert names(roster, "new") == ([], []), "a model that comes is known"
    assert roster.apart_from("registry") == [both, generation]


def test_a_model_that_nobody_needs_any_more_is_forgotten_when_its_servers_are_gone() -> None:
    roster = Roster()
    a, b = member("a", model="A"), member("b", model="B")
    roster.replace("agent", [a, b], needs={"A": ["generation"], "B": ["generation"]})
    roster.replace("agent", [a, b], needs={"A": ["generation"]})
    assert set(roster.snapshot.pools) == {"A", "B"}
    roster.replace("agent", [a], needs={"A": ["generation"]})
    assert set(roster.snapshot.pools) == {"A"}
    assert not roster.snapshot.missing()
    roster.replace("agent", [a], needs={"A": ["generation"], "B": ["generation"]})
    assert set(roster.snapshot.pools) == {"A", "B"}
