"""Markov kernels that rejuvenate particles: Langevin and Hamiltonian moves with, or without, a Metropolis test.

A kernel moves rows x (n, d) towards a law given by its log-density, in the coordinates z with x = scale · z, so that
one step size serves coordinates of any width. Rows never look at each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.solvers.metropolis import (
    LogDensity,
    Point,
    Scale,
    accepted,
    langevin_log_ratio,
    langevin_move,
    look,
    stretch,
)

Positive = Annotated[float, Field(gt=0)]


@runtime_checkable
class Kernel(Protocol):
    """A family of Markov kernels, one for each log-density, metric and step."""

    @property
    def step(self) -> float:
        """Step size in units of `scale`."""
        ...

    @property
    def target_acceptance(self) -> float | None:
        """The mean acceptance that a pilot run tunes the step to; None: there is no test, the step is kept."""
        ...

    def move(
        self, log_density: LogDensity, x: Tensor, stream: Stream, step: float, scale: Scale = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Rows after one move, and the acceptance probability of each (1 without a test)."""
        ...


def _checked(kernel: Kernel) -> None:
    if not (math.isfinite(kernel.step) and kernel.step > 0):
        raise InputError(f"{type(kernel).__name__} needs a finite step > 0, got {kernel.step}.")


def _normal(x: Tensor, stream: Stream, name: str) -> Tensor:
    return stream.child(name).normal(len(x), x.shape[1:], dtype=x.dtype, device=x.device)


def _uniform(x: Tensor, stream: Stream) -> Tensor:
    return stream.child("accept").uniform(len(x), dtype=torch.float64, device=x.device)


@dataclass(frozen=True)
class ULA:
    """Unadjusted Langevin move.

        x' = x + h²/2 S Sᵀ ∇log γ(x) + h S ξ,   ξ ~ N(0, I)

    Exactness: as h → 0 only; on N(0, S Sᵀ) it leaves the variance S Sᵀ/(1 − h²/4) invariant.
    Cost: 1 gradient.
    Bias: O(h²) in the law it leaves invariant, hence in the evidence too; nothing corrects it.
    Args:
        step: h, in units of the metric S [dimensionless].
    Raises:
        InputError: a step that is not positive.
    Source: Roberts and Tweedie (1996), Exponential convergence of Langevin distributions, section 1.4.1.
    """

    step: Positive = 0.3

    target_acceptance = None

    def __post_init__(self) -> None:
        _checked(self)

    def move(
        self, log_density: LogDensity, x: Tensor, stream: Stream, step: float, scale: Scale = 1.0
    ) -> tuple[Tensor, Tensor]:
        moved = langevin_move(look(log_density, x, scale), _normal(x, stream, "noise"), step, scale)
        return moved, torch.ones(len(x), dtype=torch.float64, device=x.device)


@dataclass(frozen=True)
class MALA:
    """Langevin move with a Metropolis test.

        x' as `ULA`,   accept with probability min(1, γ(x') q(x | x')/γ(x) q(x' | x))

    Exactness: leaves γ/∫γ invariant at any step, by detailed balance.
    Cost: 2 gradients.
    Bias: none; slow where the step is far from d^(−1/6) times the width of the target.
    Args:
        step: h, in units of the metric S [dimensionless].
    Raises:
        InputError: a step that is not positive.
    Source: Roberts and Tweedie (1996), section 1.4.2; Roberts and Rosenthal (1998) for the acceptance 0.574.
    """

    step: Positive = 0.9

    target_acceptance = 0.574

    def __post_init__(self) -> None:
        _checked(self)

    def move(
        self, log_density: LogDensity, x: Tensor, stream: Stream, step: float, scale: Scale = 1.0
    ) -> tuple[Tensor, Tensor]:
        start = look(log_density, x, scale)
        end = look(log_density, langevin_move(start, _normal(x, stream, "noise"), step, scale), scale)
        log_ratio = langevin_log_ratio(start, end, step, scale)
        point, probability = accepted(start, end, log_ratio, _uniform(x, stream))
        return point.x, probability


@dataclass(frozen=True)
class HMC:
    """Hamiltonian move: a fresh momentum, a leapfrog trajectory, a Metropolis test.

        p ~ N(0, I);  L times: p += h/2 Sᵀ∇log γ(x), x += h S p, p += h/2 Sᵀ∇log γ(x)
        accept with probability min(1, exp(H(x, p) − H(x', p'))),   H = −log γ(x) + ‖p‖²/2

    Exactness: leaves γ/∫γ invariant at any step: the trajectory is reversible and keeps volume.
    Cost: L + 1 gradients.
    Bias: none; trajectories of one length can be periodic, so L · h should not be near 2π widths of the target.
    Args:
        step: h, in units of the metric S [dimensionless].
        n_leapfrog: L.
    Raises:
        InputError: a step that is not positive, or no leapfrog step.
    Source: Duane, Kennedy, Pendleton and Roweth (1987), Hybrid Monte Carlo; Neal (2011), MCMC using Hamiltonian
        dynamics, section 5.3; Beskos et al. (2013) for the acceptance 0.651.
    """

    step: Positive = 0.3
    n_leapfrog: Annotated[int, Field(gt=0)] = 5

    target_acceptance = 0.651

    def __post_init__(self) -> None:
        _checked(self)
        if self.n_leapfrog < 1:
            raise InputError(f"HMC needs n_leapfrog ≥ 1, got {self.n_leapfrog}.")

    def trajectory(
        self, log_density: LogDensity, start: Point, momentum: Tensor, step: float, scale: Scale
    ) -> tuple[Point, Tensor]:
        """End of the leapfrog trajectory; from there with −p it comes back."""
        point, p = start, momentum
        for _ in range(self.n_leapfrog):
            p = p + 0.5 * step * point.slope
            point = look(log_density, point.x + stretch(scale, step * p), scale)
            p = p + 0.5 * step * point.slope
        return point, p

    def move(
        self, log_density: LogDensity, x: Tensor, stream: Stream, step: float, scale: Scale = 1.0
    ) -> tuple[Tensor, Tensor]:
        start, momentum = look(log_density, x, scale), _normal(x, stream, "momentum")
        end, p = self.trajectory(log_density, start, momentum, step, scale)
        kinetic = 0.5 * (momentum.double().square().sum(1) - p.double().square().sum(1))
        point, probability = accepted(start, end, end.value - start.value + kinetic, _uniform(x, stream))
        return point.x, probability


KERNELS: dict[str, type] = {"ula": ULA, "mala": MALA, "hmc": HMC}
