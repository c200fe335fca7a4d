"""The probability flow as a plain ODE dz/dq = F in the chart of a frame, for methods that know no frames.

Runge–Kutta and adaptive methods applied there are the exponential methods of the frame; and quantities besides the
state (a log-density, an adjoint) can ride along in the same clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.solvers.adjoint import solve_adjoint
from sciflow.solvers.dynamics import Equation
from sciflow.solvers.solve import Solver
from sciflow.solvers.times import checked

PlainFrame = Literal["noise", "velocity"]


class Parts(NamedTuple):
    """F(q, z) = shift · z + weight · D(scale · z, t), with float64 numbers."""

    t: float
    scale: float
    shift: float
    weight: float


@dataclass(frozen=True)
class FrameFlow:
    """The probability flow of a denoiser between the times of a grid, in a chart z = x/s and a clock q.

        noise:     s = α,            q = σ/α = κ,        F = E[x₀|x]
        velocity:  s = r = √(α²+σ²), q = arctan(σ/α) = θ,  F = (α/r) E[x₀|x] − (σ/r) E[x₁|x]

    The clock falls from base to data, so generation is solved in −q.

    Args:
        denoiser: the model.
        frame: "noise" (AdjointDPM's κ; needs α > 0) or "velocity" (the whole path from white noise).
        times: the grid; what it maps to needs no inverse of the schedule.
    Raises:
        ValueError: a grid with σ = 0, or with α = 0 in the noise frame.
    Source: Zhang and Chen (2023), DEIS, proposition 3, for the noise frame.
    """

    denoiser: Denoiser
    times: tuple[float, ...]
    frame: PlainFrame = "velocity"

    def __post_init__(self) -> None:
        if self.frame not in ("noise", "velocity"):
            raise ValueError(f"frame must be 'noise' or 'velocity', got {self.frame!r}.")
        levels = {t: self.levels(t) for t in self.times}
        bad = [t for t, (alpha, sigma) in levels.items() if sigma <= 0 or (self.frame == "noise" and alpha <= 0)]
        if bad:
            raise ValueError(
                f"the {self.frame} frame has no slope at t = {bad[0]:g}, where (α, σ) = {levels[bad[0]]}. "
                "End the grid before σ = 0" + " and start it after α = 0." * (self.frame == "noise")
            )
        object.__setattr__(self, "_times", {self._ratio(*levels[t]): t for t in self.times})

    def levels(self, t: float) -> tuple[float, float]:
        """α and σ at t."""
        return float(self.denoiser.schedule.alpha(t)), float(self.denoiser.schedule.sigma(t))

    def _ratio(self, alpha: float, sigma: float) -> float:
        return sigma / alpha if self.frame == "noise" else math.atan2(sigma, alpha)

    def clock(self, t: float) -> float:
        """q at t."""
        return self._ratio(*self.levels(t))

    def scale(self, t: float) -> float:
        """s at t: x = s z."""
        alpha, sigma = self.levels(t)
        return alpha if self.frame == "noise" else math.hypot(alpha, sigma)

    def parts(self, q: float) -> Parts:
        """What F is made of at one value of the clock."""
        t = self._times.get(q)  # type: ignore[attr-defined]
        if t is None:
            ratio = q if self.frame == "noise" else math.tan(q)
            t = float(self.denoiser.schedule.time(-math.log(ratio)))
        (alpha, sigma), scale = self.levels(t), self.scale(t)
        return Parts(t, scale, alpha / sigma, -scale / sigma)

    def slope(self, q: float, z: Tensor) -> Tensor:
        """dz/dq = F(q, z)."""
        t, scale, shift, weight = self.parts(q)
        return shift * z + weight * self.denoiser(scale * z, t)

    def equation(self) -> Equation:
        """dz/d(−q) = −F: generation, on the grid −q(t)."""
        return Equation(drift=lambda clock, z: -self.slope(-clock, z))


def framed_adjoint(
    denoiser: Denoiser,
    x: Tensor,
    times: Tensor | Sequence[float],
    solver: Solver,
    *,
    frame: PlainFrame = "noise",
    parameters: Sequence[Tensor] = (),
    backward: Solver | None = None,
) -> Tensor:
    """Follow the probability flow in a frame, differentiable in memory that does not grow with the number of steps.

    With y = x/α and κ = σ/α (the noise frame) this is AdjointDPM:

        dy/dκ = ε(αy, t),   da/dκ = −α (∂ε/∂x)ᵀ a,   ∂L/∂θ = −∫ (∂ε/∂θ)ᵀ a dκ,   a = ∂L/∂y

    Order: that of `solver` in the clock, for the state and for the gap between this gradient and the discrete one.
    Cost: solver calls forwards; as many calls and vector–Jacobian products backwards.
    Bias: O(h^p): the gradient is that of the ODE's solution, not of the solver's; `solve_checkpointed` has none.
    Args:
        denoiser: the model.
        x: state at times[0], shape (batch, ...).
        times: increasing grid.
        solver: Runge–Kutta, adaptive or EABM(frame="time").
        frame: "noise" (κ) or "velocity" (θ, from α = 0 too).
        parameters: tensors inside the denoiser to differentiate with respect to.
        backward: solver of the adjoint; None is `solver`.
    Returns:
        The state at times[-1].
    Raises:
        ValueError: times where the frame has no slope; a denoiser that depends on a tensor missing in `parameters`.
    Source: Pan et al. (2024), AdjointDPM.
    """
    grid = checked(times)
    flow = FrameFlow(denoiser, tuple(grid), frame)
    clocks = [-flow.clock(t) for t in grid]
    start = x / flow.scale(grid[0])
    z = solve_adjoint(flow.equation(), start, clocks, solver, parameters=parameters, backward=backward)
    return flow.scale(grid[-1]) * z
