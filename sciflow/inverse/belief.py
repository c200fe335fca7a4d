"""What is believed about the data x₁ at a noisy state, N(D, C), before and after y: guides of twisted SMC.

A step of the prior's chain is x_b = (affine in x_a) + k x₁ + s z. A belief averages x₁ out of it, and so gives the two
kernels of twisted SMC, centred at the same affine part:

    reference  p(x_b | x_a) = N(k D, s² I + k² C)
    proposal   m(x_b | x_a) = N(k D_y, s² I + k² C_y),   (D_y, C_y): moments of N(D, C) given y, or D_y with C itself
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.moments import (
    Conditioned,
    condition,
    condition_isotropic,
    isotropic_variance,
    jacobian_scale,
    measured,
    pullback,
)
from sciflow.particles.feynman_kac import State
from sciflow.random import Stream
from sciflow.steering.twisted import Move, normal
from sciflow.types import Time


@dataclass(frozen=True)
class FullBelief:
    """C from the denoiser's own `covariance(x, t)`; the proposal has the conditional covariance.

    Exactness: exact for Gaussian data, where all weights are equal at any number of steps.
    Cost: one denoiser call, one covariance, and O(d³) per particle and level.
    Bias: the reference is wrong by the non-Gaussian part of x₁ | x_t, which vanishes as steps shrink.
    Args:
        prior: denoiser with `covariance`.
        likelihood: bound to its shape.
    Source: conjugacy; e.g. Bishop (2006), Pattern recognition and machine learning, eqs. 2.115–2.117.
    """

    prior: Denoiser
    likelihood: GaussianLikelihood

    def look(self, x: Tensor, t: float, stream: Stream) -> State:
        data, covariance = self.prior(x, t), self.prior.covariance(x, t)  # type: ignore[attr-defined]
        cross, inner = measured(covariance, self.likelihood.operator)
        given = condition(self.likelihood.residual(data), cross, inner, self.likelihood.sigma, covariance)
        assert given.covariance is not None
        return {**_ahead(data, given), "covariance": covariance, "conditional": given.covariance}

    def propose(self, state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
        noise, s, k = normal(state["x"], stream.child("noise")), move.s, move.pull
        floor = s**2 * torch.eye(noise.shape[1], dtype=noise.dtype, device=noise.device)
        reference, proposal = (
            torch.linalg.cholesky(floor + k**2 * state[name]) for name in ("covariance", "conditional")
        )
        deviation = k * state["shift"] + torch.einsum("nij,nj->ni", proposal, noise)
        white = torch.linalg.solve_triangular(reference, deviation[..., None], upper=False)[..., 0]
        shrink = proposal.diagonal(dim1=1, dim2=2) / reference.diagonal(dim1=1, dim2=2)
        return move.mean + deviation, shrink.log().sum(1) + 0.5 * ((noise**2).sum(1) - (white**2).sum(1))

    def conclude(self, state: State, stream: Stream) -> tuple[Tensor, Tensor]:
        """x₁ ~ N(D_y, C_y). The ratio is 0: h is exactly the likelihood averaged over N(D, C)."""
        noise = normal(state["x"], stream.child("noise"))
        values, vectors = torch.linalg.eigh(state["conditional"])
        root = vectors * values.clamp_min(0).sqrt()[:, None]
        x1 = state["data"] + state["shift"] + torch.einsum("nij,nj->ni", root, noise)
        return x1, torch.zeros_like(state["log_twist"])


@dataclass(frozen=True)
class IsotropicBelief:
    """C = c I in both kernels, with c = tr Cov[x₁ | x_t]/d estimated for each state by one random probe.

        c = zᵀ C z/zᵀ z,   C = (σ²/α) ∂D/∂x,   z ~ N(0, I)

    Of all isotropic kernels c gives the nearest to the true reverse kernel; c = 0 (the usual "small" variance) ends too
    narrow, the variance of isotropic data too wide. The twist sees more than the kernels do:

        project:      h = N(y; A D, A C Aᵀ + σ_y² I), one backward pass per measurement
        otherwise:    h = N(y; A D, r² A Aᵀ + σ_y² I), r² = v σ²/(σ² + α² v), one backward pass

    Exactness: the target is exact for the chain with these kernels; x₁ = D at its end.
    Cost: one denoiser call with 2 backward passes (1 + measurements for `project`).
    Bias: O(step) in the reference.
    Args:
        prior: denoiser.
        likelihood: bound to its shape.
        project: see above; directions in which a network's A C Aᵀ is negative count as zero.
        variance: v; None takes it from the schedule.
    Source: Bao et al. (2022), Analytic-DPM, theorem 1, for the variance; Song et al. (2023), PiGDM, for r².
    """

    prior: Denoiser
    likelihood: GaussianLikelihood
    project: bool = False
    variance: float | None = None

    def look(self, x: Tensor, t: float, stream: Stream) -> State:
        probe = normal(x, stream.child("probe")).reshape(x.shape)
        data, pull = pullback(self.prior, x, t)
        scale = jacobian_scale(self.prior.schedule, x, t)

        def spread(v: Tensor) -> Tensor:
            return scale * pull(v)

        flat = probe.flatten(1)
        variance = (flat * spread(probe).flatten(1)).sum(1) / (flat**2).sum(1)
        given = (self._projected if self.project else self._isotropic)(data, spread, t)
        return {**_ahead(data, given), "variance": variance.clamp_min(0)}

    def _projected(self, data: Tensor, spread: Callable[[Tensor], Tensor], t: float) -> Conditioned:
        operator, n = self.likelihood.operator, len(data)
        basis = torch.eye(operator.n_measurements, dtype=data.dtype, device=data.device)
        rows = [spread(operator.adjoint(unit.expand(n, -1))) for unit in basis]
        inner = torch.stack([operator(row) for row in rows], dim=1)
        values, vectors = torch.linalg.eigh(0.5 * (inner + inner.transpose(1, 2)))
        inner = (vectors * values.clamp_min(0)[:, None]) @ vectors.transpose(1, 2)
        cross = torch.stack([row.flatten(1) for row in rows], dim=2)
        return condition(self.likelihood.residual(data), cross, inner, self.likelihood.sigma)

    def _isotropic(self, data: Tensor, spread: Callable[[Tensor], Tensor], t: float) -> Conditioned:
        residual = self.likelihood.residual(data)
        width = isotropic_variance(self.prior.schedule, residual, t, self.variance)
        solved, log_prob = condition_isotropic(self.likelihood, residual, width)
        return Conditioned(spread(self.likelihood.operator.adjoint(solved)).flatten(1), log_prob, None)

    def propose(self, state: State, move: Move, stream: Stream) -> tuple[Tensor, Tensor]:
        noise, s, k = normal(state["x"], stream.child("noise")), move.s, move.pull
        width = (s**2 + k**2 * state["variance"]).sqrt()[:, None]
        jump = k * state["shift"] / width
        return move.mean + width * (jump + noise), -(jump * (noise + 0.5 * jump)).sum(1)

    def conclude(self, state: State, stream: Stream) -> tuple[Tensor, Tensor]:
        """x₁ = D: the discretised prior is the law of D at the end of the chain."""
        x1 = state["data"].reshape(-1, *self.likelihood.operator.shape)
        return state["data"], self.likelihood.log_prob(x1) - state["log_twist"]


@dataclass(frozen=True)
class Differentiated:
    """A denoiser that offers `covariance`, from its own Jacobian: what `FullBelief` needs of a network.

        Cov[x₁ | x_t = x] = (σ²/α) ∂D/∂x,   symmetrised; directions in which a network's is negative count as zero

    Exactness: exact for an exact denoiser.
    Cost: one denoiser call with d backward passes for each covariance.
    Bias: none of its own.
    Args:
        denoiser: the model.
    Source: Robbins (1956), differentiated; Boys et al. (2024), Tweedie moment projected diffusions.
    """

    denoiser: Denoiser

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.denoiser.initial(t, n, stream, dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        return self.denoiser(x, t)

    def covariance(self, x: Tensor, t: Time) -> Tensor:
        data, pull = pullback(self.denoiser, x, t)
        units = torch.eye(data[0].numel(), dtype=x.dtype, device=x.device).reshape(-1, *x.shape[1:])
        rows = torch.stack([pull(unit.expand_as(x)).flatten(1) for unit in units], dim=1)
        rows = rows * jacobian_scale(self.denoiser.schedule, rows, t)
        values, vectors = torch.linalg.eigh(0.5 * (rows + rows.transpose(1, 2)))
        return (vectors * values.clamp_min(0)[:, None]) @ vectors.transpose(1, 2)


def _ahead(data: Tensor, given: Conditioned) -> State:
    return {"data": data.flatten(1), "shift": given.shift, "log_twist": given.log_prob}
