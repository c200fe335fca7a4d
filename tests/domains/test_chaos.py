"""Domain pde, chaos: the Lyapunov spectrum of Kuramoto–Sivashinsky on the ring on which others have computed it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sciflow.domains.pde.boxes import Ring
from sciflow.domains.pde.equations import KuramotoSivashinsky, semilinear
from sciflow.metrics import lyapunov_spectrum
from sciflow.random import Stream
from sciflow.solvers.etdrk4 import ETDRK4
from sciflow.solvers.solve import solve

RING = Ring(22.0, 32)
N_WAVES = int(RING.kept.sum()) - 1  # the mean is conserved, and left out
FIRST = torch.tensor([0.048, 0, 0, -0.003, -0.189, -0.256, -0.290, -0.310], dtype=torch.float64)
"""Cvitanović, Davidchack and Siminos (2010), On the state space geometry of the Kuramoto–Sivashinsky flow in a periodic
domain. Edson, Bunder, Mattner and Roberts (2019), Lyapunov exponents of the Kuramoto–Sivashinsky PDE: 0.043, −0.004,
−0.185, −0.253, −0.296 and −0.309 beside the zeros."""
APART = 0.006  # of the published values


def flow(interval: float, n_steps: int) -> Callable[[Tensor], Tensor]:
    """Over one interval, on the real and imaginary parts of the waves, (rows, 2 N_WAVES)."""
    dynamics = semilinear(KuramotoSivashinsky(), RING)
    times = torch.linspace(0, interval, n_steps + 1, dtype=torch.float64)

    def step(x: Tensor) -> Tensor:
        waves = torch.view_as_complex(x.reshape(len(x), N_WAVES, 2))
        modes = torch.nn.functional.pad(waves, (1, RING.size // 2 - N_WAVES))
        end = solve(dynamics, modes, times, ETDRK4("linear"))
        return torch.view_as_real(end[:, 1 : N_WAVES + 1]).reshape(x.shape)

    return step


def settled(n: int, duration: int) -> Tensor:
    """States on the attractor."""
    x, step = 10 * Stream(0).normal(n, (2 * N_WAVES,), dtype=torch.float64), flow(1.0, 8)
    with torch.no_grad():
        for _ in range(duration):
            x = step(x)
    return x


def test_all_exponents_together_are_the_divergence_of_the_flow() -> None:
    """Σ λ = Σ 2 (k² − k⁴) over the waves that the grid keeps, whatever the trajectory: advection keeps volumes."""
    k2 = RING.wavenumbers[1 : N_WAVES + 1] ** 2
    trace, gaps = float(2 * (k2 - k2**2).sum()), []
    for n_steps in (4, 8):
        found = lyapunov_spectrum(flow(0.1, n_steps), settled(2, 60), 0.1, 10)
        gaps.append(abs(float(found.values.sum()) - trace))
    assert gaps[1] < 1e-6 * abs(trace) and gaps[1] < gaps[0] / 8  # what is left is the error of steps, of order 4


@pytest.mark.slow
def test_kuramoto_sivashinsky_has_the_published_spectrum() -> None:
    """First eight exponents on a ring of length 22, from 32 runs of 160 time units."""
    found = lyapunov_spectrum(flow(1.0, 4), settled(32, 100), 1.0, 160, n_exponents=9, warm_up=40)
    # 4 standard errors over runs, what the publications differ by, and a factor e that is gained or lost in 160 units
    assert bool(((found.values[:8] - FIRST).abs() < 4 * found.stderr[:8] + APART + 1 / 160).all())
    assert float(found.stderr[:8].max()) < 0.01
    assert abs(found.dimension - (4 + float(FIRST[:4].sum()) / 0.189)) < 0.15  # 4.24, with the errors of Σ λ over 0.19
    assert float(found.values[8]) < -1.5  # then the waves that are slaves
