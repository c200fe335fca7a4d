"""DDIM and DDPM: one value of the denoiser per step, and as much noise as one likes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sciflow.solvers.rule import MultistepRule, Span, Terms


@dataclass(frozen=True)
class DDIM(MultistepRule):
    """DDIM(η): the conditional Gaussian of the next state with x₁ replaced by its mean.

        x_b = α_b D + σ_b √(1 − η²ζ) (x − α_a D)/σ_a + σ_b η √ζ z,   ζ = 1 − (α_a σ_b / α_b σ_a)² = 1 − e^{−2h}

    η = 0 is the exponential Euler step of the probability flow, η = 1 is DDPM. Some libraries call η² "eta".

    Order: 1; weakly 1 for η > 0.
    Cost: 1 drift call per step.
    Bias: O(h); none in the mean at η = 1 on a Gaussian.
    Args:
        eta: noise η: 0 none, 1 that of the time reversal [dimensionless].
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Song et al. (2021), Denoising diffusion implicit models, eqs. 12 and 16.
    """

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    convergence = 1

    def _terms(self, span: Span) -> Terms:
        (alpha, sigma), zeta = span.end, -math.expm1(-2 * span.h)
        decay = math.sqrt(1 - self.eta**2 * zeta)
        return Terms((alpha * (1 - math.exp(-span.h) * decay),), decay, sigma * self.eta * math.sqrt(zeta))


@dataclass(frozen=True)
class DDPM(MultistepRule):
    """Ancestral sampling of DDPM, on any grid: DDIM(η = 1).

        x_b = (α_a σ_b² / α_b σ_a²) x + α_b ζ D + σ_b √ζ z,   ζ = 1 − (α_a σ_b / α_b σ_a)²

    The variance is that of the noising process given x₁ (the smaller of the two in the paper).

    Order: weakly 1.
    Cost: 1 drift call per step.
    Bias: O(h); none in the mean on a Gaussian.
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Ho et al. (2020), Denoising diffusion probabilistic models, eqs. 6 and 7.
    """

    eta = 1.0
    convergence = 1

    def _terms(self, span: Span) -> Terms:
        return DDIM(self.eta)._terms(span)
