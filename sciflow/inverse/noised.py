"""A linear Gaussian likelihood along the noise levels: what an observation says of a noisy state by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.diffusion.schedule import Schedule
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.random import Stream


@dataclass(frozen=True)
class NoisedLikelihood:
    """The likelihood of z = x/α when z is the data plus noise of standard deviation u = σ/α, as a potential.

        r_t(x) = log N(y; A z, σ_y² I + u² A Aᵀ),   p(y | x_t) for a flat prior;   u → 0: log p(y | x₁)

    Exactness: the likelihood itself as u → 0; any path to it is a right one.
    Cost: one operator call, one adjoint and one solve with A Aᵀ; no network.
    Args:
        likelihood: linear, Gaussian, bound to its shape.
        schedule: noise levels.
    Source: conjugacy; e.g. Bishop (2006), eqs. 2.113–2.117.
    """

    likelihood: GaussianLikelihood
    schedule: Schedule

    def _levels(self, t: float) -> tuple[float, float]:
        alpha = float(self.schedule.alpha(t))
        return alpha, (float(self.schedule.sigma(t)) / alpha) ** 2

    def _log_prob(self, residual: Tensor, spread: float) -> Tensor:
        """log N(residual; 0, σ_y² I + spread A Aᵀ), (n,), float64."""
        operator, noise = self.likelihood.operator, self.likelihood.sigma**2
        variances = (spread * operator.gram_spectrum.double() + noise).to(residual.device)
        solved = operator.gram_solve(residual, noise, spread)
        return -0.5 * ((residual * solved).double().sum(1) + (2 * math.pi * variances).log().sum())

    def __call__(self, x: Tensor, t: float) -> Tensor:
        alpha, spread = self._levels(t)
        return self._log_prob(self.likelihood.residual(x / alpha), spread)

    def gradient(self, x: Tensor, t: float) -> Tensor:
        """Aᵀ (σ_y² I + u² A Aᵀ)⁻¹ (y − A z)/α."""
        alpha, spread = self._levels(t)
        operator = self.likelihood.operator
        solved = operator.gram_solve(self.likelihood.residual(x / alpha), self.likelihood.sigma**2, spread)
        return operator.adjoint(solved) / alpha

    def laplacian(self, x: Tensor, t: float) -> Tensor:
        """−tr (σ_y² I + u² A Aᵀ)⁻¹ A Aᵀ/α², the same for all x."""
        alpha, spread = self._levels(t)
        spectrum = self.likelihood.operator.gram_spectrum.double()
        value = -float((spectrum / (self.likelihood.sigma**2 + spread * spectrum)).sum()) / alpha**2
        return torch.full((len(x),), value, dtype=torch.float64, device=x.device)

    def conditioned(
        self, draws: Tensor, mean: Tensor, variance: float, t: float, stream: Stream
    ) -> tuple[Tensor, Tensor]:
        """Draws z of N(mean, variance I) made draws of N(mean, variance I) e^r/C, and log C.

            z + v Aᵀ (σ_y² I + (u² + v) A Aᵀ)⁻¹ (y − A z − ε),   ε ~ N(0, σ_y² I + u² A Aᵀ)

        Source: Hoffman and Ribak (1991), Constrained realizations of Gaussian fields.
        """
        _, spread = self._levels(t)
        operator, noise = self.likelihood.operator, self.likelihood.sigma
        ahead = stream.child("data").normal(len(draws), draws.shape[1:], dtype=draws.dtype, device=draws.device)
        residual = self.likelihood.residual(draws + math.sqrt(spread) * ahead)
        shaken = stream.child("measurement").normal(
            len(draws), residual.shape[1:], dtype=draws.dtype, device=draws.device
        )
        solved = operator.gram_solve(residual - noise * shaken, noise**2, spread + variance)
        log_constant = self._log_prob(self.likelihood.residual(mean), spread + variance)
        return draws + variance * operator.adjoint(solved), log_constant.expand(len(draws))
