"""PNDM and its kin: Adams–Bashforth weights of equal steps, whatever the steps are, on the noise of a DDIM transfer.

    T(x, a → b, e) = (α_b/α_a) x + (σ_b − α_b σ_a/α_a) e,   e = Σ_j c_j ε_{−j}

Constant weights c_j are exact to first order in λ, so no number of nodes makes the order higher than 2, unless the grid
is equidistant in u = σ/α.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sciflow.solvers.dynamics import ModelSplit
from sciflow.solvers.exponential import Start
from sciflow.solvers.rule import Levels, MultistepRule, Span, Terms
from sciflow.solvers.single_step import SingleStep, Stage

ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
Tableau = tuple[tuple[float, dict[int, float]], ...]  # stages: fraction of the step in t, c_j of value j
HEUN: Tableau = ((1.0, {0: 1.0}), (1.0, {0: 1 / 2, 1: 1 / 2}))
RUNGE_KUTTA: Tableau = (
    (1 / 2, {0: 1.0}),
    (1 / 2, {1: 1.0}),
    (1.0, {2: 1.0}),
    (1.0, {0: 1 / 6, 1: 1 / 3, 2: 1 / 3, 3: 1 / 6}),
)


def transfer(start: Levels, end: Levels) -> float:
    """σ_b − α_b σ_a/α_a: what noise 1 adds."""
    return end[1] - end[0] * start[1] / start[0]


def pseudo_runge_kutta(split: ModelSplit, a: float, b: float, tableau: Tableau) -> Start:
    """A Runge–Kutta step in which every stage is a transfer from a."""
    times = [a, *(a + fraction * (b - a) for fraction, _ in tableau)]
    levels = [split.levels(t) for t in times]
    stages = []
    for t, end, (_, means) in zip(times[1:], levels[1:], tableau, strict=True):
        whole = transfer(levels[0], end)
        weights = tuple(mean * whole / levels[j][1] for j, mean in means.items())
        stages.append(Stage(t, split.propagator(a, t), weights, tuple(means)))
    return Start(SingleStep(a, b, split, tuple(stages)), False)


@dataclass(frozen=True)
class IPNDM(MultistepRule):
    """iPNDM: Adams–Bashforth weights of equal steps; the first steps have as many values as there are.

        x_b = T(x, a → b, Σ_{j<p} c_j ε_{−j}),   c = 1 | (3, −1)/2 | (23, −16, 5)/12 | (55, −59, 37, −9)/24

    Order: 1 for p = 1, else 2 whatever p is: the weights do not know the steps. p on a grid equidistant in u = σ/α.
    Cost: 1 drift call per step.
    Bias: O(h²).
    Args:
        order: p, the number of nodes.
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Zhang and Chen (2023), DEIS, appendix (improved PNDM), after Liu et al. (2022).
    """

    order: Annotated[int, Field(ge=1, le=4)] = 4
    frame = "noise"

    @property
    def convergence(self) -> int:
        return min(self.order, 2)

    def _terms(self, span: Span) -> Terms:
        whole, means = transfer(span.nodes[0], span.end), ADAMS_BASHFORTH[len(span.nodes)]
        return Terms(tuple(mean * whole / sigma for mean, (_, sigma) in zip(means, span.nodes, strict=True)))


@dataclass(frozen=True)
class PLMS(MultistepRule):
    """PLMS, pseudo linear multistep: PNDM as latent diffusion made it known, with one Heun step to start.

        e₁ = ½ (ε(x, a) + ε(T(x, a → b, ε), b)), then Adams–Bashforth weights of 2, 3 and 4 values

    Order: 2; the four weights do not know the steps. 4 on a grid equidistant in u = σ/α with exact `past` states.
    Cost: 1 drift call per step, and 1 more in the first.
    Bias: O(h²).
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Liu et al. (2022), Pseudo numerical methods for diffusion models on manifolds, eqs. 12 and 13.
    """

    order = 4
    frame = "noise"
    convergence = 2

    def _terms(self, span: Span) -> Terms:
        return IPNDM(self.order)._terms(span)

    def _start(self, split: ModelSplit, a: float, b: float, n_nodes: int) -> Start | None:
        return pseudo_runge_kutta(split, a, b, HEUN) if n_nodes < 2 else None


@dataclass(frozen=True)
class PNDM(MultistepRule):
    """PNDM: pseudo Runge–Kutta steps until there is history, then Adams–Bashforth weights of equal steps.

        F: three steps of pseudo Runge–Kutta 4, then c = (55, −59, 37, −9)/24
        S: one step of pseudo Heun, then c = (3, −1)/2

    The stages of a pseudo Runge–Kutta step are transfers from a to the middle in t, and to b.

    Order: 2; the weights do not know the steps.
    Cost: 1 drift call per step; 3 more in each of the first three steps (F), 1 more in the first (S).
    Bias: O(h²).
    Args:
        variant: "F" (fourth-order weights) or "S" (second-order weights).
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Liu et al. (2022), Pseudo numerical methods for diffusion models on manifolds, eqs. 11 to 13.
    """

    variant: Literal["F", "S"] = "F"
    frame = "noise"
    convergence = 2

    @property
    def order(self) -> int:  # type: ignore[override]
        return 4 if self.variant == "F" else 2

    def _terms(self, span: Span) -> Terms:
        return IPNDM(self.order)._terms(span)

    def _start(self, split: ModelSplit, a: float, b: float, n_nodes: int) -> Start | None:
        if n_nodes == self.order:
            return None
        return pseudo_runge_kutta(split, a, b, RUNGE_KUTTA if self.variant == "F" else HEUN)
