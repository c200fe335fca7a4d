"""The one equation, dx = drift(t, x) dt + diffusion(t, x) dW, and the part of it that has a closed form.

A stiff PDE, a diffusion or flow sampler and Langevin dynamics differ in their drift only. What an exponential solver
may use is a `Split`: after a change of variable the linear part is gone, and only a smooth function F is left to be
interpolated by a polynomial.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from sciflow.solvers.phi import lagrange_integrals
from sciflow.types import Time

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


@runtime_checkable
class ModelSplit(Split, Protocol):
    """A split of the probability flow of a model x_t = α x₁ + σ x₀: what solvers that are written in α and σ ask for.

    In the frame "data" its remainder is the denoiser D(x, t) itself.
    """

    def levels(self, t: float) -> tuple[float, float]:
        """α and σ at t, in float64."""
        ...

    def time(self, log_snr: Time) -> Time:
        """The time with this λ = log(α/σ), in float64; for a tensor, the times of each of its numbers."""
        ...


@runtime_checkable
class NoisySplit(Split, Protocol):
    """A split with a family of SDEs that have the laws of its ODE: the noise of a step, too, has a closed form."""

    def noisy(self, eta: float) -> NoisySplit:
        """The split of the member of noise level η; 0 is the ODE."""
        ...

    def spread(self, a: float, b: float) -> float:
        """Standard deviation of the noise that a step adds."""
        ...


class SoleSplit(Split, Protocol):
    """A split that can be told from its model: coefficients depend on the noise levels alone."""

    def alone(self) -> SoleSplit | None:
        """The split without the model, a key by which plans are found again; None where it is none."""
        ...

    def of(self, other: Split) -> SoleSplit:
        """This split with the model of another."""
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


def model_split(solver: object, dynamics: Dynamics, frame: str = "data") -> ModelSplit:
    """The frame of a diffusion or flow model, for a solver that is written in α and σ.

    Raises:
        ValueError: dynamics with noise of its own, or of no such model.
    """
    name = type(solver).__name__
    if dynamics.noise != "none":
        raise ValueError(
            f"{name} takes the probability flow; what noise it adds is its own, or none, as exact inversion wants. Got "
            f"dynamics with {dynamics.noise} noise. Use probability_flow(model), or `noise_level: 0` in a run file."
        )
    split = dynamics.split(frame)
    if not isinstance(split, ModelSplit):
        raise ValueError(
            f"{name} needs the noise levels α and σ of a diffusion or flow model, got an equation without them. "
            "Use EABM() or a Runge–Kutta method."
        )
    return split


def lagrange(nodes: Sequence[float] | np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values of the Lagrange basis ℓ_j at points, shape (len(nodes), *at.shape); products, so no cancellation."""
    gaps, rows = [at - node for node in nodes], np.empty((len(nodes), *at.shape))
    for j, own in enumerate(nodes):
        others = [m for m in range(len(nodes)) if m != j]
        rows[j] = _product([gaps[m] for m in others]) / _product([own - nodes[m] for m in others])
    return rows


def _product(factors: Sequence[np.ndarray]) -> np.ndarray | float:
    return functools.reduce(operator.mul, factors) if factors else 1.0


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

    @classmethod
    def within(cls, frame: str, drift: Callable[[float, Tensor], Tensor], what: str) -> TrivialSplit:
        """The split of dynamics that know the frame "time" alone.

        Raises:
            ValueError: another frame; says whose.
        """
        if frame != "time":
            raise ValueError(f"{what} has the frame 'time' only, got {frame!r}.")
        return cls(drift)

    def propagator(self, a: float, b: float) -> float:
        return 1.0

    def weights(self, a: float, b: float, nodes: Sequence[float]) -> list[float]:
        points, weights = quadrature(a, b)
        return [float(w) for w in lagrange(nodes, points) @ weights]

    def remainder(self, t: float, x: Tensor) -> Tensor:
        return self.drift(t, x)


@dataclass(frozen=True)
class LinearSplit:
    """A constant linear part, diagonal in the basis of the state: dx = (L x + c N(t, x)) dt.

        P = e^{hL},   W_j = c ∫_a^b e^{(b−τ)L} ℓ_j(τ) dτ,   h = b − a

    The integrals are combinations of φ-functions, exact for stiff (Re hL ≪ 0) and for dispersive (imaginary L) modes.
    Steps of equal length share their coefficients: a uniform grid holds one set, whatever its number of steps.

    Args:
        rate: L, a number or a tensor that broadcasts with the state [1/time]. Real part ≤ 0 for stiff problems.
        nonlinear: N(t, x).
        factor: c, a number or a tensor that broadcasts with the state; it is left to the weights, and costs no step.
    Source: Cox and Matthews (2002), Exponential time differencing for stiff systems, section 2.
    """

    rate: Coefficient
    nonlinear: Callable[[float, Tensor], Tensor]
    factor: Coefficient = 1.0
    _made: dict[tuple[float, ...], list[Coefficient]] = field(default_factory=dict, repr=False, compare=False)

    def _rate(self) -> Tensor:
        rate = self.rate if isinstance(self.rate, Tensor) else torch.tensor(self.rate, dtype=torch.float64)
        return rate.to(torch.complex128 if rate.is_complex() else torch.float64)

    def propagator(self, a: float, b: float) -> Coefficient:
        return self._once(b - a, (), lambda: [torch.exp((b - a) * self._rate())])[0]

    def weights(self, a: float, b: float, nodes: Sequence[float]) -> list[Coefficient]:
        h = b - a
        places, scale = [(node - a) / h for node in nodes], h * self.factor
        return self._once(h, places, lambda: [scale * w for w in lagrange_integrals(h * self._rate(), places)])

    @staticmethod
    def length(h: float) -> float:
        """h to 12 digits: steps of a uniform grid are equal to rounding."""
        return float(f"{h:.11e}")

    def _once(self, h: float, places: Sequence[float], make: Callable[[], list[Tensor]]) -> list[Coefficient]:
        """Coefficients by the length of the step and where its nodes lie, to 12 digits."""
        key = tuple(self.length(number) for number in (h, *places))
        if key not in self._made:
            with lasting():
                self._made[key] = [_plain(value) for value in make()]
        return self._made[key]

    def remainder(self, t: float, x: Tensor) -> Tensor:
        return self.nonlinear(t, x)


def lasting() -> AbstractContextManager:
    """For tensors that outlive a call: plain ones in inference mode, too, so that autograd may use them later."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


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


def linear(rate: Coefficient, nonlinear: Callable[[float, Tensor], Tensor], factor: Coefficient = 1.0) -> Equation:
    """dx = (L x + c N(t, x)) dt with its split under the frame name "linear"; as `LinearSplit`."""
    return Equation(
        drift=lambda t, x: rate * x + factor * nonlinear(t, x),
        splits={"linear": LinearSplit(rate, nonlinear, factor)},
    )
