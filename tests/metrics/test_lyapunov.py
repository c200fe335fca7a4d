"""Lyapunov spectra: exact for a linear map, published for Lorenz' equations, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError, NonFiniteError
from sciflow.metrics import lyapunov_spectrum
from sciflow.random import Stream


def lorenz(x: Tensor, h: float = 0.01) -> Tensor:
    """One Runge–Kutta step of Lorenz' equations of 1963."""

    def drift(x: Tensor) -> Tensor:
        a, b, c = x.unbind(1)
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)

    first = drift(x)
    second = drift(x + h / 2 * first)
    third = drift(x + h / 2 * second)
    return x + h / 6 * (first + 2 * second + 2 * third + drift(x + h * third))


def test_a_linear_map_has_the_logarithms_of_its_eigenvalues() -> None:
    matrix = torch.tensor([[2.0, 1.0, 0.3], [0.0, 1.0, -0.5], [0.0, 0.0, 0.25]], dtype=torch.float64)
    start = torch.full((2, 3), 1e-30, dtype=torch.float64)  # 120 doublings stay finite
    found = lyapunov_spectrum(lambda x: x @ matrix.T, start, 0.5, 60, warm_up=60)
    expected = torch.tensor([2.0, 1.0, 0.25], dtype=torch.float64).log() / 0.5
    assert (found.values - expected).abs().max() < 1e-12 and found.stderr.max() < 1e-12
    assert abs(found.dimension - (2 + math.log(2) / math.log(4))) < 1e-12


def test_lorenz_63_has_the_published_spectrum() -> None:
    """0.9056, 0 and −14.5723 (Sprott 2003); their sum is the trace −41/3, whatever the trajectory."""
    x = Stream(0).normal(256, (3,), dtype=torch.float64) + torch.tensor([0.0, 0.0, 25.0])
    for _ in range(1000):
        x = lorenz(x)
    found = lyapunov_spectrum(lorenz, x, 0.01, 300, warm_up=150)
    assert abs(float(found.values.sum()) + 41 / 3) < 1e-3  # Runge–Kutta steps of 0.01
    assert abs(float(found.values[0]) - 0.9056) < 4 * float(found.stderr[0])
    assert abs(float(found.values[1])) < 1 / 3  # less than a factor e within the 3 units of time
    assert 2 < found.dimension < 2.2 and (found.stderr < 0.05).all()


def test_some_exponents_are_the_first_of_all() -> None:
    x = Stream(0).normal(4, (3,), dtype=torch.float64) + torch.tensor([0.0, 0.0, 25.0])
    whole, some = (lyapunov_spectrum(lorenz, x, 0.01, 20, k) for k in (None, 2))
    assert torch.allclose(whole.values[:2], some.values, atol=1e-10)


def test_what_does_not_fit_is_refused() -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(InputError, match=r"1 ≤ n_exponents ≤ d, .* got \(2, 3\), 4, 10"):
        lyapunov_spectrum(lorenz, x, 0.01, 10, 4)
    with pytest.raises(InputError, match="does not depend on the state"):
        lyapunov_spectrum(lambda x: torch.ones_like(x), x, 0.01, 10)
    with pytest.raises(NonFiniteError, match="blows up after t = "):
        lyapunov_spectrum(lambda x: x.square() * 10, x, 0.5, 100)
