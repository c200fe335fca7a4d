"""Embedded Runge–Kutta pairs with a step size of its own for each row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.per_row import Adaptive, Controller, Rows, Trial, column, row_norms
from sciflow.solvers.solve import StepNoise
from sciflow.solvers.weights import require_ode

Positive = Annotated[float, Field(gt=0)]


class Tableau(NamedTuple):
    """An explicit embedded pair whose last stage is the slope at the end of the step."""

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]  # the last row is the solution of the higher order
    errors: tuple[float, ...]  # its weights less those of the lower order


TABLEAUX = {
    "dormand_prince": Tableau(
        5,
        (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        ),
        (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    ),
    "bogacki_shampine": Tableau(
        3, (1 / 2, 3 / 4, 1.0), ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)), (-5 / 72, 1 / 12, 1 / 9, -1 / 8)
    ),
}


@dataclass(frozen=True)
class EmbeddedRungeKutta:
    """A tableau applied to one drift, row by row."""

    drift: Callable[[Tensor, Tensor], Tensor]
    tableau: Tableau
    relative: float
    absolute: float
    keeps_slope = True

    @property
    def calls(self) -> int:
        return len(self.tableau.nodes)

    def slope(self, s: Tensor, x: Tensor) -> Tensor:
        found = self.drift(s, x)
        if found.shape != x.shape:
            raise ValueError(
                f"the drift answered {tuple(found.shape)} to a state {tuple(x.shape)} with one time per row. Write it "
                "for times of shape (batch,), or use Dopri5()."
            )
        return found.to(x.dtype)

    def _norms(self, x: Tensor, at: Tensor) -> Tensor:
        return row_norms(x, self.absolute + self.relative * at.abs())

    def first_step(self, s: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, int]:
        """Such that an Euler step changes x little, and its error is small. Source: Hairer et al., section II.4."""
        with torch.no_grad():
            size, speed = self._norms(x, x), self._norms(slope, x)
            guess = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
            other = self.slope(s + guess, x + column(guess, x).to(x.dtype) * slope)
            bend = self._norms(other - slope, x) / guess
            steep = torch.maximum(speed, bend)
            order = self.tableau.order
            fine = torch.exp((0.01 / steep).log() / order)
            better = torch.where(steep <= 1e-15, (1e-3 * guess).clamp_min(1e-6), fine)
            return torch.minimum(100 * guess, better), 1

    def trial(self, s: Tensor, h: Tensor, x: Tensor, slope: Tensor) -> Trial:
        slopes, rows, new = [slope], column(h, x).to(x.dtype), x
        for node, weights in zip(self.tableau.nodes, self.tableau.stages, strict=True):
            new = torch.addcmul(x, rows, _weighted(weights, slopes))
            slopes.append(self.slope(s.add(h, alpha=node), new))
        with torch.no_grad():
            error = rows * _weighted(self.tableau.errors, slopes)
            return Trial(new, self._norms(error, torch.maximum(x.abs(), new.abs())), slopes[-1])


def _weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Σ w_k x_k, a new tensor."""
    terms = [(w, v) for w, v in zip(weights, values, strict=True) if w]
    total = terms[0][1] * terms[0][0]
    for weight, value in terms[1:]:
        total.add_(value, alpha=weight)
    return total


@dataclass(frozen=True)
class AdaptiveRungeKutta(Adaptive):
    """An embedded Runge–Kutta pair with a step size of its own for each row.

        err = √(mean ((x₁ − x̂₁)/(atol + rtol max(|x₀|, |x₁|)))²) ≤ 1, row by row

    The drift must take one time per row, as those of `probability_flow` do. Steps carry on over the times of the grid
    (only the landing on them is extra). Rows that have arrived leave the batch; the bits of a row depend on its batch
    mates only as far as the drift's do, which networks' do in the last place (`Tiled` prevents it). Each step
    asks the host how many have arrived: adaptivity and capture in one graph exclude each other. Gradients are those of
    the steps taken, with their sizes held fixed.

    Order: 5 or 3; the error follows the tolerances, not the grid.
    Cost: 6 drift calls of a row per step of that row, accepted or not, for dormand_prince; 3 for bogacki_shampine.
    Bias: set by `relative_tolerance` and `absolute_tolerance`.
    Args:
        pair: "dormand_prince" 5(4), or "bogacki_shampine" 3(2) for loose tolerances.
        relative_tolerance: error allowed per unit of |x| [dimensionless].
        absolute_tolerance: error allowed besides [units of x].
        max_steps: most steps between two times of the grid.
    Raises:
        ValueError: dynamics with noise, a tolerance below the precision of the state, too many or too small steps.
        NonFiniteError: a drift that is not finite.
    Source: Dormand and Prince (1980); Bogacki and Shampine (1989); control as Hairer, Nørsett and Wanner (1993), II.4.
    """

    pair: Literal["dormand_prince", "bogacki_shampine"] = "dormand_prince"
    relative_tolerance: Positive = 1e-6
    absolute_tolerance: Positive = 1e-8
    max_steps: Annotated[int, Field(gt=0)] = 10_000

    @property
    def convergence(self) -> int:
        return TABLEAUX[self.pair].order

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[tuple[float, float]]:
        require_ode(self, dynamics)
        return list(itertools.pairwise(times))

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Rows, noise: StepNoise) -> Rows:
        tableau = TABLEAUX[self.pair]
        pair = EmbeddedRungeKutta(dynamics.drift, tableau, self.relative_tolerance, self.absolute_tolerance)  # type: ignore[arg-type]
        control = Controller(tableau.order, 0.2 / tableau.order, 0.9, self.max_steps)
        return control.advance(pair, *coefficients, state)
