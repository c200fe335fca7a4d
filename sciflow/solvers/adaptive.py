"""Adaptive Runge–Kutta methods of torchdiffeq; the only file that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.explicit import _OneStep
from sciflow.solvers.solve import StepNoise


@dataclass(frozen=True)
class Dopri5(_OneStep):
    """Dormand–Prince 5(4) with step-size control between two times of the grid, by torchdiffeq.

    The state is carried in float64. Give it a grid of one step unless values in between are wanted: the step size
    is chosen anew on each interval.

    Order: 5; the error follows the tolerances, not the grid.
    Cost: 6 drift calls per accepted internal step, one step size for the whole batch.
    Bias: set by `relative_tolerance` and `absolute_tolerance`; a row's result depends on the rest of the batch.
    Args:
        relative_tolerance: error allowed per unit of |x| [dimensionless].
        absolute_tolerance: error allowed besides [units of x].
    Source: Dormand and Prince (1980); Chen et al. (2018), torchdiffeq.
    """

    relative_tolerance: Annotated[float, Field(gt=0)] = 1e-6
    absolute_tolerance: Annotated[float, Field(gt=0)] = 1e-8
    convergence = 5

    def step(self, dynamics: Dynamics, coefficients: Sequence[float], state: Tensor, noise: StepNoise) -> Tensor:
        from torchdiffeq import odeint

        def drift(t: Tensor, x: Tensor) -> Tensor:
            return dynamics.drift(float(t), x.to(state.dtype)).double()

        grid = torch.tensor(coefficients, dtype=torch.float64)
        options = {"step_t": grid[1:]}  # land on b: a step beyond it may leave the domain of the drift
        tolerances = {"rtol": self.relative_tolerance, "atol": self.absolute_tolerance}
        return odeint(drift, state.double(), grid, method="dopri5", options=options, **tolerances)[-1].to(state.dtype)
