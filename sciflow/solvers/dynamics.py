"""The one equation, dx = drift(t, x) dt + diffusion(t, x) dW, and the part of it that has a closed form.

A stiff PDE, a diffusion or flow sampler and Langevin dynamics differ in their drift only. What an exponential solver
may use is a `Split`: after a change of variable the linear part is gone, and only a smooth function F is left to be
interpolated by a polynomial.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Coefficient = float | Tensor
Noise = Literal["none", "scalar", "diagonal"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)


@runtime_checkable
class Split(Protocol):
    """The solvable linear part of a drift, between two times a < b:

        x_b = P(a, b) x_a + ∫_a^b P(τ, b) κ(τ) F(τ, x_τ) dτ

    Replacing F by the polynomial through its values at the `nodes` gives x_b = P x_a + Σ_j W_j G(τ_j), where
    G is F up to a scalar that the weights W_j absorb.
    """

    def propagator(self, a: float, b: float) -> Coefficient:
        """P(a, b), in float64."""
        ...

    def weights(self, a: float, b: float, nodes: Sequence[float]) -> Sequence[Coefficient]:
        """W_j for a polynomial through the nodes (any times where F is known), in float64."""
        ...

    def remainder(self, t: float, x: Tensor) -> Tensor:
        """G(t, x), a new tensor."""
        ...


class Dynamics(Protocol):
    """dx = drift(t, x) dt + diffusion(t, x) dW.

    Attributes:
        noise: "none" (an ODE), "scalar" (one number for all coordinates) or "diagonal" (one per coordinate).
    """

    @property
    def noise(self) -> Noise: ...

    @property
    def drift(self) -> Callable[[float, Tensor], Tensor]: ...

    @property
    def diffusion(self) -> Callable[[float, Tensor], Coefficient]: ...

    def split(self, frame: str) -> Split: ...


def lagrange(nodes: Sequence[float] | np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values of the Lagrange basis ℓ_j at points, shape (len(nodes), *at.shape); products, so no cancellation."""
    rows = np.ones((len(nodes), *at.shape))
    for j, own in enumerate(nodes):
        for m, other in enumerate(nodes):
            if m != j:
                rows[j] *= (at - other) / (own - other)
    return rows


def quadrature(a: float | np.ndarray, b: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the 16-point Gauss–Legendre rule on [a, b]."""
    half = 0.5 * (b - a)
    return 0.5 * (a + b) + half * NODES, half * WEIGHTS


@dataclass(frozen=True)
class TrivialSplit:
    """No linear part: P = 1, F = drift. Exponential multistep methods become the classical ones.

    W_j = ∫_a^b ℓ_j(τ) dτ
    """

    drift: Callable[[float, Tensor], Tensor]

    def propagator(self, a: float, b: float) -> float:
        return 1.0

    def weights(self, a: float, b: float, nodes: Sequence[float]) -> list[float]:
        points, weights = quadrature(a, b)
        return [float(w) for w in lagrange(nodes, points) @ weights]

    def remainder(self, t: float, x: Tensor) -> Tensor:
        return self.drift(t, x)


@dataclass(frozen=True)
class LinearSplit:
    """A constant linear part, diagonal in the basis of the state: dx = (L x + N(t, x)) dt.

        P = e^{hL},   W_j = ∫_a^b e^{(b−τ)L} ℓ_j(τ) dτ,   h = b − a

    The integrals are done by Gauss–Legendre quadrature on (b − τ) split at the boundary layer of the stiff modes, so
    no φ-function loses its digits for small |hL| or overflows for large.

    Args:
        rate: L, a number or a tensor that broadcasts with the state [1/time]. Real part ≤ 0 for stiff problems.
        nonlinear: N(t, x).
    """

    rate: Coefficient
    nonlinear: Callable[[float, Tensor], Tensor]

    def _rate(self) -> Tensor:
        rate = self.rate if isinstance(self.rate, Tensor) else torch.tensor(self.rate, dtype=torch.float64)
        return rate.to(torch.complex128 if rate.is_complex() else torch.float64)

    def propagator(self, a: float, b: float) -> Coefficient:
        return _plain(torch.exp((b - a) * self._rate()))

    def weights(self, a: float, b: float, nodes: Sequence[float]) -> list[Coefficient]:
        rate, h = self._rate(), b - a
        edges = h * np.array([0.0, *2.0 ** np.arange(-20, 1)])  # dyadic panels towards τ = b
        totals = [torch.zeros_like(rate) for _ in nodes]
        for low, high in itertools.pairwise(edges):
            distance, weights = quadrature(low, high)  # distance = b − τ
            basis = lagrange(nodes, b - distance)
            for point, weight, column in zip(distance, weights, basis.T, strict=True):
                kernel = weight * torch.exp(point * rate)
                for total, value in zip(totals, column, strict=True):
                    total += kernel * value
        return [_plain(total) for total in totals]

    def remainder(self, t: float, x: Tensor) -> Tensor:
        return self.nonlinear(t, x)


def _plain(value: Tensor) -> Coefficient:
    """A tensor of one real number as a float: scalars stay on the host and never make a step wait for the device."""
    return value.item() if value.ndim == 0 and not value.is_complex() else value


def _no_diffusion(t: float, x: Tensor) -> float:
    return 0.0


@dataclass(frozen=True)
class Equation:
    """A dynamics made of functions.

    Args:
        drift: (t, x) → dx/dt, shape of x.
        diffusion: (t, x) → coefficient of dW, a number or a tensor that broadcasts with x.
        noise: kind of the diffusion.
        splits: solvable linear parts by frame name; "time" (none at all) is always there.
    """

    drift: Callable[[float, Tensor], Tensor]
    diffusion: Callable[[float, Tensor], Coefficient] = _no_diffusion
    noise: Noise = "none"
    splits: Mapping[str, Split] = field(default_factory=dict)

    def split(self, frame: str) -> Split:
        """The linear part known as `frame`.

        Raises:
            ValueError: the dynamics has no such frame.
        """
        if frame in self.splits:
            return self.splits[frame]
        if frame == "time":
            return TrivialSplit(self.drift)
        known = sorted({"time", *self.splits})
        raise ValueError(f"this dynamics has no frame {frame!r}, only {known}. Choose one of these in the solver.")


def linear(rate: Coefficient, nonlinear: Callable[[float, Tensor], Tensor]) -> Equation:
    """dx = (L x + N(t, x)) dt with its split under the frame name "linear"."""
    return Equation(
        drift=lambda t, x: rate * x + nonlinear(t, x),
        splits={"linear": LinearSplit(rate, nonlinear)},
    )
