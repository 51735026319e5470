"""The Pareto front against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.bench.sweep.front import front

figures = st.integers(0, 6).map(float)


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


@given(st.lists(st.tuples(figures, figures), max_size=12))
def test_it_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    found = front(points)
    assert {points[i] for i in found} == {p for p in points if not any(beats(other, p) for other in points)}
    assert [points[i] for i in found] == sorted({points[i] for i in found})


def test_of_equal_points_the_first_counts() -> None:
    assert front([(1, 1), (2, 0), (1, 1)]) == [0, 1]
