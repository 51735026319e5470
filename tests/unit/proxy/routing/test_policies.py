"""One of several servers: each policy alone, and what holds for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ModelSpec, RouterSpec, RouterType
from trtdisagg.proxy.routing.ask import Ask, Load, View
from trtdisagg.proxy.routing.choose import choose
from trtdisagg.proxy.routing.policies import pick
from trtdisagg.registry.members import Pools, Snapshot

TYPES: tuple[RouterType, ...] = get_args(RouterType)
FOUR = [
    Member(name=f"generation-{i}", role="generation", model="m", url=f"h:{i}", tokens_per_block=32) for i in range(4)
]


def view(loads: Mapping[int, Load | int] | None = None, matches: Mapping[int, int] | None = None) -> View:
    """
    :param loads: by number of the server.
    :param matches: the same; None: nobody knows.
    """

    def load_of(member: Member) -> Load:
        load = (loads or {}).get(_number(member), 0)
        return load if isinstance(load, Load) else Load(load)

    return View(load_of, lambda m, _: None if matches is None else matches.get(_number(m), 0))


def picked(router: RouterSpec, view: View, num_turns: int = 4, **fields: object) -> list[int]:
    asks = [Ask(model="m", turn=turn, **fields) for turn in range(num_turns)]  # type: ignore[arg-type]
    return [_number(pick(router, FOUR, ask, view).member) for ask in asks]


def _number(member: Member) -> int:
    return int(member.name.rpartition("-")[2])


def test_round_robin() -> None:
    assert picked(RouterSpec(), view({0: 9}), 6) == [0, 1, 2, 3, 0, 1]


def test_the_least_loaded_in_turns() -> None:
    router = RouterSpec(type="load_balancing")
    assert picked(router, view({0: 3, 1: 2, 2: 5, 3: 2})) == [1, 3, 1, 3]
    assert picked(router, view()) == [0, 1, 2, 3]


def test_load_may_be_tokens() -> None:
    loads = {0: Load(1, 900), 1: Load(5, 100), 2: Load(1, 800), 3: Load(2, 800)}
    assert picked(RouterSpec(type="load_balancing", use_tokens=True), view(loads)) == [1] * 4
    assert picked(RouterSpec(type="load_balancing"), view(loads)) == [0, 2, 0, 2]


@pytest.mark.parametrize(
    ("loads", "matches", "best"),
    [
        ({}, {2: 64}, [2] * 4),
        ({2: 32}, {2: 64}, [2] * 4),  # 64/128 against 32/64: equal with the idle ones, see below
        ({2: 33}, {2: 64}, [0, 1, 3, 0]),
        ({2: 40}, {2: 128}, [2] * 4),
        ({2: 70}, {2: 128}, [0, 1, 3, 0]),
        ({0: 1, 1: 1}, {0: 96, 1: 96, 2: 32}, [0, 1, 0, 1]),
    ],
)
def test_what_is_cached_weighs_as_much_as_a_full_batch(
    loads: dict[int, Load | int], matches: dict[int, int], best: list[int]
) -> None:
    if loads == {2: 32}:
        best = [0, 1, 2, 3]
    assert picked(RouterSpec(type="kv_cache_aware"), view(loads, matches), num_prompt_tokens=120) == best


def test_a_burst_of_one_prompt_spreads_when_its_server_is_full() -> None:
    router, counts = RouterSpec(type="kv_cache_aware", max_batch_size=8), Counter[int]()
    for turn in range(16):
        ask = Ask(model="m", turn=turn, num_prompt_tokens=128)
        member = pick(router, FOUR, ask, view(dict(counts), {1: 128})).member
        counts[_number(member)] += 1
    assert counts[1] >= 9
    assert len(counts) == 4


def test_with_tokens_a_load_of_long_prompts_weighs_more() -> None:
    router = RouterSpec(type="kv_cache_aware", use_tokens=True, max_batch_size=4)
    loads = {0: Load(1, 1000), 1: Load(3, 300), 2: Load(4, 5000), 3: Load(4, 5000)}
    assert picked(router, view(loads, {0: 128}), num_prompt_tokens=128) == [1] * 4
    assert picked(router, view({**loads, 0: Load(9, 700)}, {0: 128}), num_prompt_tokens=128) == [0] * 4


def test_when_nobody_knows_what_is_cached_the_load_decides_and_that_is_said() -> None:
    router = RouterSpec(type="kv_cache_aware")
    choice = pick(router, FOUR, Ask(model="m"), view({0: 1, 1: 1, 2: 1}))
    assert (choice.member, choice.is_blind) == (FOUR[3], True)
    assert not pick(router, FOUR, Ask(model="m"), view(matches={0: 0})).is_blind


# --- sessions -------------------------------------------------------------------------------------------------------

SESSION = RouterSpec(type="session")
MANY = [f"session {i}" for i in range(400)]


def homes(members: list[Member], seen: View | None = None) -> dict[str, Member]:
    return {
        s: pick(SESSION, members, Ask(model="m", turn=i, session=s), seen or view()).member for i, s in enumerate(MANY)
    }


def test_sessions_are_spread_and_stay() -> None:
    first = homes(FOUR)
    assert homes(FOUR[::-1]) == first
    assert homes(FOUR, view({0: 5, 1: 30, 2: 2, 3: 9})) == first
    assert min(Counter(m.name for m in first.values()).values()) > len(MANY) / 8


def test_a_server_that_goes_moves_its_sessions_and_no_others() -> None:
    before, after = homes(FOUR), homes(FOUR[:3])
    moved = [s for s in MANY if before[s] != after[s]]
    assert moved == [s for s in MANY if before[s] == FOUR[3]]
    assert len({after[s].name for s in moved}) == 3


def test_an_overloaded_server_gives_its_sessions_away_while_it_is() -> None:
    before, during = homes(FOUR), homes(FOUR, view({1: 200, 0: 40, 2: 40, 3: 40}))
    assert {s for s in MANY if before[s] != during[s]} == {s for s in MANY if before[s] == FOUR[1]}
    assert homes(FOUR, view({1: 31})) == before, "half a batch is no overload"


def test_without_a_session_most_of_the_prompt_decides_and_else_the_load() -> None:
    loads: dict[int, Load | int] = {0: 1, 1: 9, 2: 1, 3: 1}
    assert picked(SESSION, view(loads, {1: 64}), num_prompt_tokens=128) == [1] * 4
    assert picked(SESSION, view(loads, {1: 32}), num_prompt_tokens=128) == [0, 2, 3, 0]
    assert picked(SESSION, view(loads), num_prompt_tokens=128) == [0, 2, 3, 0]
    assert picked(SESSION, view({**loads, 1: 99}, {1: 64}), num_prompt_tokens=128) == [0, 2, 3, 0]


# --- what holds for all ---------------------------------------------------------------------------------------------

ROUTERS = st.builds(
    RouterSpec, type=st.sampled_from(TYPES), use_tokens=st.booleans(), max_batch_size=st.integers(1, 100)
)
ROLES = st.sampled_from(["context", "generation", "both"])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Snapshot, Ask, View]:
    roles = draw(st.lists(ROLES, min_size=1, max_size=6))
    members = [Member(name=f"s-{i}", role=role, model="m", url=f"h:{i}") for i, role in enumerate(roles)]
    loads = draw(st.lists(st.builds(Load, st.integers(0, 50), st.integers(0, 9999)), min_size=6, max_size=6))
    matches = draw(st.lists(st.none() | st.integers(0, 500), min_size=6, max_size=6))
    ask = Ask(
        model="m",
        turn=draw(st.integers(0, 1000)),
        avoid=frozenset(draw(st.sets(st.sampled_from([m.name for m in members])))),
        num_prompt_tokens=draw(st.integers(0, 600)),
        session=draw(st.none() | st.binary(max_size=5).map(lambda told: told.decode(errors="surrogateescape"))),
        needs_one_server=draw(st.booleans()),
    )
    spec = ModelSpec(
        context_router=draw(ROUTERS),
        generation_router=draw(ROUTERS),
        max_local_prefill_length=draw(st.none() | st.integers(0, 600)),
    )
    seen = View(lambda m: loads[_number(m)], lambda m, _: matches[_number(m)], {"m": spec})
    pools = Pools(
        context=tuple(m for m in members if m.role != "generation"),
        generation=tuple(m for m in members if m.role != "context"),
    )
    return Snapshot(pools={"m": pools}), ask, seen


@given(scenes())
def test_whatever_there_is_and_however_it_is_routed(scene: tuple[Snapshot, Ask, View]) -> None:
    snapshot, ask, seen = scene
    pools = snapshot.pools["m"]
    if not pools.generation:
        return
    route = choose(snapshot, ask, seen)
    assert route is not None
    assert route == choose(snapshot, ask, seen)
    assert route.generation in pools.generation
    if {m.name for m in pools.generation} - set(ask.avoid):
        assert route.generation.name not in ask.avoid
    if route.context is not None:
        assert route.context in pools.context
        assert route.context != route.generation
        assert route.context.name not in ask.avoid
    assert (route.path == "both") == (route.context is not None)


@given(st.sampled_from(TYPES), st.integers(2, 5), st.none() | st.integers(0, 64))
def test_equal_servers_get_equally_many(type_: RouterType, number: int, match: int | None) -> None:
    members = [Member(name=f"s-{i}", role="generation", model="m", url=f"h:{i}") for i in range(number)]
    seen = View(lambda _: Load(3, 30), lambda *_: match)
    asks = [Ask(model="m", turn=turn, num_prompt_tokens=100) for turn in range(10 * number)]
    counts = Counter(pick(RouterSpec(type=type_), members, ask, seen).member.name for ask in asks)
    assert set(counts.values()) == {10}
