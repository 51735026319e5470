"""Where to write beside points, so that words cover neither points nor each other. Pure; in pixels, y upwards."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_GAP = 5.0
_POINT = 4.0
"""Half the width of a point."""
_PLACES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Directions, the best first."""


def place(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], taken: Sequence[Box] = ()
) -> list[tuple[float, float]]:
    """
    :param sizes: of the words at each point.
    :param taken: where else nothing is to stand.
    :returns: the middle of each word as seen from its point: where it covers least.
    """
    taken = [*taken, *((x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points)]
    found = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        tried = [_middle(direction, width, height) for direction in _PLACES]
        boxes = [(x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2) for dx, dy in tried]
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        found.append(tried[best])
    return found


def _middle(direction: tuple[int, int], width: float, height: float) -> tuple[float, float]:
    return direction[0] * (_GAP + width / 2), direction[1] * (_GAP + height / 2)


def _overlap(one: Box, other: Box) -> float:
    """An area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
