"""Random claims on random machines: shares are disjoint while there is enough, and nobody is left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.plans import host
from trtdisagg.supervisor.placement import Claim, place


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


@given(num_gpus=st.integers(1, 8), num_servers=st.integers(1, 12))
def test_gpus(num_gpus: int, num_servers: int) -> None:
    claims = [Claim(server=str(i), section="a") for i in range(num_servers)]
    spots, notices = place(claims, host(num_cores=4, num_gpus=num_gpus))
    assert all(len(spot.gpus) == 1 for spot in spots.values())
    used = {spot.gpus[0] for spot in spots.values()}
    assert len(used) == min(num_gpus, num_servers)
    assert bool(notices) == (num_servers > num_gpus)
