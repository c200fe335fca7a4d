"""The Pareto front against its definition."""

from __future__ import annotations

import random

import pytest

from sciflow.metrics.front import front


def beaten(point: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in others)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nobody_beats(seed: int) -> None:
    draw = random.Random(seed)
    points = [(float(draw.randrange(6)), float(draw.randrange(6))) for _ in range(draw.randrange(1, 12))]
    found = front(*map(list, zip(*points, strict=True)))
    assert [points[k] for k in found] == sorted({point for point in points if not beaten(point, points)})
    assert all(points.index(points[k]) == k for k in found), "of equal points the first"


def test_no_points_have_no_front() -> None:
    assert front([], []) == []
