"""The problems of the parity benchmark, in float64 and without any library, so that all solve the same ones.

A state is in the VE frame, x = x₁ + σ z; a denoiser takes (x, σ).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

N_STEPS = 20
SIGMA_MAX, SIGMA_MIN, RHO = 80.0, 0.002, 7.0
SHORT = 0.5  # the last σ of the runs whose order is measured: before that the start-up is lost in rounding
ORDERS = (128, 256)  # their numbers of steps
BATCH, DIMENSION = 4, 2
MEANS = torch.tensor([[2.0, 0.0], [-1.5, 1.0], [0.0, -2.0]], dtype=torch.float64)
SPREADS = torch.tensor([0.5, 0.3, 0.7], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def karras() -> list[float]:
    """N_STEPS + 1 decreasing levels, equidistant in σ^{1/ρ} (Karras et al. 2022, eq. 5)."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(high + k / N_STEPS * (low - high)) ** RHO for k in range(N_STEPS + 1)]


def geometric(last: float, n_steps: int, first: float = SIGMA_MAX) -> list[float]:
    """Levels equidistant in log σ."""
    return [first * (last / first) ** (k / n_steps) for k in range(n_steps + 1)]


def start() -> Tensor:
    return SIGMA_MAX * torch.randn(BATCH, DIMENSION, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def noise(n_steps: int) -> Tensor:
    """The standard normal numbers of each step."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_steps, BATCH, DIMENSION, dtype=torch.float64, generator=generator)


def mixture(x: Tensor, sigma: float) -> Tensor:
    """E[x₁|x] for Σ_k w_k N(m_k, s_k² I)."""
    total = sigma**2 + SPREADS**2
    offsets = x[:, None] - MEANS
    logits = WEIGHTS.log() - DIMENSION / 2 * total.log() - 0.5 * offsets.square().sum(-1) / total
    data = MEANS + (SPREADS**2 / total)[:, None] * offsets
    return (logits.softmax(-1)[..., None] * data).sum(1)


def parabola(x: Tensor, sigma: float) -> Tensor:
    """λ², whatever x is: a method of order 3 integrates it exactly."""
    return torch.full_like(x, math.log(sigma) ** 2)
