"""The Pareto front against its definition."""

from __future__ import annotations

import random

import pytest

from sciflow.metrics.front import best, front


def beaten(point: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in others)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nobody_beats(seed: int) -> None:
    draw = random.Random(seed)
    points = [(float(draw.randrange(6)), float(draw.randrange(6))) for _ in range(draw.randrange(1, 12))]
    found = front(*map(list, zip(*points, strict=True)))
    assert [points[k] for k in found] == sorted({point for point in points if not beaten(point, points)})
    assert all(points.index(points[k]) == k for k in found), "of equal points the first"


def test_the_best_and_those_that_cannot_be_told_from_it() -> None:
    """Differences of 0.5, 0.5 and 3 against errors of the difference of 0.5, 0.1 and 1.1, doubled."""
    nan = float("nan")
    assert best([1.0, 1.5, 1.5, 4.0, nan], [0.1, 0.49, nan, 1.1, 0.1]) == (0, [1])
    assert best([2.0, 1.0], [nan, nan]) == (1, []) and best([1.0, 1.0], [nan, nan]) == (0, [1])
    with pytest.raises(ValueError, match="no finite value"):
        best([nan], [0.1])


def test_shared_seeds_decide_by_their_differences() -> None:
    """d = 0.9, 1, 1.1: 1 ± 0.058, and t of two degrees of freedom is 4.30; d = 0, 2: 1 ± 1, t of one is 12.7."""
    wide = [9.0, 9.0, 9.0, 9.0]  # of each alone
    seeds = [{0: 1.0, 1: 5.0, 2: 9.0}, {0: 1.9, 1: 6.0, 2: 10.1}, {0: 1.0, 1: 7.0}, {7: 6.0}]
    assert best([5.0, 6.0, 6.5, 6.0], wide, seeds) == (0, [2, 3]), "the last shares none: its own error counts"
    close = [{0: 1.0, 1: 5.0, 2: 9.0}, {0: 1.7, 1: 6.0, 2: 10.3}]  # 1 ± 0.173, 4.30 of them are 0.75
    closer = [{0: 1.0, 1: 5.0, 2: 9.0}, {0: 1.5, 1: 6.0, 2: 10.5}]  # 1 ± 0.289, 4.30 of them are 1.24
    assert best([5.0, 6.0], [0.0, 0.0], close) == (0, []) and best([5.0, 6.0], [0.0, 0.0], closer) == (0, [1])


def test_no_points_have_no_front() -> None:
    assert front([], []) == []
