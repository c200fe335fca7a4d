"""Affine drifts fitted to the particles, which carry them from one temperature to the next."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sciflow.errors import InputError

Basis = Literal["diagonal", "affine"]


class Drift(NamedTuple):
    """u(x) = A (x − m) + b, a velocity in the inverse temperature β."""

    rate: Tensor
    centre: Tensor
    shift: Tensor

    def flow(self, duration: float) -> Affine:
        """The map of ẋ = u(x) over this much β, exactly: one exponential of the augmented matrix."""
        d = len(self.centre)
        generator = self.rate.new_zeros(d + 1, d + 1)
        generator[:d, :d], generator[:d, d] = duration * self.rate, duration * self.shift
        flow = torch.linalg.matrix_exp(generator)
        matrix = flow[:d, :d]
        shift = self.centre + flow[:d, d] - matrix @ self.centre
        return Affine(matrix, shift, duration * float(self.rate.diagonal().sum()))


class Affine(NamedTuple):
    """x ↦ M x + c, with log|det M|; float64."""

    matrix: Tensor
    shift: Tensor
    log_det: float

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.matrix.to(x.device, x.dtype).T + self.shift.to(x.device, x.dtype)


def fit_drift(x: Tensor, slope: Tensor, rate: Tensor, basis: Basis) -> Drift:
    """The drift of a basis that leaves the weights as even as it can, by least squares on equally weighted particles.

        min over θ, c of Σ_i (r(x_i) + ∇·u_θ(x_i) + u_θ(x_i)·s(x_i) − c)²,   r = ∂_β log γ_β,  s = ∇ log γ_β

    The bracket is the rate at which a log-weight grows along ẋ = u_θ(x); with the exact drift it is d log Z/dβ, the
    same for every particle. For Gaussian base and target the affine basis holds the exact drift.

    Exactness: minimises over the basis; the weights that use the map stay exact whatever it is.
    Cost: O(n p²) for p = 2 d ("diagonal") or d² + d ("affine") coefficients.
    Bias: weights of the particles that it was fitted to give a consistent evidence, not an unbiased one.
    Args:
        x: particles, (n, d).
        slope: s(x_i), (n, d).
        rate: r(x_i), (n,).
        basis: "diagonal" (a rate and a shift for each coordinate) or "affine" (a full matrix).
    Raises:
        InputError: fewer than two particles for each coefficient.
    Source: Arbel, Matthews and Doucet (2021), Annealed flow transport Monte Carlo, with least squares on the rate of
        Vaikuntanathan and Jarzynski (2008) in place of a trained flow.
    """
    n, d = x.shape
    points, s = x.double(), slope.double()
    centre = points.mean(0)
    away = points - centre
    if basis == "affine":
        linear = (s[:, :, None] * away[:, None, :] + torch.eye(d, dtype=torch.float64, device=x.device)).flatten(1)
    else:
        linear = s * away + 1
    features = torch.cat([linear, s], 1)
    if n < 2 * features.shape[1]:
        raise InputError(
            f"a drift on the basis {basis!r} has {features.shape[1]} coefficients in {d} dimensions, and needs twice "
            f"as many particles, got {n}. Use more particles or the basis 'diagonal'."
        )
    goal = -(rate.double() - rate.double().mean())
    solution = torch.linalg.lstsq(features - features.mean(0), goal[:, None]).solution[:, 0]
    coefficients, shift = solution[:-d], solution[-d:]
    matrix = coefficients.reshape(d, d) if basis == "affine" else coefficients.diag()
    return Drift(matrix, centre, shift)
