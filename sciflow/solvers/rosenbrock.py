"""Exponential Rosenbrock steps: the drift is linearised at each step, and the linear equation solved exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.func import jvp

from sciflow.solvers.dynamics import Dynamics
from sciflow.solvers.solve import Past, StepNoise
from sciflow.solvers.weights import require_ode


def derivative(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and (∂f/∂x) v, in one forward pass.

    Raises:
        ValueError: a function that asks for a gradient of its own.
    """
    try:
        value, moved, *_ = jvp(function, (x,), (direction,))
    except RuntimeError as error:
        if "requires_grad" not in str(error):
            raise
        raise ValueError(
            "this solver differentiates the model, whose guidance asks for a gradient of its own, as dps and pigdm do. "
            "Use guidance by moment_matching, or a solver without derivatives."
        ) from error
    return value, moved


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ per row, shape (batch, 1)."""
    return (a * b).sum(1, keepdim=True)


def _norm(a: Tensor) -> Tensor:
    """‖a‖ per row, whose derivative is 0 where a is."""
    square = _inner(a, a)
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def _unit(a: Tensor, norm: Tensor) -> Tensor:
    """a/‖a‖, or 0 where the norm is said to be 0."""
    return torch.where(norm > 0, a / torch.where(norm > 0, norm, 1.0), 0.0)


def phi_1_action(apply: Callable[[Tensor], Tensor], vector: Tensor, dimension: int) -> Tensor:
    """φ₁(A) v per row, with A known by its action only.

        φ₁(A) v ≈ ‖v‖ V φ₁(H) e₁,   V an orthonormal basis of span{v, Av, …, A^{m−1}v},   H = Vᵀ A V

    and φ₁(H) e₁ is the last column of exp[[H, e₁], [0, 0]]. Rows whose space is smaller than m stop growing: their
    next basis vector is 0, and so is their part of H.

    Exactness: exact where the Krylov space is invariant, so for m ≥ the number of coordinates; otherwise the first m
        terms of the power series.
    Cost: m actions of A, exp of one (m + 1)² matrix per row.
    Bias: O(‖A‖^m).
    Args:
        apply: v → A v, row k of the result from row k alone; shape (batch, n).
        vector: v, shape (batch, n).
        dimension: m.
    Source: Hochbruck and Lubich (1997), On Krylov subspace approximations to the matrix exponential operator.
    """
    length = _norm(vector)
    basis = [_unit(vector, length)]
    small = vector.new_zeros(len(vector), dimension + 1, dimension + 1)
    small[:, 0, dimension] = 1.0
    for k in range(dimension):
        image = apply(basis[k])
        whole = _norm(image)
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            for j, direction in enumerate(basis):
                share = _inner(direction, image)
                image = image - share * direction
                small[:, j, k] += share[:, 0]
        if k + 1 < dimension:
            rest = _norm(image)
            rest = torch.where(rest > 100 * torch.finfo(vector.dtype).eps * whole, rest, 0.0)
            small[:, k + 1, k] = rest[:, 0]
            basis.append(_unit(image, rest))
    several = small if len(small) > 1 else small.expand(2, -1, -1)  # torch has other bits for a single matrix
    weights = torch.linalg.matrix_exp(several)[: len(small), :dimension, dimension]
    return length * sum(weights[:, j, None] * direction for j, direction in enumerate(basis))


@dataclass(frozen=True)
class ExponentialRosenbrock:
    """Exponential Rosenbrock–Euler: whatever is linear in the drift, found at each step, is solved exactly.

        x₁ = x₀ + h φ₁(hJ) f(t₀, x₀) + h² φ₂(hJ) f_t,   J = ∂f/∂x (t₀, x₀)
        f_t = (f(t₀ + h/2, x₀) − f(t₀, x₀))/(h/2),      φ₁(z) = (e^z − 1)/z,   φ₂(z) = (φ₁(z) − 1)/z

    No split has to be known: it serves stiff equations whose stiff part is neither constant nor diagonal. J acts by
    forward-mode derivatives, row by row, and φ(hJ) by a Krylov space of fixed dimension m per row. Both φ are one
    action of φ₁, of the matrix [[hJ, h f_t], [0, 0]]. The difference in time is an error O(h) in f_t, O(h³) in a step,
    and exact where f is affine in t; the space itself needs m ≥ 2 for second order.

    Order: 2; exact for an affine drift where m exceeds the number of coordinates (or equals it, for constant f).
    Cost: m + 2 drift calls per step, m of them with their derivative (about twice the price); the host waits for the
        matrix exponential.
    Bias: O(h²).
    Args:
        dimension: m of the Krylov space, per row.
    Raises:
        ValueError: dynamics with noise, or a model that asks for a gradient of its own.
    Source: Hochbruck, Ostermann and Schweitzer (2009), Exponential Rosenbrock-type methods; the difference in time and
        the space per row are ours.
    """

    dimension: Annotated[int, Field(ge=2, le=32)] = 2
    convergence = 2

    def plan(self, dynamics: Dynamics, times: Sequence[float], past: Sequence[float] = ()) -> list[tuple[float, float]]:
        require_ode(self, dynamics)
        return list(itertools.pairwise(times))

    def init(self, dynamics: Dynamics, times: Sequence[float], x: Tensor, past: Past = ()) -> Tensor:
        return x

    def step(self, dynamics: Dynamics, coefficients: tuple[float, float], state: Tensor, noise: StepNoise) -> Tensor:
        a, h = coefficients[0], coefficients[1] - coefficients[0]
        slope = h * dynamics.drift(a, state).flatten(1)
        change = 2 * (h * dynamics.drift(a + 0.5 * h, state).flatten(1) - slope)  # h² f_t
        scale = _norm(change)  # of the coordinate that stands for time: balances the two columns
        direction = _unit(change, scale)

        def apply(vector: Tensor) -> Tensor:
            space, time = vector[:, :-1], vector[:, -1:]
            _, moved = derivative(lambda x: dynamics.drift(a, x), state, space.reshape(state.shape).contiguous())
            return torch.cat([h * moved.flatten(1) + time * direction, torch.zeros_like(time)], 1)

        whole = phi_1_action(apply, torch.cat([slope, scale], 1), self.dimension)
        return state + whole[:, :-1].reshape(state.shape)

    def value(self, state: Tensor) -> Tensor:
        return state
