"""Conditioning a Gaussian belief about the data on a linear measurement: the one formula behind guidance and twists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood
from sciflow.inverse.operator import LinearOperator
from sciflow.types import Time, broadcast, float64, placed

LARGEST_RATIO = 1e6
"""Noise-to-signal ratio σ/α beyond which (σ²/α) ∂D/∂x is 0/0 to rounding and counts as if the ratio were this."""


class Conditioned(NamedTuple):
    """What y adds to a belief N(D, C): shift of the mean (n, d), log p(y) (n,), and covariance (n, d, d) if asked."""

    shift: Tensor
    log_prob: Tensor
    covariance: Tensor | None


def condition(
    residual: Tensor, cross: Tensor, inner: Tensor, sigma: float, covariance: Tensor | None = None
) -> Conditioned:
    """Condition x ~ N(D, C) on y = A x + sigma n, with S = A C Aᵀ + sigma² I.

        mean − D = C Aᵀ S⁻¹ (y − A D),   covariance = C − C Aᵀ S⁻¹ A C,   log p(y) = log N(y; A D, S)

    Args:
        residual: y − A D, (n, m).
        cross: C Aᵀ, (n, d, m).
        inner: A C Aᵀ, symmetric positive semi-definite, (n, m, m).
        sigma: standard deviation of the noise.
        covariance: C, (n, d, d), where the conditional one is wanted.
    Source: e.g. Bishop (2006), Pattern recognition and machine learning, eqs. 2.115–2.117.
    """
    m = residual.shape[1]
    innovation = inner.double() + sigma**2 * torch.eye(m, dtype=torch.float64, device=inner.device)
    factor = torch.linalg.cholesky(innovation)
    columns = torch.cat([residual.double()[..., None], cross.double().transpose(1, 2)], dim=2)
    white = torch.linalg.solve_triangular(factor, columns, upper=False)
    misfit, gain = white[..., 0], white[..., 1:]
    shift = torch.einsum("nmd,nm->nd", gain, misfit)
    log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    log_prob = -0.5 * (misfit**2).sum(1) - log_det - 0.5 * m * math.log(2 * math.pi)
    left = None if covariance is None else (covariance.double() - gain.transpose(1, 2) @ gain).to(residual.dtype)
    return Conditioned(shift.to(residual.dtype), log_prob.to(residual.dtype), left)


def condition_isotropic(likelihood: GaussianLikelihood, residual: Tensor, width: Time) -> tuple[Tensor, Tensor]:
    """S⁻¹ (y − A D) (n, m) and log N(y; A D, S) (n,) of a belief N(D, width I), S = width A Aᵀ + σ_y² I.

    Args:
        likelihood: linear, Gaussian, bound.
        residual: y − A D, (n, m).
        width: variance of the belief, a number or shaped to multiply `residual`.
    """
    operator, noise = likelihood.operator, likelihood.sigma**2
    solved = operator.gram_solve(residual, noise, width)
    variances = width * placed(operator.gram_spectrum, residual.device, residual.dtype) + noise
    return solved, -0.5 * ((residual * solved).sum(1) + (2 * math.pi * variances).log().sum(-1))


def measured(covariance: Tensor, operator: LinearOperator) -> tuple[Tensor, Tensor]:
    """C Aᵀ (n, d, m) and A C Aᵀ (n, m, m) of covariances C (n, d, d) over the flattened event."""
    n, d, _ = covariance.shape
    cross = operator(covariance.reshape(n * d, *operator.shape)).reshape(n, d, -1)
    m = cross.shape[2]
    inner = operator(cross.transpose(1, 2).reshape(n * m, *operator.shape)).reshape(n, m, m)
    return cross, 0.5 * (inner + inner.transpose(1, 2))


def pullback(denoiser: Denoiser, x: Tensor, t: Time) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """D(x, t) and the map v → (∂D/∂x)ᵀ v, rows apart, whatever the grad mode of the caller.

    Where x asks for gradients the graph is kept, so that both results can be differentiated; else both are detached.

    Raises:
        InputError: the denoiser hides its gradient.
    """
    keep = torch.is_grad_enabled() and x.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        state = x if keep else x.detach().clone().requires_grad_()
        data = denoiser(state, t)
    if not data.requires_grad:
        raise InputError(
            f"{type(denoiser).__name__} cannot be differentiated: its answer carries no gradient. "
            "Remove no_grad or detach from it, or use a guidance that needs no gradient."
        )

    def pull(v: Tensor) -> Tensor:
        options = {"retain_graph": True, "create_graph": keep, "materialize_grads": True}
        with torch.inference_mode(False):
            return torch.autograd.grad(data, state, v if keep else v.clone(), **options)[0]

    return data if keep else data.detach(), pull


def jacobian_scale(schedule: Schedule, x: Tensor, t: Time) -> Time:
    """σ²/α, so that (σ²/α) ∂D/∂x = Cov[x₁ | x_t = x]; shaped to multiply x.

    Source: Robbins (1956); Boys et al. (2024), Tweedie moment projected diffusions.
    """
    alpha, sigma = float64(schedule.alpha(t)), float64(schedule.sigma(t))
    return broadcast(sigma**2 / torch.maximum(alpha, sigma / LARGEST_RATIO), x)


def isotropic_variance(schedule: Schedule, like: Tensor, t: Time, variance: float | None) -> Time:
    """Var[x₁ | x_t] of isotropic Gaussian data, v σ²/(σ² + α² v); shaped to multiply `like`.

    Args:
        schedule: noise levels; a `Scaled` one knows the standard deviation of the data.
        like: tensor with one row per state.
        t: time, a number or one per row.
        variance: v; None takes it from the schedule, or 1 where the schedule does not say; ∞ leaves σ²/α².
    """
    v = getattr(schedule, "std", 1.0) ** 2 if variance is None else variance
    alpha, sigma = float64(schedule.alpha(t)), float64(schedule.sigma(t))
    return broadcast((sigma / alpha) ** 2 if v == math.inf else v * sigma**2 / (sigma**2 + alpha**2 * v), like)


def conditioned_draw(
    likelihood: GaussianLikelihood, x: Tensor, width: float, measurement_noise: Tensor | float = 0.0
) -> Tensor:
    """A draw of a belief N(D, width I) given y, from a draw x of the belief itself.

        x + width Aᵀ (width A Aᵀ + σ_y² I)⁻¹ (y + σ_y n − A x)

    Exact for x = D + √width z and standard normal z, n; for x = D and n = 0 it is the mean.

    Args:
        likelihood: linear, Gaussian, bound.
        x: draw of the belief, or its mean, (n, *shape).
        width: variance of the belief, ≥ 0.
        measurement_noise: n, (n, m).
    Source: Hoffman and Ribak (1991), Constrained realizations of Gaussian fields.
    """
    residual = likelihood.residual(x) + likelihood.sigma * measurement_noise
    solved = likelihood.operator.gram_solve(residual, likelihood.sigma**2, width)
    return x + width * likelihood.operator.adjoint(solved)


def linear_gaussian(likelihood: Likelihood, shape: tuple[int, ...], user: str) -> GaussianLikelihood:
    """The likelihood on events of `shape`, if it is a linear measurement with Gaussian noise or is near to one.

    A likelihood that is not Gaussian may offer `gaussian()`, what it tends to for many counts.

    Raises:
        InputError: it is not, or does not fit the shape.
    """
    bound = likelihood.on(shape) if isinstance(likelihood, Likelihood) else likelihood
    near = getattr(bound, "gaussian", None)
    found = bound if near is None else near()
    if not isinstance(found, GaussianLikelihood):
        raise InputError(f"{user} needs a GaussianLikelihood, got {type(likelihood).__name__}.")
    return found
