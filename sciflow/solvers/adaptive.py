"""Runge–Kutta and Adams methods of torchdiffeq; the only file that imports it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.explicit import _OneStep
from sciflow.solvers.solve import StepNoise

Tolerance = Annotated[float, Field(gt=0)]
Method = Literal[
    "dopri8",
    "dopri5",
    "bosh3",
    "fehlberg2",
    "adaptive_heun",
    "rk4",
    "midpoint",
    "explicit_adams",
    "implicit_adams",
]
ORDERS = {"dopri8": 8, "dopri5": 5, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}  # adaptive methods
FIXED_ORDERS = {"rk4": 4, "midpoint": 2, "explicit_adams": 4, "implicit_adams": 5}
MAX_ORDER = 5  # of the Adams methods, torchdiffeq's name for one node more than the explicit one has
RELATIVE, ABSOLUTE = 1e-6, 1e-8  # tolerances


def integrated(dynamics: Dynamics, grid: Tensor, state: Tensor, method: str, **options: Any) -> Tensor:
    """The state at the end of the grid, by torchdiffeq in float64.

    Raises:
        ValueError: an implicit method whose iteration did not converge, of which torchdiffeq only warns.
    """
    from torchdiffeq import odeint

    def drift(t: Tensor, x: Tensor) -> Tensor:
        return dynamics.drift(float(t), x.to(state.dtype)).double()

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Functional iteration did not converge")
        try:
            end = odeint(drift, state.double(), grid, method=method, **options)[-1]
        except UserWarning as told:
            raise ValueError(
                f"the iteration of {method} did not converge on the step from t = {grid[0]:g} to {grid[-1]:g}: its "
                f"steps of {grid[1] - grid[0]:g} are too wide for this drift. Raise n_substeps, or take an explicit "
                "method."
            ) from told
    return end.to(state.dtype)


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

    relative_tolerance: Tolerance = RELATIVE
    absolute_tolerance: Tolerance = ABSOLUTE
    convergence = 5

    def step(self, dynamics: Dynamics, coefficients: Sequence[float], state: Tensor, noise: StepNoise) -> Tensor:
        grid = torch.tensor(coefficients, dtype=torch.float64)
        options = {"step_t": grid[1:]}  # land on b: a step beyond it may leave the domain of the drift
        tolerances = {"rtol": self.relative_tolerance, "atol": self.absolute_tolerance}
        return integrated(dynamics, grid, state, "dopri5", options=options, **tolerances)


@dataclass(frozen=True)
class TorchDiffEq(_OneStep):
    """A method of torchdiffeq between two times of the grid.

        adaptive, to a tolerance    order   fixed, `n_substeps` equal internal steps   order
        dopri8                      8       rk4 (the 3/8 rule)                         4
        dopri5, our `dopri5`        5       midpoint                                   2
        bosh3                       3       explicit_adams, 4 nodes                    4
        fehlberg2, adaptive_heun    2       implicit_adams, 4 nodes and the new one    5

    The Adams methods start anew, by rk4, at each time of the grid; they are themselves from the fifth internal step on.
    The state is carried in float64.

    Order: of the fixed methods in the internal steps; the error of the adaptive ones follows the tolerances, and falls
        with the number of their internal steps like its power of minus the order.
    Cost: drift calls per internal step: 13 (dopri8), 6 (dopri5), 3 (bosh3), 2 (fehlberg2), 1 (adaptive_heun), 4 (rk4),
        2 (midpoint), 1 (explicit_adams), 1 to 5 (implicit_adams).
    Bias: set by tolerances or steps; with an adaptive method, or implicit_adams, a row's result depends on the rest of
        the batch, which takes one step size and one number of iterations.
    Args:
        method: torchdiffeq's name of the method.
        relative_tolerance: error allowed per unit of |x|, of implicit_adams that of its iteration; null is 1e-6
            [dimensionless].
        absolute_tolerance: error allowed besides; null is 1e-8 [units of x].
        n_substeps: internal steps of a fixed method per step of the grid.
    Raises:
        ValueError: tolerances for a fixed method, internal steps for an adaptive one, too few of them for an Adams
            method; an iteration of implicit_adams that does not converge.
    Source: Chen et al. (2018), torchdiffeq; Prince and Dormand (1981); Bogacki and Shampine (1989); Fehlberg (1969);
        Hairer, Nørsett and Wanner (1993), sections II.1 and III.1.
    """

    method: Method = "dopri8"
    relative_tolerance: Tolerance | None = None
    absolute_tolerance: Tolerance | None = None
    n_substeps: Annotated[int, Field(gt=0)] = 1

    def __post_init__(self) -> None:
        explicit = self.method in FIXED_ORDERS and self.method != "implicit_adams"
        given = {"relative_tolerance": self.relative_tolerance, "absolute_tolerance": self.absolute_tolerance}
        named = [name for name, value in given.items() if value is not None]
        if explicit and named:
            raise ValueError(
                f"TorchDiffEq with method = {self.method!r} has fixed steps, got {named[0]} = {given[named[0]]:g}. "
                f"Set n_substeps instead, or take an adaptive method: {', '.join(ORDERS)}."
            )
        if self.method in ORDERS and self.n_substeps != 1:
            raise ValueError(
                f"TorchDiffEq with method = {self.method!r} chooses its own steps, got n_substeps = "
                f"{self.n_substeps}. Set relative_tolerance instead, or take a fixed method: {', '.join(FIXED_ORDERS)}."
            )
        if self.method.endswith("adams") and self.n_substeps < MAX_ORDER:
            raise ValueError(
                f"TorchDiffEq with method = {self.method!r} would be rk4 with n_substeps = {self.n_substeps}: its "
                f"first {MAX_ORDER - 2} internal steps are. Set n_substeps to {MAX_ORDER} or more."
            )

    @property
    def convergence(self) -> int:
        return (ORDERS | FIXED_ORDERS)[self.method]

    def step(self, dynamics: Dynamics, coefficients: Sequence[float], state: Tensor, noise: StepNoise) -> Tensor:
        a, b = coefficients
        grid = torch.linspace(a, b, self.n_substeps + 1, dtype=torch.float64)
        tolerances = {"rtol": self.relative_tolerance or RELATIVE, "atol": self.absolute_tolerance or ABSOLUTE}
        options: dict[str, Any] = {"step_t": grid[1:]} if self.method in ORDERS else {}
        if self.method.endswith("adams"):
            options["max_order"] = MAX_ORDER
        return integrated(dynamics, grid, state, self.method, options=options, **tolerances)
