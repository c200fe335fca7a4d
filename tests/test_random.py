"""Streams: the k-th row has the same bits however many rows, from wherever and in whatever order they are drawn."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.random import BLOCKS, Stream


@pytest.mark.parametrize("draw", ["normal", "uniform"])
@pytest.mark.parametrize(("first", "n"), [(0, 1), (0, 7), (3, 9), (8, 8), (5, 30)])
def test_rows_do_not_depend_on_the_launch(draw: str, first: int, n: int) -> None:
    stream = Stream(3, ("noise",), tile=8)
    whole = getattr(stream, draw)(40, (2, 3), step=5, dtype=torch.float64)
    part = getattr(stream, draw)(n, (2, 3), step=5, first=first, dtype=torch.float64)
    assert torch.equal(part, whole[first : first + n])
    assert torch.equal(getattr(stream.rows_from(first).child(), draw)(n, (2, 3), step=5, dtype=torch.float64), part)


def test_seed_purpose_tile_and_step_each_make_another_stream() -> None:
    base = Stream(0, ("a",), tile=8)
    others = [Stream(1, ("a",), 8), base.child("b"), Stream(0, ("b",), 8), Stream(0, ("a", 0), 8)]
    keys = {base.key(), base.key(tile=1), base.key(step=1), *(other.key() for other in others)}
    assert len(keys) == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (16,), (40, 20)])  # blocks of many tiles, of one; of 16 numbers or not
def test_rows_do_not_depend_on_the_launch_across_blocks(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    stream = Stream(3, ("noise",), tile=24)
    n = 2 * BLOCKS["cpu"] // max(math.prod(shape), 1) + 30
    whole = stream.normal(n, shape, dtype=dtype)
    for first, last in ((0, 1), (0, 25), (n // 2 - 7, n // 2 + 20), (n - 3, n)):
        assert torch.equal(stream.normal(last - first, shape, first=first, dtype=dtype), whole[first:last])


def test_tiles_of_a_step_have_seeds_that_differ_in_the_bits_that_count() -> None:
    """torch's CPU generator takes 32 bits of its seed: with 200 000 random seeds five pairs would coincide."""
    seeds = torch.tensor(Stream(5).keys(0, 200_000, step=3))
    assert len((seeds & 0xFFFFFFFF).unique()) == 200_000 and int(seeds.min()) >= 0 and int(seeds.max()) < 2**63


def test_seeds_of_two_steps_are_unrelated() -> None:
    """Half of the low bits differ, and no shift carries one step's seeds into another's."""
    a, b = (torch.tensor(Stream(5).keys(0, 50_000, step=step)) & 0xFFFFFFFF for step in (0, 1))
    flips = torch.stack([((a ^ b) >> bit) & 1 for bit in range(32)]).double().mean(1)
    assert ((flips - 0.5).abs() < 4 * 0.5 / math.sqrt(50_000)).all()  # 4 standard errors of a share
    assert torch.isin(a, b).sum() <= 8  # 0.6 expected by chance


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


def test_a_few_keys_are_those_of_many() -> None:
    """Up to 32 are made one by one, more as an array."""
    stream = Stream(5, ("a", 3))
    many = stream.keys(0, 200, step=7)
    assert [stream.keys(first, first + 9, step=7) for first in (0, 100, 191)] == [
        many[0:9],
        many[100:109],
        many[191:200],
    ]
