"""SDE-DPM-Solver++: the data frame of the reverse SDE, solved exactly but for a polynomial in place of D.

With q = 1 + η², and z the standard normal numbers of a step,

    x_b = (σ_b/σ_a) e^{−η²h} x_a + α_b ∫₀¹ H e^{−H(1−s)} D(s) ds + σ_b √(1 − e^{−2η²h}) z,   H = q h
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from sciflow.solvers.rule import MultistepRule, Span, Terms, Weights

Eta = Annotated[float, Field(ge=0)]


def midpoint(span: Span, eta: float) -> Weights:
    """Weights of the mean D_a + ½ D₁ with D₁ = (D_a − D_{−1})/r₀; D_a alone when nothing else is known."""
    whole, (_, *older) = span.moment(0, eta), span.places
    slope = -0.5 * whole / older[0] if older else 0.0
    return (whole + slope, -slope) if older else (whole,)


def noisy(span: Span, eta: float, weights: Weights) -> Terms:
    """The weights with the decay and the spread that noise η has."""
    forgot = eta**2 * span.h if eta else 0.0
    return Terms(weights, math.exp(-forgot), span.end[1] * math.sqrt(-math.expm1(-2 * forgot)))


@dataclass(frozen=True)
class SDEDPMSolverPP1(MultistepRule):
    """SDE-DPM-Solver++(1): D frozen over the step.

        x_b = (σ_b/σ_a) e^{−η²h} x + α_b (1 − e^{−H}) D_a + σ_b √(1 − e^{−2η²h}) z,   H = (1 + η²) h

    η = 1 is DDPM, η = 0 is DDIM(0); in between it is not DDIM(η), whose noise grows otherwise.

    Order: 1; weakly 1 for η > 0.
    Cost: 1 drift call per step.
    Bias: O(h); none in the mean at η = 1 on a Gaussian.
    Args:
        eta: noise η in units of the time reversal's; some libraries call η² "eta" [dimensionless].
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Lu et al. (2022), DPM-Solver++, SDE-DPM-Solver++1.
    """

    eta: Eta = 1.0
    convergence = 1

    def _terms(self, span: Span) -> Terms:
        return noisy(span, self.eta, span.integrals(self.eta))


@dataclass(frozen=True)
class SDEDPMSolverPP2M(MultistepRule):
    """SDE-DPM-Solver++(2M): D extrapolated to the middle of the step.

        x_b = (σ_b/σ_a) e^{−η²h} x + α_b (1 − e^{−H}) (D_a + (D_a − D_{−1})/2r₀) + σ_b √(1 − e^{−2η²h}) z

    with H = (1 + η²) h and r₀ = h_{−1}/h. η = 0 is DPM-Solver++(2M), midpoint.

    Order: 2; weakly 2 for η > 0, strongly 1.
    Cost: 1 drift call per step.
    Bias: O(h²); none in the mean at η = 1 on a Gaussian.
    Args:
        eta: noise η in units of the time reversal's; some libraries call η² "eta" [dimensionless].
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Lu et al. (2022), DPM-Solver++, SDE-DPM-Solver++(2M).
    """

    eta: Eta = 1.0
    order = 2
    convergence = 2

    def _terms(self, span: Span) -> Terms:
        return noisy(span, self.eta, midpoint(span, self.eta))


@dataclass(frozen=True)
class SDEDPMSolverPP3M(MultistepRule):
    """SDE-DPM-Solver++(3M): the parabola through the last three values of D, integrated exactly.

        x_b = (σ_b/σ_a) e^{−η²h} x + α_b [(1 − e^{−H}) D_a + φ₂ D₁ − 2 φ₃ D₂] + σ_b √(1 − e^{−2η²h}) z
        φ₂ = (e^{−H} − 1)/H + 1,   φ₃ = φ₂/H − ½,   H = (1 + η²) h

    with D₁ = h D′ and D₂ = h² D″/2 by divided differences. Published code has φ₃ in place of 2 φ₃, or the other sign
    of ½. η = 0 is DPM-Solver++(3M).

    Order: 3 at η = 0; weakly 2 for η > 0, strongly 1.
    Cost: 1 drift call per step.
    Bias: O(h³) at η = 0, else O(h²); none in the mean at η = 1 on a Gaussian.
    Args:
        eta: noise η in units of the time reversal's; some libraries call η² "eta" [dimensionless].
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: after Lu et al. (2022), DPM-Solver++; the third-order term is derived here.
    """

    eta: Eta = 1.0
    order = 3

    @property
    def convergence(self) -> int:
        return 2 if self.eta else 3

    def _terms(self, span: Span) -> Terms:
        return noisy(span, self.eta, span.integrals(self.eta))
