"""The gas chromatograph against its closed form, at second order, and what it conserves."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sciflow.domains.pde.chromatograph import GasChromatograph
from sciflow.errors import InputError

COLUMN = GasChromatograph(transit=0.0633, pulse=4.0)


def times(length: float, step: float, end: float = 60.0) -> torch.Tensor:
    return torch.arange(int(end / step), dtype=torch.float64) * step + COLUMN.transit * length


@pytest.mark.parametrize("length", [5.0, 30.0])
def test_the_signal_converges_to_the_closed_form_at_second_order(length: float) -> None:
    errors = []
    for step in (0.2, 0.1, 0.05):
        found = COLUMN.signal(length, times(length, step), round(length / step))
        errors.append(float((found - COLUMN.exact(length, times(length, step))).abs().max()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - 2) < 0.03 for slope in slopes), slopes  # the least that the project asks is 1.97


def test_all_gas_comes_out() -> None:
    """The integral of the signal is the pulse; what still is in the column at 40 is below 1e-10 of it."""
    t = times(5.0, 0.1)
    assert abs(float(COLUMN.signal(5.0, t, 100).sum()) * 0.1 - 4.0) < 1e-9


def test_the_closed_form_does_not_overflow_and_comes_when_it_should() -> None:
    """Far down the column the signal is a bell of width √(2x) about x + pulse/2."""
    t = torch.linspace(0, 2000, 4001, dtype=torch.float64)
    found = COLUMN.exact(1000.0, t)
    centre = (found * t).sum() / found.sum()
    assert found.isfinite().all() and found.min() > -1e-14
    assert abs(float(centre) - (1000 * (1 + COLUMN.transit) + 2.0)) < 1e-6
    assert abs(float(found.sum()) * 0.5 - 4.0) < 1e-9


@pytest.mark.parametrize(
    ("t", "n"), [(times(5.0, 0.3), 50), (times(5.0, 0.1) + 0.05, 50), (times(5.0, 0.1), 0), (times(5.0, 0.1)[:1], 5)]
)
def test_other_times_are_refused(t: torch.Tensor, n: int) -> None:
    with pytest.raises(InputError, match="equal steps that divide the pulse of 4"):
        COLUMN.signal(5.0, t, n)
