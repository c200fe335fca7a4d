"""DEIS: exponential Adams–Bashforth in the noise frame, with a choice of the variable of its polynomial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sciflow.solvers.dynamics import Dynamics, model_split
from sciflow.solvers.exponential import EABM, Start, State, Step
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import NodeVariable


class _AdamsBashforth:
    """Exponential Adams–Bashforth in the noise frame; a method has an `order` and a `variable`."""

    order: int
    variable: NodeVariable

    @property
    def convergence(self) -> int:
        return self.order

    @property
    def _method(self) -> EABM:
        return EABM(self.order, "noise", nodes=self.variable)

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[Step | Start]:
        model_split(self, dynamics, "noise")  # refuses what is no model
        return self._method.plan(dynamics, times, past)

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> State:
        return self._method.init(dynamics, times, x, past)

    def step(self, dynamics: Dynamics, coefficients: Step | Start, state: State, noise: StepNoise) -> State:
        return self._method.step(dynamics, coefficients, state, noise)

    def value(self, state: State) -> Tensor:
        return state.x


@dataclass(frozen=True)
class DEIS(_AdamsBashforth):
    """DEIS of order p: the polynomial through the last p values of the noise, in a variable of your choice.

        x_b = (α_b/α_a) x + α_b Σ_{j<p} ε_{−j} ∫_{u_a}^{u_b} ℓ_j du,   u = σ/α

    The Lagrange basis ℓ_j is in t ("time": tAB-DEIS), u ("ratio": ρAB-DEIS) or λ ("log_snr": what others simply
    call DEIS; `eabm` in the noise frame).

    Order: p, given exact `past` states.
    Cost: 1 drift call per step.
    Bias: O(h^p).
    Args:
        order: p, the number of nodes.
        variable: variable of the polynomial.
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Zhang and Chen (2023), Fast sampling of diffusion models with exponential integrator, eqs. 15 and 17.
    """

    order: Annotated[int, Field(ge=1, le=6)] = 3
    variable: Literal["time", "ratio", "log_snr"] = "time"


@dataclass(frozen=True)
class IPNDMv(_AdamsBashforth):
    """iPNDM-v: Adams–Bashforth in u = σ/α with the coefficients of the actual steps; the same numbers as ρAB-DEIS.

        x_b/α_b = x_a/α_a + Σ_{j<p} ε_{−j} ∫_{u_a}^{u_b} ℓ_j(u) du

    Its published code has other weights: a bracket is missing at order 3 and a sign is wrong at order 4, where even
    equal steps do not give Adams–Bashforth (57/24 in place of 55/24).

    Order: p, given exact `past` states.
    Cost: 1 drift call per step.
    Bias: O(h^p).
    Args:
        order: p, the number of nodes.
    Raises:
        ValueError: dynamics with noise, or without noise levels; a grid that starts at α = 0.
    Source: Zhou et al. (2024), diff-sampler, after Zhang and Chen (2023).
    """

    order: Annotated[int, Field(ge=1, le=4)] = 4
    variable = "ratio"
