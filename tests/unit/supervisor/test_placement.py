"""Random claims on random machines: shares are disjoint while there is enough, and nobody is left out."""

from __future__ import annotations

from collections import Counter

import pytest
from helpers.plans import host
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.claims import Claim, Spot
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.placement import place


@given(num_cores=st.integers(1, 24), nums=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_cores(num_cores: int, nums: list[int]) -> None:
    claims = [
        Claim(server=f"{section}-{i}", section=str(section)) for section, num in enumerate(nums) for i in range(num)
    ]
    spots, notices = place(claims, host(num_cores))
    given_out = [core for spot in spots.values() for core in spot.cores]
    assert all(spot.cores for spot in spots.values())
    if len(claims) <= num_cores:
        assert sorted(given_out) == list(range(num_cores))
        sizes = [len(spot.cores) for spot in spots.values()]
        assert max(sizes) - min(sizes) <= 1
        assert notices == []
    else:
        assert all(spot.num_threads == 1 for spot in spots.values())
        assert notices


@given(named=st.sets(st.integers(0, 7), min_size=1), num_named=st.integers(1, 4), num_other=st.integers(1, 4))
def test_named_cores_are_left_to_those_who_named_them(named: set[int], num_named: int, num_other: int) -> None:
    claims = [Claim(server=f"a-{i}", section="a", cores=sorted(named)) for i in range(num_named)]
    claims += [Claim(server=f"b-{i}", section="b") for i in range(num_other)]
    spots, _ = place(claims, host(8))
    for claim in claims[:num_named]:
        assert set(spots[claim.server].cores) <= named
    if len(named) < 8:
        for claim in claims[num_named:]:
            assert not set(spots[claim.server].cores) & named


@given(num_gpus=st.integers(1, 8), num_servers=st.integers(1, 12), named=st.booleans())
def test_gpus(num_gpus: int, num_servers: int, named: bool) -> None:
    """Each has its own; those whose section names them may share, with a notice."""
    gpus: list[str | int] | None = list(range(num_gpus)) if named else None
    claims = [Claim(server=f"server-{i}", section="a", gpus=gpus) for i in range(num_servers)]
    machine = host(num_cores=24, num_gpus=num_gpus)
    if num_servers > num_gpus and not named:
        with pytest.raises(StartupError, match=f"server-{num_servers - 1} want"):
            place(claims, machine)
        return
    spots, notices = place(claims, machine)
    assert all(len(spot.gpus) == 1 for spot in spots.values())
    users = Counter(spot.gpus[0] for spot in spots.values())
    assert len(users) == min(num_gpus, num_servers)
    assert max(users.values()) - min(users.values()) <= 1
    assert bool(notices) == (num_servers > num_gpus)


def test_too_few_gpus_says_who_wanted_what_and_what_there_is() -> None:
    claims = [Claim(server=f"context-{i}", section="context_servers") for i in range(4)]
    with pytest.raises(StartupError) as caught:
        place(claims, host(num_gpus=2))
    assert caught.value.message == (
        "context-2, context-3 want a GPU each, and none is left: there are 0 (A card), 1 (A card); context-0 has 0, "
        "context-1 has 1. Start fewer servers, name in context_servers.gpus the GPUs they may share, or with "
        "`gpus: []` run them on the CPU"
    )


@pytest.mark.parametrize("gpus", [None, [1]])
def test_an_error_says_also_why_a_gpu_is_not_among_them(gpus: list[str | int] | None) -> None:
    machine = host(num_gpus=1, notices=["GPU 1 is left out: GPU is lost"])
    with pytest.raises((ConfigError, StartupError), match=r"there are 0 \(A card\); GPU 1 is left out: GPU is lost"):
        place([Claim(server=str(i), section="a", gpus=gpus) for i in range(2)], machine)


def test_a_gpu_that_somebody_uses_is_taken_last() -> None:
    gpus = [replace(gpu, free_bytes=free) for gpu, free in zip(host(num_gpus=3).gpus, (10, 79, 80), strict=True)]
    spots, _ = place([Claim(server=str(i), section="a") for i in range(3)], host(gpus=gpus))
    assert [spot.gpus for spot in spots.values()] == [["1"], ["2"], ["0"]]


def test_sections_that_name_the_same_gpus_divide_them() -> None:
    claims = [Claim(server=f"{s}-{i}", section=s, gpus=[0, 1, 2, 3]) for s in "ab" for i in range(2)]
    spots, notices = place(claims, host(num_gpus=4))
    assert [spot.gpus for spot in spots.values()] == [["0"], ["1"], ["2"], ["3"]]
    assert notices == []


# --- NUMA -----------------------------------------------------------------------------------------------------------

NODES = [[0, 4, 1, 5], [2, 6, 3, 7]]
"""Two nodes of two physical cores with two threads each, as Linux numbers them."""


def cores_of(num_servers: int, machine: Host) -> list[list[int]]:
    claims = [Claim(server=f"a-{i}", section="a") for i in range(num_servers)]
    return [spot.cores for spot in place(claims, machine)[0].values()]


@pytest.mark.parametrize(
    ("num_servers", "cores"),
    [
        (1, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (2, [[0, 1, 4, 5], [2, 3, 6, 7]]),
        (3, [[0, 4], [2, 3, 6, 7], [1, 5]]),
        (4, [[0, 4], [2, 6], [1, 5], [3, 7]]),
    ],
)
def test_a_server_stays_within_a_node_where_its_share_fits(num_servers: int, cores: list[list[int]]) -> None:
    assert cores_of(num_servers, host(num_cores=8, nodes=NODES)) == cores


def test_a_server_stays_near_its_gpu() -> None:
    gpus = [replace(gpu, cores=NODES[gpu.index // 2]) for gpu in host(num_gpus=4).gpus]
    machine = host(num_cores=8, nodes=NODES, gpus=gpus)
    assert cores_of(1, machine) == [[0, 1, 4, 5]]
    assert cores_of(3, machine) == [[0, 4], [1, 5], [2, 3, 6, 7]]
    assert cores_of(4, machine) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_server_on_the_cpu_leaves_the_cores_near_a_gpu_to_those_on_it() -> None:
    gpu = replace(host(num_gpus=1).gpus[0], cores=NODES[0])
    claims = [Claim(server="on-cpu", section="a", gpus=[]), Claim(server="on-gpu", section="b")]
    spots, _ = place(claims, host(num_cores=8, nodes=NODES, gpus=[gpu]))
    assert (spots["on-gpu"].cores, spots["on-cpu"].cores) == ([0, 1, 4, 5], [2, 3, 6, 7])


# --- beside what runs -----------------------------------------------------------------------------------------------


@given(
    num_cores=st.integers(1, 16),
    before=st.integers(1, 6),
    gone=st.sets(st.integers(0, 5)),
    more=st.integers(0, 4),
    num_nodes=st.integers(1, 3),
)
def test_who_runs_stays_and_who_comes_gets_what_is_free(
    num_cores: int, before: int, gone: set[int], more: int, num_nodes: int
) -> None:
    machine = host(num_cores, nodes=[list(range(i, num_cores, num_nodes)) for i in range(num_nodes)])
    first, _ = place([Claim(server=str(i), section="a") for i in range(before)], machine)
    held = {name: spot for name, spot in first.items() if int(name) not in gone}
    names = [*held, *(f"new-{i}" for i in range(more))]
    second, notices = place([Claim(server=name, section="a") for name in names], machine, held)
    assert {name: second[name].cores for name in held} == {name: spot.cores for name, spot in held.items()}
    num_free = num_cores - len({core for spot in held.values() for core in spot.cores})
    for i in range(more):
        others = {core for name in names if name != f"new-{i}" for core in second[name].cores}
        assert second[f"new-{i}"].cores
        if num_free >= more:
            assert not others & set(second[f"new-{i}"].cores)
    users = Counter(core for spot in second.values() for core in spot.cores)
    assert bool(notices) == any(n > 1 for n in users.values())


def test_with_no_core_free_a_new_server_shares_those_that_have_the_fewest_users() -> None:
    held = {
        "a-0": Spot(gpus=[], rank_cores=[[0, 1]]),
        "a-1": Spot(gpus=[], rank_cores=[[2, 3]]),
        "a-2": Spot(gpus=[], rank_cores=[[0, 1]]),
    }
    claims = [Claim(server=f"a-{i}", section="a") for i in range(4)]
    spots, notices = place(claims, host(num_cores=4), held)
    assert spots["a-3"].cores == [2]
    assert any(notice.startswith("a-1, a-3 share CPU core 2") for notice in notices)


def test_a_new_server_leaves_something_for_the_next() -> None:
    held = {"a-0": Spot(gpus=[], rank_cores=[[0]])}
    spots, _ = place([Claim(server=f"a-{i}", section="a") for i in range(2)], host(num_cores=8), held)
    assert spots["a-1"].cores == [1, 2, 3, 4]


def test_a_new_server_gets_a_gpu_that_nobody_has() -> None:
    held = {"a-1": Spot(gpus=["1"], rank_cores=[[0]]), "a-2": Spot(gpus=["0"], rank_cores=[[1]])}
    claims = [Claim(server=f"a-{i}", section="a") for i in range(3)]
    spots, _ = place(claims, host(num_gpus=3), held)
    assert {name: spot.gpus for name, spot in spots.items()} == {"a-0": ["2"], "a-1": ["1"], "a-2": ["0"]}
    with pytest.raises(StartupError, match=r"a-0 wants a GPU of its own, and none is left: .*; a-1 has 1, a-2 has 0"):
        place(claims, host(num_gpus=2), held)


def test_a_gpu_that_the_driver_does_not_show_now_moves_nobody_and_is_given_to_nobody() -> None:
    held = {"a-0": Spot(gpus=["1"], rank_cores=[[0]])}
    for gpus in (None, [1]):
        claims = [Claim(server=f"a-{i}", section="a", gpus=gpus) for i in range(2)]
        stays = place(claims[:1], host(num_gpus=0), held)[0]["a-0"]
        assert (stays.gpus, stays.cores) == (["1"], [0])
        with pytest.raises(StartupError, match="a-1 wants a GPU of its own, and none is left: there are none; a-0 has"):
            place(claims, host(num_gpus=0), held)
    claims = [Claim(server=f"a-{i}", section="a", gpus=[0, 1]) for i in range(3)]
    assert [spot.gpus for spot in place(claims, host(num_gpus=1), held)[0].values()] == [["1"], ["0"], ["0"]]


def test_who_may_not_stay_moves() -> None:
    held = {"a-0": Spot(gpus=["0"], rank_cores=[[0, 1]]), "a-1": Spot(gpus=["1"], rank_cores=[[2, 3]])}
    claims = [Claim(server=f"a-{i}", section="a", gpus=[1, 2], cores=[2, 3, 4, 5]) for i in range(2)]
    spots, _ = place(claims, host(num_gpus=3), held)
    assert spots["a-1"].gpus == ["1"]
    assert spots["a-1"].cores == [2, 3]
    assert spots["a-0"].gpus == ["2"]
    assert spots["a-0"].cores == [4, 5]


def test_sharing_a_gpu_that_the_file_does_not_name_any_more_ends() -> None:
    held = {f"a-{i}": Spot(gpus=["0"], rank_cores=[[i]]) for i in range(2)}
    spots, _ = place([Claim(server=f"a-{i}", section="a") for i in range(2)], host(num_gpus=2), held)
    assert [spot.gpus for spot in spots.values()] == [["0"], ["1"]]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ([0], ["MIG-1a", "MIG-1b"]),
        (["MIG-1b"], ["MIG-1b"]),
        (["GPU-2", 1], ["GPU-2"]),
        (["1"], ["GPU-2"]),
        (["MIG-1"], "a.gpus: MIG-1 may be each of MIG-1a, MIG-1b; write more of the UUID"),
        ([3], "a.gpus: there is no GPU 3 here; there are MIG-1a (A card), MIG-1b (A card), GPU-2 (A card)"),
    ],
)
def test_words_for_gpus(words: list[str | int], ids: list[str] | str) -> None:
    card = host(num_gpus=1).gpus[0]
    gpus = [replace(card, id=u, uuid=u, index=i) for u, i in (("MIG-1a", 0), ("MIG-1b", 0), ("GPU-2", 1))]
    num_servers = 3
    claims = [Claim(server=str(i), section="a", gpus=words) for i in range(num_servers)]
    if isinstance(ids, str):
        with pytest.raises(ConfigError) as caught:
            place(claims, host(gpus=gpus))
        assert caught.value.message == ids
    else:
        spots, _ = place(claims, host(gpus=gpus))
        assert [spot.gpus for spot in spots.values()] == [[ids[i % len(ids)]] for i in range(num_servers)]


# --- several ranks --------------------------------------------------------------------------------------------------


def test_each_rank_gets_a_gpu_and_the_cores_near_it() -> None:
    gpus = [replace(gpu, cores=NODES[gpu.index // 2]) for gpu in host(num_gpus=4).gpus]
    claims = [Claim(server="a-0", section="a", num_ranks=3), Claim(server="b-0", section="b")]
    spots, notices = place(claims, host(num_cores=8, nodes=NODES, gpus=gpus))
    assert [spot.gpus for spot in spots.values()] == [["0", "1", "2"], ["3"]]
    assert spots["a-0"].rank_cores == [[0, 4], [1, 5], [2, 6]]
    assert spots["a-0"].cores == [0, 1, 2, 4, 5, 6]
    assert notices == []


def test_ranks_of_one_server_never_share_a_gpu() -> None:
    machine = host(num_gpus=2)
    claims = [Claim(server=f"{s}-0", section=s, num_ranks=2, gpus=[0, 1]) for s in "ab"]
    spots, _ = place(claims, machine)
    assert [spot.gpus for spot in spots.values()] == [["0", "1"], ["0", "1"]]
    with pytest.raises(StartupError, match=r"a-0 wants 3 GPUs, one a rank, and 2 are left: .* Lower tensor_parallel_"):
        place([Claim(server="a-0", section="a", num_ranks=3, gpus=[0, 1])], machine)
    with pytest.raises(StartupError, match=r"b-0 wants 2 GPUs, one a rank, and 1 is left: .*; a-0 has 0"):
        place([Claim(server="a-0", section="a"), Claim(server="b-0", section="b", num_ranks=2)], machine)


@given(num_cores=st.integers(1, 12), num_ranks=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_ranks_divide_the_cores_like_servers(num_cores: int, num_ranks: list[int]) -> None:
    claims = [Claim(server=str(i), section="a", num_ranks=n) for i, n in enumerate(num_ranks)]
    spots, notices = place(claims, host(num_cores))
    shares = [cores for claim in claims for cores in spots[claim.server].rank_cores]
    assert [len(spots[claim.server].rank_cores) for claim in claims] == num_ranks
    assert all(shares)
    users = Counter(core for cores in shares for core in cores)
    assert bool(notices) == (max(users.values()) > 1) == (sum(num_ranks) > num_cores)
    assert all(spot.num_threads == min(map(len, spot.rank_cores)) for spot in spots.values() if not notices)
    assert all(spot.num_threads == 1 for spot in spots.values() if notices)


def test_ranks_that_share_cores_are_named() -> None:
    _, notices = place([Claim(server="a-0", section="a", num_ranks=2)], host(num_cores=1))
    assert notices == ["a-0 rank 0, a-0 rank 1 share CPU core 0: they slow each other down"]


def test_who_gets_another_number_of_ranks_moves() -> None:
    held = {"a-0": Spot(gpus=[], rank_cores=[[0, 1], [2, 3]]), "a-1": Spot(gpus=[], rank_cores=[[4, 5]])}
    claims = [Claim(server="a-0", section="a", num_ranks=3), Claim(server="a-1", section="a")]
    spots, _ = place(claims, host(num_cores=8), held)
    assert spots["a-1"].rank_cores == [[4, 5]]
    assert len(spots["a-0"].rank_cores) == 3
    on_gpus = {"a-0": Spot(gpus=["1", "0"], rank_cores=[[0], [1]])}
    stays, _ = place([Claim(server="a-0", section="a", num_ranks=2)], host(num_gpus=3), on_gpus)
    assert stays["a-0"].gpus == ["1", "0"]
    moves, _ = place([Claim(server="a-0", section="a", num_ranks=3)], host(num_gpus=3), on_gpus)
    assert moves["a-0"].gpus == ["0", "1", "2"]
