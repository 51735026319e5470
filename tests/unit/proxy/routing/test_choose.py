"""Routing as a function: a snapshot and an ask in, two servers out, or one, or none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from trtdisagg.errors import ContextLengthError, ModelNotFoundError, UnavailableError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ANY_MODEL, ModelSpec, RouterSpec
from trtdisagg.proxy.routing.ask import Ask, Load, View
from trtdisagg.proxy.routing.choose import Route, choose, choose_successor
from trtdisagg.registry.members import Roster, Snapshot


def member(name: str, **fields: Any) -> Member:
    return Member(**{"name": name, "role": name.partition("-")[0], "model": "m", "url": name, **fields})


def snapshot_of(*members: Member) -> Snapshot:
    roster = Roster()
    roster.replace("test", members, needs={"m": ["generation"]})
    return roster.snapshot


def snapshot(*names: str, foreign: tuple[str, ...] = ()) -> Snapshot:
    return snapshot_of(*(member(name, wire_version=None if name in foreign else WIRE_VERSION) for name in names))


def view(loads: Mapping[str, Load] | None = None, matches: Mapping[str, int] | None = None, **spec: Any) -> View:
    return View(
        load_of=lambda m: (loads or {}).get(m.name, Load()),
        match_of=lambda m, _: matches.get(m.name) if matches is not None else None,
        models={"m": ModelSpec(**spec)},
    )


NOTHING = view()


def ask(turn: int = 0, avoid: Collection[str] = (), **fields: Any) -> Ask:
    return Ask(**{"model": "m", "turn": turn, "avoid": avoid, **fields})


def chosen(of: Snapshot, ask: Ask, view: View = NOTHING) -> Route:
    route = choose(of, ask, view)
    assert route is not None
    return route


def routes(of: Snapshot, num_turns: int, avoid: tuple[str, ...] = ()) -> list[tuple[str | None, str]]:
    found = [chosen(of, ask(turn, avoid)) for turn in range(num_turns)]
    return [(c.context.name if c.context else None, c.generation.name) for c in found]


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
        choose(snapshot(*names), ask(), NOTHING)


def test_an_unknown_model_is_unknown_only_when_others_are_known() -> None:
    with pytest.raises(ModelNotFoundError):
        choose(snapshot("both-0"), ask(model="other"), NOTHING)
    with pytest.raises(UnavailableError):
        choose(Snapshot(), ask(model="other"), NOTHING)


def test_only_one_of_ours_goes_on_with_a_begun_answer() -> None:
    servers = snapshot("generation-0", "generation-1", "generation-2", foreign=("generation-1",))
    assert {choose_successor(servers, ask(turn, ()), NOTHING).name for turn in range(4)} == {
        "generation-0",
        "generation-2",
    }
    assert choose_successor(servers, ask(0, ("generation-0",)), NOTHING).name == "generation-2"
    assert choose_successor(snapshot("generation-0"), ask(0, ("generation-0",)), NOTHING).name == "generation-0"
    with pytest.raises(UnavailableError):
        choose_successor(snapshot("generation-0", foreign=("generation-0",)), ask(0, ()), NOTHING)


# --- the path -------------------------------------------------------------------------------------------------------

PAIR = snapshot("context-0", "generation-0")


@pytest.mark.parametrize(
    ("servers", "fields", "path"),
    [
        (PAIR, {}, "both"),
        (PAIR, {"needs_one_server": True}, "indivisible"),
        (PAIR, {"avoid": ["context-0"]}, "no_context"),
        (snapshot("generation-0"), {}, "no_context"),
        (snapshot("both-0"), {}, "alone"),
    ],
)
def test_the_path_says_why(servers: Snapshot, fields: dict[str, Any], path: str) -> None:
    route = chosen(servers, ask(**fields))
    assert route.path == path
    assert (route.context is None) == (path != "both")


@pytest.mark.parametrize(
    ("num_tokens", "match", "path"),
    [
        (100, None, "short"),
        (101, None, "both"),
        (101, 0, "both"),
        (1000, 896, "both"),
        (1000, 928, "cached"),
        (100, 96, "short"),
    ],
)
def test_prompts_of_which_little_is_to_be_computed_go_to_generation_alone(
    num_tokens: int, match: int | None, path: str
) -> None:
    matches = None if match is None else {"generation-0": match}
    seen = view(matches=matches, max_local_prefill_length=100)
    assert chosen(PAIR, ask(num_prompt_tokens=num_tokens), seen).path == path


def test_what_is_in_the_cache_of_another_generation_server_does_not_count() -> None:
    servers = snapshot("context-0", "generation-0", "generation-1")
    seen = view(matches={"generation-1": 992}, max_local_prefill_length=100)
    paths = [chosen(servers, ask(turn, num_prompt_tokens=1000), seen).path for turn in range(2)]
    assert paths == ["both", "cached"]


def test_with_0_only_what_is_there_as_a_whole_goes_to_generation_alone() -> None:
    for match, path in ((0, "both"), (992, "both"), (1000, "cached")):
        seen = view(matches={"generation-0": match}, max_local_prefill_length=0)
        assert chosen(PAIR, ask(num_prompt_tokens=1000), seen).path == path


# --- room -----------------------------------------------------------------------------------------------------------


def test_without_room_there_is_no_route() -> None:
    full = member("generation-0", max_batch_size=4)
    other = member("generation-1", max_batch_size=4)
    loads = {"generation-0": Load(5)}
    assert choose(snapshot_of(full), ask(), view(loads)) is None
    for turn in range(2):
        assert chosen(snapshot_of(full, other), ask(turn), view(loads)).generation == other
    assert choose(snapshot_of(full, other), ask(avoid=["generation-1"]), view(loads)) is None


def test_a_successor_need_not_have_room_but_one_that_has_it_comes_first() -> None:
    servers = [member(f"generation-{i}", max_batch_size=4, wire_version=WIRE_VERSION) for i in range(2)]
    loads = {"generation-0": Load(9)}
    assert {choose_successor(snapshot_of(*servers), ask(t), view(loads)) for t in range(2)} == {servers[1]}
    assert choose_successor(snapshot_of(servers[0]), ask(), view(loads)) == servers[0]


def test_a_prompt_that_is_too_long_for_the_generation_servers_is_refused_before_it_is_computed() -> None:
    servers = snapshot_of(member("context-0", max_seq_len=8192), member("generation-0", max_seq_len=1000))
    with pytest.raises(ContextLengthError, match=r"1001 tokens.* at most 1000") as e:
        choose(servers, ask(num_prompt_tokens=1001, is_exact=True), NOTHING)
    assert e.value.param == "prompt"
    with pytest.raises(ContextLengthError, match="max_tokens is 101") as e:
        choose(servers, ask(num_prompt_tokens=900, is_exact=True, max_tokens=101), NOTHING)
    assert e.value.param == "max_tokens"
    assert chosen(servers, ask(num_prompt_tokens=900, is_exact=True, max_tokens=100)).path == "both"
    assert chosen(servers, ask(num_prompt_tokens=5000)).path == "both", "what is only estimated is not refused"


def test_a_prompt_goes_to_servers_that_can_hold_it() -> None:
    servers = snapshot_of(
        member("context-0", max_seq_len=100),
        member("context-1", max_seq_len=200),
        member("generation-0", max_seq_len=300),
        member("generation-1", max_seq_len=120),
        member("generation-2"),
    )
    for turn in range(4):
        route = chosen(servers, ask(turn, num_prompt_tokens=150, is_exact=True, max_tokens=10))
        assert route.context is not None
        assert (route.context.name, route.generation.name) in {
            ("context-1", "generation-0"),
            ("context-1", "generation-2"),
        }
    assert chosen(servers, ask(num_prompt_tokens=250, is_exact=True, max_tokens=10)).path == "no_context"


# --- by model -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_listed_is_routed_as_any_other() -> None:
    busy = {"generation-0": Load(3)}
    any_model = View(
        view(busy).load_of, lambda *_: None, {ANY_MODEL: ModelSpec(generation_router=RouterSpec(type="load_balancing"))}
    )
    servers = snapshot("generation-0", "generation-1")
    assert {chosen(servers, ask(turn), any_model).generation.name for turn in range(2)} == {"generation-1"}
    assert {chosen(servers, ask(turn), view(busy)).generation.name for turn in range(2)} == {
        "generation-0",
        "generation-1",
    }


def test_each_role_has_a_router_of_its_own() -> None:
    servers = snapshot("context-0", "context-1", "generation-0", "generation-1")
    loads = {"context-0": Load(3), "generation-0": Load(3)}
    seen = view(loads, context_router=RouterSpec(type="load_balancing"))
    assert [chosen(servers, ask(turn), seen).context for turn in range(2)] == [
        member("context-1", wire_version=WIRE_VERSION)
    ] * 2
    assert [chosen(servers, ask(turn), seen).generation.name for turn in range(2)] == ["generation-0", "generation-1"]


def test_it_says_when_it_went_by_caches_that_nobody_knows() -> None:
    servers = snapshot("context-0", "context-1", "generation-0")
    router = RouterSpec(type="kv_cache_aware")
    assert chosen(servers, ask(), view(context_router=router)).is_blind
    assert not chosen(servers, ask(), view(context_router=router, matches={"context-0": 0})).is_blind
    assert not chosen(servers, ask(), view(generation_router=router)).is_blind, "there is nothing to choose"
