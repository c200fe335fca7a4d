"""Energy spectra: Parseval, every quadrant, and the distance of two spectra."""

from __future__ import annotations

import math

import pytest
import torch

from sciflow.errors import InputError
from sciflow.metrics.spectrum import energy_spectrum, spectrum_error
from sciflow.random import Stream

EXACT = 1e-12  # round-off of float64 transforms of a few hundred numbers of size one


@pytest.mark.parametrize("grid", [(16,), (15,), (8, 12), (6, 6, 4)])
def test_energies_add_up_to_the_mean_square(grid: tuple[int, ...]) -> None:
    fields = Stream(1).normal(3, grid, dtype=torch.float64)
    total = energy_spectrum(fields, len(grid)).sum(-1)
    assert torch.allclose(total, fields.square().flatten(1).mean(1), rtol=EXACT, atol=0)


def test_waves_of_every_quadrant_count() -> None:
    """cos 2π(3x − 3y) has |κ| = 3√2, in the quadrants that a corner of the transform leaves out: shell 4."""
    x = torch.arange(16, dtype=torch.float64) / 16
    for sign in (1, -1):
        wave = (2 * math.pi * (3 * x[:, None] + sign * 3 * x)).cos()
        expected = torch.zeros(12, dtype=torch.float64)
        expected[4] = 0.5
        assert torch.allclose(energy_spectrum(wave, 2), expected, rtol=0, atol=EXACT)


def test_a_constant_factor_is_its_logarithm() -> None:
    truth = Stream(1).normal(5, (3, 16), dtype=torch.float64)
    samples = (truth * 1.2)[:, None].expand(-1, 4, -1, -1)
    score = spectrum_error(truth, samples)["spectrum_error"]
    assert score.value == pytest.approx(2 * math.log(1.2), abs=1e-12)
    assert score.stderr == pytest.approx(0, abs=1e-12)  # it holds for each observation alone


def test_the_error_of_draws_of_the_same_law_is_noise() -> None:
    """White noise: 9 shells, whose energies scatter by √(2/modes) of n fields and of n m members."""
    n, m = 200, 8
    score = spectrum_error(Stream(1).normal(n, (16,)), Stream(2).normal(n, (m, 16)))["spectrum_error"]
    modes = torch.tensor([1.0, *[2.0] * 7, 1.0])
    expected = float((2 / modes * (1 / n + 1 / (n * m))).mean().sqrt())
    # the square is a sum of 9 squares, of which ends count double: relative standard error of the root about 1/√(2 · 7)
    assert abs(score.value / expected - 1) < 4 / math.sqrt(14)
    assert 0 < score.stderr < score.value


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(InputError, match="spectra over 2 axes"):
        spectrum_error(torch.zeros(3, 8), torch.zeros(3, 2, 8), n_axes=2)
    with pytest.raises(InputError, match="zero everywhere"):
        spectrum_error(torch.zeros(3, 8), torch.zeros(3, 2, 8))
