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


def test_rates_are_units_of_length_and_time() -> None:
    """A column with rates is the one without, its lengths times adsorption and its times times desorption."""
    column = GasChromatograph(0.05, 3.0, adsorption=2.0, desorption=0.5)
    unit = GasChromatograph(0.05 * 0.5 / 2.0, 3.0 * 0.5)
    t = torch.arange(400, dtype=torch.float64) * 0.1 + 0.05 * 4.0
    for found, same in (
        (column.signal(4.0, t, 40), unit.signal(8.0, t * 0.5, 40)),
        (column.exact(4.0, t), unit.exact(8.0, t * 0.5)),
    ):
        assert torch.allclose(found, same, rtol=0, atol=1e-12)  # rounding of 40 filters of numbers up to 1


@pytest.mark.parametrize("rates", [(0.6, 1.4), (1.8, 0.7)])
def test_gas_between_the_grid_keeps_the_order(rates: tuple[float, float]) -> None:
    """At all places, at times that are no multiples of the step and pulses that it does not divide."""
    column = GasChromatograph(0.0633, 3.71, *rates)
    t = torch.linspace(0.3, 40.0, 57, dtype=torch.float64)
    exact = column.exact_gas(10.0, t, 8)
    errors = [float((column.gas(10.0, t, n, 10 / n, 8) - exact).abs().max()) for n in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - 2) < 0.1 for slope in slopes), slopes  # 0.1: cubic interpolation, a term of order 4
    assert torch.allclose(column.gas(10.0, t, 64, 10 / 64, 8)[:, 3], column.gas(5.0, t, 32, 10 / 64, 1)[:, 0])


def test_gas_is_out_or_held_at_all_times() -> None:
    """∫ (c(0) − c(L)) dτ = ∫ q dx by the trapezoidal rule in both, which is what the scheme solves: to rounding."""
    found = GasChromatograph(adsorption=1.7, desorption=0.6).response(9.0, 50, 0.15, 900)
    missing = torch.as_tensor(1 - found.gas[-1])
    kept = torch.cumulative_trapezoid(missing, dx=0.15)
    assert torch.allclose(kept, torch.as_tensor(found.held[1:]), rtol=0, atol=1e-12)  # sums of 900 numbers up to 1
    assert float(found.held[-1]) == pytest.approx(9.0 * 1.7 / 0.6, rel=1e-9)  # full: q = c adsorption/desorption


def test_retention_time_and_width_are_those_of_theory() -> None:
    """Mean pulse/2 + (transit + a/d) x and variance pulse²/12 + 2 a x/d² of the signal, from its sums."""
    column, length = GasChromatograph(0.1, 3.0, adsorption=1.5, desorption=0.8), 6.0
    mean = 1.5 + (0.1 + 1.5 / 0.8) * length
    variance = 9 / 12 + 2 * 1.5 * length / 0.8**2
    off = []
    for step in (0.1, 0.05):
        t = torch.arange(int(150 / step), dtype=torch.float64) * step + 0.1 * length
        signal = column.signal(length, t, round(length / step))
        jump = float(signal[0])  # half of it counts where it comes and where it goes: the trapezoidal rule
        signal[[0, round(3.0 / step)]] += torch.tensor([-jump, jump], dtype=torch.float64) / 2
        share = signal * step / 3.0
        found = float((share * t).sum())
        off.append([found - mean, float((share * (t - found).square()).sum()) - variance])
    # second order in the step; where the leading term vanishes, rounding and what is still in the column at 150
    assert all(abs(fine) < max(0.3 * abs(coarse), 1e-9) for coarse, fine in zip(*off, strict=True)), off
    assert abs(off[1][0]) < 1e-2 * mean and abs(off[1][1]) < 1e-2 * variance


@pytest.mark.parametrize(("n_cells", "step"), [(60, 0.1), (0, 0.1), (64, 0.0)])
def test_other_grids_are_refused(n_cells: int, step: float) -> None:
    with pytest.raises(InputError, match="a column needs cells that fill 8 pieces and a positive step"):
        COLUMN.gas(5.0, times(5.0, 0.1), n_cells, step, 8)
