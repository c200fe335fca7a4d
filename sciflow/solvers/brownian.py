"""Stochastic methods of torchsde; the only file that imports it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.explicit import _OneStep
from sciflow.solvers.solve import StepNoise


@dataclass(frozen=True)
class _ItoProblem:
    """The face torchsde expects: f and g on states of shape (batch, numbers)."""

    dynamics: Dynamics
    shape: torch.Size
    noise_type: str = "diagonal"
    sde_type: str = "ito"

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        return self.dynamics.drift(float(t), x.reshape(self.shape)).flatten(1)

    def g(self, t: Tensor, x: Tensor) -> Tensor:
        state = x.reshape(self.shape)
        amplitude = torch.as_tensor(self.dynamics.diffusion(float(t), state), dtype=x.dtype, device=x.device)
        return amplitude.expand(self.shape).flatten(1)


@dataclass(frozen=True)
class TorchSDE(_OneStep):
    """Itô methods of torchsde between two times of the grid, on an explicit Brownian interval.

    Order: 1 weak for "euler"; strong 1 for "milstein", strong 1.5 for "srk" (additive noise).
    Cost: `n_substeps` × 1 ("euler", "milstein") or 2 ("srk") drift calls per step.
    Bias: O(h); a row's noise depends on the batch size, because torchsde draws the whole batch at once.
    Args:
        method: torchsde's name of the method.
        n_substeps: internal steps per step of the grid.
    Source: Li et al. (2020), Scalable gradients for stochastic differential equations; Rößler (2010) for "srk".
    """

    method: Literal["euler", "milstein", "srk"] = "milstein"
    n_substeps: Annotated[int, Field(gt=0)] = 1
    convergence = 1

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[tuple[float, float]]:
        if dynamics.noise == "none":
            raise ValueError("TorchSDE solves SDEs, got dynamics without noise. Use Dopri5(), or set noise_level.")
        return list(itertools.pairwise(times))

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Tensor, noise: StepNoise) -> Tensor:
        import torchsde

        a, b = coefficients
        flat, dt = state.flatten(1), (b - a) / self.n_substeps
        options = {"dtype": state.dtype, "device": state.device}
        path = torchsde.BrownianInterval(
            t0=a, t1=b, size=flat.shape, dt=dt, entropy=noise.key, levy_area_approximation="space-time", **options
        )
        grid = torch.tensor([a, b], dtype=torch.float64)
        problem = _ItoProblem(dynamics, state.shape)
        return torchsde.sdeint(problem, flat, grid, bm=path, method=self.method, dt=dt)[-1].reshape(state.shape)
