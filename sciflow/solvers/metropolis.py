"""Metropolis tests of Langevin moves: what kernels of particles and solvers of dynamics share.

A move is made in the coordinates z with x = scale · z, so that one step size serves coordinates of any width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.errors import InputError

LogDensity = Callable[[Tensor], Tensor]
"""log γ, not normalised: (n, d) → (n,); −inf outside the support."""

Scale = float | Tensor
"""A number, standard deviations (d,), or a lower triangular factor (d, d) of a covariance: the metric of a move."""


def stretch(scale: Scale, z: Tensor) -> Tensor:
    """scale · z for each row."""
    if isinstance(scale, Tensor):
        scale = scale.to(z.device, z.dtype)
        return z @ scale.T if scale.ndim == 2 else z * scale
    return z * scale


def pull(scale: Scale, gradient: Tensor) -> Tensor:
    """scaleᵀ · gradient for each row: the gradient in the coordinates z."""
    if isinstance(scale, Tensor):
        scale = scale.to(gradient.device, gradient.dtype)
        return gradient @ scale if scale.ndim == 2 else gradient * scale
    return gradient * scale


def solved(scale: Scale, x: Tensor) -> Tensor:
    """scale⁻¹ · x for each row."""
    if isinstance(scale, Tensor) and scale.ndim == 2:
        factor = scale.to(x.device, x.dtype)
        return torch.linalg.solve_triangular(factor, x.T, upper=False).T
    return x / (scale.to(x.device, x.dtype) if isinstance(scale, Tensor) else scale)


class Point(NamedTuple):
    """Where rows stand: x, log γ(x) and its gradient in the coordinates z."""

    x: Tensor
    value: Tensor
    slope: Tensor


def valued(log_density: LogDensity, x: Tensor) -> Tensor:
    """log γ of each row, (n,).

    Raises:
        InputError: a density that does not give one number for each row.
    """
    value = log_density(x)
    if value.shape != (len(x),):
        raise InputError(
            f"a log-density must give one number for each row, ({len(x)},), got {tuple(value.shape)}. Sum over the "
            "axes of an event, and not over the rows."
        )
    return value


def look(log_density: LogDensity, x: Tensor, scale: Scale) -> Point:
    """Value and gradient by one backward pass, float64 value.

    Raises:
        InputError: a density that does not give one number for each row.
    """
    with torch.inference_mode(False), torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        value = valued(log_density, at)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    return Point(x.detach(), value.detach().double(), pull(scale, gradient))


def accepted(start: Point, end: Point, log_ratio: Tensor, uniform: Tensor) -> tuple[Point, Tensor]:
    """The Metropolis test of each row, and its acceptance probability.

    A trajectory that has left the numbers is rejected: the density at infinity is zero. A NaN density at a finite place
    is a mistake of the model: it is kept as NaN, so that the next weight says so.
    """
    stays = ~end.x.isfinite().all(1) | (end.value == -math.inf)
    log_ratio = log_ratio.masked_fill(stays, -math.inf)
    probability = log_ratio.clamp_max(0).exp()
    moves = uniform < probability
    x, slope = (torch.where(moves[:, None], b, a) for a, b in ((start.x, end.x), (start.slope, end.slope)))
    broken = log_ratio.isnan()
    x = torch.where(broken[:, None], math.nan, x)
    return Point(x, torch.where(moves, end.value, start.value), slope), probability


def langevin_move(start: Point, normal: Tensor, step: float, scale: Scale) -> Tensor:
    """x + h²/2 S Sᵀ ∇log γ(x) + h S ξ.

    Args:
        start: where rows stand.
        normal: ξ, (n, d).
        step: h.
        scale: S.
    Source: Roberts and Tweedie (1996), Exponential convergence of Langevin distributions, section 1.4.1.
    """
    return start.x + stretch(scale, 0.5 * step**2 * start.slope + step * normal)


def langevin_log_ratio(start: Point, end: Point, step: float, scale: Scale) -> Tensor:
    """log γ(x') q(x | x') − log γ(x) q(x' | x) for `langevin_move`, float64, (n,).

    Source: Roberts and Tweedie (1996), section 1.4.2.
    """
    jump = solved(scale, end.x - start.x)
    there = (jump - 0.5 * step**2 * start.slope).double().square().sum(1)
    back = (-jump - 0.5 * step**2 * end.slope).double().square().sum(1)
    return end.value - start.value + (there - back) / (2 * step**2)
