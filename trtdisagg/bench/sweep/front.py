"""The Pareto front: what nothing else beats in both figures. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """
    :param points: two figures each, of which more is better.
    :returns: positions of those for which no other is at least as good in both and better in one, the first figure
        rising; of equal ones the first alone.
    """
    best: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1])):
        if not best or points[i][1] > points[best[-1]][1]:
            best.append(i)
    return best[::-1]
