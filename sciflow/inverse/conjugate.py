"""The posterior of a prior in closed form: no steps, no guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianLikelihood, Likelihood
from sciflow.inverse.moments import linear_gaussian
from sciflow.inverse.shared import Progress
from sciflow.particles.particles import Particles
from sciflow.random import Stream


@dataclass(frozen=True)
class Conjugate:
    """Independent draws from the posterior of a mixture prior, in closed form; the times are not used.

        x = x' + C_k Aᵀ (A C_k Aᵀ + σ² I)⁻¹ (y − A x' − σ n),   x' ~ N(m_k, C_k),   k ~ w_k N(y; A m_k, A C_k Aᵀ + σ² I)

    A likelihood that only tends to a Gaussian corrects the draws by weights.

    Target: p(x₁ | y)
    Exactness: exact for a linear Gaussian likelihood, evidence included; else as particles → ∞.
    Cost: O(components × measurements³); no denoiser calls.
    Bias: none; O(1/particles) where weights correct the draws.
    Args:
        n_particles: draws that are weighted where the likelihood is not Gaussian; else as many as are asked for.
    Raises:
        InputError: a prior that is no mixture, or a likelihood that tends to no Gaussian.
    Source: Doucet (2010), A note on efficient conditional simulation of Gaussian distributions, for the draws.
    """

    n_particles: Annotated[int, Field(gt=0)] = 1024

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        if n < 1:
            raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
        law, gaussian = _law(prior), linear_gaussian(likelihood, tuple(prior.shape), "Conjugate")
        bound = likelihood.on(tuple(prior.shape))
        is_exact = isinstance(bound, GaussianLikelihood)
        with torch.no_grad():
            place = gaussian.observation.device
            on_host = replace(gaussian, observation=gaussian.observation.cpu())  # small dense algebra in float64
            x, log_evidence = _draws(law, on_host, n if is_exact else max(n, self.n_particles), stream)
            x = x.reshape(-1, *prior.shape).to(place)
            if on_step is not None:
                on_step(1, 1)
            if is_exact:
                drawn = Particles.equal(x.to(gaussian.observation.dtype))
                return _with_evidence(drawn, drawn.log_weights, log_evidence, 0.0)
            excess = bound.log_prob(x) - gaussian.log_prob(x)  # float64: differences of large numbers
        log_weights = excess.log_softmax(0)
        relative = (log_weights + math.log(len(x))).exp()
        error = float(relative.std() / math.sqrt(len(x)))
        log_mean = float(excess.logsumexp(0)) - math.log(len(x))
        drawn = Particles.equal(x.to(gaussian.observation.dtype))
        return _with_evidence(drawn, log_weights, log_evidence + log_mean, error)


def _with_evidence(drawn: Particles, log_weights: Tensor, log_evidence: float, error: float) -> Particles:
    return Particles(drawn.x, log_weights, log_evidence, error, eve=drawn.eve)


def _law(prior: Denoiser) -> SubspaceMixture:
    """The mixture behind a denoiser, in float64.

    Raises:
        InputError: there is none.
    """
    prior = getattr(prior, "denoiser", prior)  # what only counts the calls
    if isinstance(prior, SubspaceDenoiser):
        return prior.law.to(torch.float64, torch.device("cpu"))
    if isinstance(prior, MixtureDenoiser):
        return SubspaceMixture.whole(prior.mixture.to(torch.float64, torch.device("cpu")))
    raise InputError(
        f"conjugate needs a prior that is a Gaussian mixture, got {type(prior).__name__}. "
        "Take train: {kind: mixture}, or another posterior."
    )


def _draws(law: SubspaceMixture, likelihood: GaussianLikelihood, n: int, stream: Stream) -> tuple[Tensor, float]:
    """n draws (n, d), float64, and log p(y)."""
    operator, sigma, shape = likelihood.operator, likelihood.sigma, likelihood.operator.shape
    y, m = likelihood.observation.double(), operator.n_measurements
    seen = operator(law.basis.T.reshape(-1, *shape))  # A U, transposed
    white = law.width**2 * operator.gram(torch.eye(m, dtype=torch.float64)) if law.width else torch.zeros(m, m)
    floor = white.double() + sigma**2 * torch.eye(m, dtype=torch.float64)
    misfit = y - operator(law.means().reshape(-1, *shape))
    factors, log_joint = [], law.mixture.weights.log()
    for k, covariance in enumerate(law.mixture.covariances):
        inner = seen.T @ (covariance - law.width**2 * torch.eye(len(covariance), dtype=torch.float64)) @ seen
        factor = torch.linalg.cholesky(0.5 * (inner + inner.T) + floor)
        residual = torch.linalg.solve_triangular(factor, misfit[k, :, None], upper=False)[:, 0]
        normalised = factor.diagonal().log().sum() + 0.5 * m * math.log(2 * math.pi)
        log_joint[k] = log_joint[k] - 0.5 * residual.square().sum() - normalised
        factors.append(factor)
    log_evidence = log_joint.logsumexp(0)
    u = stream.child("component").uniform(n, dtype=torch.float64)
    index = torch.searchsorted((log_joint - log_evidence).exp().cumsum(0), u, right=True).clamp_max(len(factors) - 1)
    x = torch.empty(n, len(law.centre), dtype=torch.float64)
    noise = stream.child("noise").normal(n, (m,), dtype=torch.float64)
    latent = stream.child("latent").normal(n, law.basis.shape[1:], dtype=torch.float64)
    outside = law.width * stream.child("outside").normal(n, law.centre.shape, dtype=torch.float64)
    outside = outside - outside @ law.basis @ law.basis.T
    values, vectors = law.mixture.eigen
    for k in index.unique().tolist():
        rows = (index == k).nonzero()[:, 0]
        z = latent[rows] * values[k].sqrt() @ vectors[k].T
        first = law.means()[k] + z @ law.basis.T + outside[rows]
        gap = y - operator(first.reshape(-1, *shape)) - sigma * noise[rows]
        solved = torch.cholesky_solve(gap.T, factors[k]).T
        x[rows] = first + law.spread(k, operator.adjoint(solved).flatten(1))
    return x, float(log_evidence)
