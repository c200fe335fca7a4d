"""Streams: the k-th row has the same bits however many rows, from wherever and in whatever order they are drawn."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.random import Stream


@pytest.mark.parametrize("draw", ["normal", "uniform"])
@pytest.mark.parametrize(("first", "n"), [(0, 1), (0, 7), (3, 9), (8, 8), (5, 30)])
def test_rows_do_not_depend_on_the_launch(draw: str, first: int, n: int) -> None:
    stream = Stream(3, ("noise",), tile=8)
    whole = getattr(stream, draw)(40, (2, 3), step=5, dtype=torch.float64)
    part = getattr(stream, draw)(n, (2, 3), step=5, first=first, dtype=torch.float64)
    assert torch.equal(part, whole[first : first + n])


def test_seed_purpose_tile_and_step_each_make_another_stream() -> None:
    base = Stream(0, ("a",), tile=8)
    others = [Stream(1, ("a",), 8), base.child("b"), Stream(0, ("b",), 8), Stream(0, ("a", 0), 8)]
    keys = {base.key(), base.key(tile=1), base.key(step=1), *(other.key() for other in others)}
    assert len(keys) == 7


def test_moments_and_independence_of_steps() -> None:
    n = 100_000
    stream = Stream(11, ("law",), tile=1000)
    a, b = (stream.normal(n, step=step, dtype=torch.float64) for step in (0, 1))
    se = 1 / math.sqrt(n)  # of a mean of unit-variance numbers; a variance has √2 times as much
    assert abs(float(a.mean())) < 4 * se
    assert abs(float(a.var()) - 1) < 4 * math.sqrt(2) * se
    assert abs(float((a * b).mean())) < 4 * se


def test_a_tile_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive number of rows"):
        Stream(0, tile=0)
