"""UniPC: a multistep predictor in the data frame, and a corrector that costs no call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sciflow.solvers.rule import MultistepRule, Span, Terms, Weights


@dataclass(frozen=True)
class UniPC(MultistepRule):
    """UniPC of order p in the data frame, corrected at every step but the last.

        predictor: x_b = (σ_b/σ_a) x + α_b (1 − e^{−h}) D_a + α_b B Σ_m ρ_m (D_{−m} − D_a)/r_m,   r_m = (λ_{−m} − λ_a)/h
        corrector: the same with the node r = 1, D(x_b) at the predicted state

    ρ solves Σ_m ρ_m r_m^{k−1} = b_k, so that polynomials are integrated exactly and B cancels: p ≥ 3 is `eabm` with
    corrector in the data frame. B matters where published code sets ρ = ½ instead: the predictor with one older node
    and the corrector with none, which p ≥ 3 meets in its first two steps.

    Order: p + 1, given exact `past` states.
    Cost: 1 drift call per step.
    Bias: O(h^{p+1}).
    Args:
        order: p, the number of nodes of the predictor.
        variant: B = h ("bh1") or 1 − e^{−h} ("bh2").
    Raises:
        ValueError: dynamics with noise, or without noise levels.
    Source: Zhao et al. (2023), UniPC, algorithms 5 and 6 (data prediction).
    """

    order: Annotated[int, Field(ge=1, le=6)] = 3
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector = True

    @property
    def convergence(self) -> int:
        return self.order + 1

    def _half(self, span: Span) -> float:
        """α_b B/2."""
        return 0.5 * span.end[0] * (span.h if self.variant == "bh1" else -math.expm1(-span.h))

    def _terms(self, span: Span) -> Terms:
        if len(span.nodes) != 2:
            return Terms(span.integrals())
        slope = -self._half(span) / span.places[1]
        return Terms((span.moment(0) + slope, -slope))

    def _correction(self, span: Span, used: Weights) -> Weights:
        if not math.isfinite(span.h):
            return ()
        if len(span.nodes) == 1:
            return (self._half(span), -self._half(span))
        new, *old = span.integrals(places=(1.0, *span.places))
        return (new, *(weight - own for weight, own in zip(old, used, strict=True)))
