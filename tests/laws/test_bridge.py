"""A Brownian path is the same path on every halved grid, and strong errors along it fall at their order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.solvers import Equation, EulerMaruyama, solve
from sciflow.solvers.bridge import BrownianPath

N, COARSE = 1000, 8
TIMES = [k / COARSE for k in range(COARSE + 1)]
OPTIONS = {"dtype": torch.float64}


def increments(level: int, n: int = N) -> Tensor:
    """ΔW of every step of the unit interval, (steps, n)."""
    path, steps = BrownianPath(7, ("law",), level=level), COARSE * 2**level
    return torch.stack([path.normal(n, step=k, **OPTIONS) for k in range(steps)]) / math.sqrt(steps)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_increments_of_the_halves_sum_to_that_of_the_whole(level: int) -> None:
    fine = increments(level + 1)
    assert torch.allclose(fine[::2] + fine[1::2], increments(level), rtol=0, atol=1e-12)  # rounding of a few sums


def test_increments_are_independent_with_variance_h() -> None:
    fine, steps = increments(3), COARSE * 8
    covariance = fine @ fine.T / N * steps
    # a sample variance has the standard error √(2/n), a covariance 1/√n; 4.5 of them, for 64 · 65/2 entries at once
    assert ((covariance.diagonal() - 1).abs() < 4.5 * math.sqrt(2 / N)).all()
    assert (covariance - covariance.diagonal().diag()).abs().max() < 4.5 / math.sqrt(N)


def test_rows_do_not_depend_on_the_batch() -> None:
    path = BrownianPath(7, level=4, tile=8)
    assert torch.equal(path.normal(5, (3,), step=37, first=20), path.normal(40, (3,), step=37)[20:25])


def errors(equation: Equation, exact: Tensor, levels: range, x: Tensor) -> list[float]:
    found = []
    for level in levels:
        path = BrownianPath(7, ("law",), level=level)
        with torch.no_grad():
            end = solve(equation, x, path.refined(TIMES), EulerMaruyama(), stream=path)
        found.append(float((end - exact).abs().mean()))
    return found


def test_strong_order_one_half_with_multiplicative_noise() -> None:
    """Geometric Brownian motion has a closed form along the path; the slope of the mean error is known to 0.02 here."""
    growth, spread, x = 0.1, 0.4, torch.ones(4 * N, dtype=torch.float64)
    end = increments(0, 4 * N).sum(0)
    exact = torch.exp((growth - 0.5 * spread**2) + spread * end)
    equation = Equation(lambda t, x: growth * x, lambda t, x: spread * x, "diagonal")
    found = errors(equation, exact, range(2, 6), x)
    assert math.log2(found[0] / found[-1]) / 3 == pytest.approx(0.5, abs=0.12)


def test_strong_order_one_with_additive_noise() -> None:
    """Against the same path on a grid 16 times finer than the finest: its own error shifts the slope by 0.03."""
    equation, x = Equation(lambda t, x: -x - x.sin(), lambda t, x: 0.7, "scalar"), torch.ones(N, dtype=torch.float64)
    fine = BrownianPath(7, ("law",), level=7)
    with torch.no_grad():
        exact = solve(equation, x, fine.refined(TIMES), EulerMaruyama(), stream=fine)
    found = errors(equation, exact, range(4), x)
    assert math.log2(found[0] / found[-1]) / 3 == pytest.approx(1.0, abs=0.12)


def test_a_negative_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be"):
        BrownianPath(0, level=-1)
