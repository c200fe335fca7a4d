"""Denoisers in closed form: Gaussian, Gaussian mixture and empirical data set.

They are what the laws of this package are proven against: with them a sampler's error is its own, not a network's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sciflow.diffusion.schedule import Schedule
from sciflow.random import Stream
from sciflow.types import Time, broadcast, placed


@dataclass(frozen=True)
class GaussianMixture:
    """The law Σ_k w_k N(m_k, C_k) on R^d, with its noisy and conditional laws in closed form.

    Args:
        weights: w_k ≥ 0, summing to one, shape (k,).
        means: m_k, shape (k, d).
        covariances: C_k, symmetric positive semi-definite, shape (k, d, d).

    Raises:
        ValueError: shapes that do not belong together, or weights that do not sum to one.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __post_init__(self) -> None:
        k, d = self.means.shape
        if self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            got = tuple(self.weights.shape), tuple(self.means.shape), tuple(self.covariances.shape)
            raise ValueError(f"a mixture needs weights (k,), means (k, d), covariances (k, d, d), got {got}.")
        if abs(float(self.weights.sum()) - 1) > 1e-6 or float(self.weights.min()) < 0:
            raise ValueError(f"mixture weights must be ≥ 0 and sum to 1, got a sum of {float(self.weights.sum()):.6g}.")

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (k, d) and eigenvectors (k, d, d) of the covariances."""
        values, vectors = torch.linalg.eigh(self.covariances)
        return values.clamp_min(0), vectors

    @cached_property
    def is_common(self) -> bool:
        """Whether all components have one covariance, and means within a hundred of its least widths of the centre.

        Then products of matrices tell the components apart as exactly as differences do, and cost a fraction.
        """
        farthest = (self.means - self.means.mean(0)).square().sum(1).max()
        one = (self.covariances == self.covariances[:1]).all()
        return bool(one & (farthest <= 100**2 * self.eigen[0].min()))

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> GaussianMixture:
        return GaussianMixture(*(part.to(device, dtype) for part in (self.weights, self.means, self.covariances)))

    def mean(self) -> Tensor:
        """E[x], shape (d,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """Cov[x], shape (d, d)."""
        centred = self.means - self.mean()
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + (self.weights * centred.T) @ centred

    def components(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; m_k, C_k), shape (n, k)."""
        return self.noised_components(x, 1.0, 0.0)

    def noised_components(self, x: Tensor, alpha: Time, sigma: Time) -> Tensor:
        """log w_k + log N(x; α m_k, α² C_k + σ² I), shape (n, k)."""
        values, _ = self.eigen
        variances = alpha**2 * values + sigma**2
        squared = (self._rotated(x, alpha) ** 2 / variances).sum(-1)
        log_norm = variances.log().sum(-1) + values.shape[-1] * math.log(2 * math.pi)
        return self.weights.log() - 0.5 * (squared + log_norm)

    def _rotated(self, x: Tensor, alpha: Time) -> Tensor:
        """Vᵀ(x − α m) in the eigenbasis of each component, shape (n, k, d)."""
        _, vectors = self.eigen
        return torch.einsum("nkd,kde->nke", x[:, None] - alpha * self.means, vectors)

    def log_prob(self, x: Tensor) -> Tensor:
        """log density, shape (n,)."""
        return self.components(x).logsumexp(-1)

    def sample(self, n: int, stream: Stream, dtype: torch.dtype = torch.float64) -> Tensor:
        """n independent draws, shape (n, d)."""
        values, vectors = self.eigen
        u = stream.child("component").uniform(n, dtype=torch.float64)
        index = torch.searchsorted(self.weights.double().cumsum(0), u, right=True).clamp_max(len(self.weights) - 1)
        z = stream.child("normal").normal(n, self.means.shape[1:], dtype=torch.float64)
        x = self.means.double()[index] + torch.einsum(
            "nde,ne->nd", vectors.double()[index], values.double().sqrt()[index] * z
        )
        return x.to(dtype)

    def posterior(self, matrix: Tensor, observation: Tensor, sigma: float) -> tuple[GaussianMixture, Tensor]:
        """The law of x given y = A x + σ n, and log p(y).

            S_k = A C_k Aᵀ + σ² I,  K_k = C_k Aᵀ S_k⁻¹
            m'_k = m_k + K_k (y − A m_k),  C'_k = C_k − K_k A C_k,  w'_k ∝ w_k N(y; A m_k, S_k)

        Args:
            matrix: A, shape (m, d).
            observation: y, shape (m,).
            sigma: standard deviation of the noise, > 0.
        """
        innovation = matrix @ self.covariances @ matrix.T + sigma**2 * torch.eye(len(matrix), dtype=matrix.dtype)
        residual = observation - self.means @ matrix.T
        gain = torch.linalg.solve(innovation, matrix @ self.covariances).transpose(1, 2)
        factor = torch.linalg.cholesky(innovation)
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(-1)
        log_joint = self.weights.log() - 0.5 * ((white**2).sum(-1) + log_det + len(observation) * math.log(2 * math.pi))
        means = self.means + torch.einsum("kdm,km->kd", gain, residual)
        covariances = self.covariances - gain @ matrix @ self.covariances
        covariances = 0.5 * (covariances + covariances.transpose(1, 2))
        log_evidence = log_joint.logsumexp(0)
        return GaussianMixture((log_joint - log_evidence).exp(), means, covariances), log_evidence


@dataclass(frozen=True)
class _Common:
    """Components N(m_k, C) of one covariance, seen at one noise level: C_t = α² C + σ² I.

        log r_k = log w_k + α μ_kᵀ C_t⁻¹ z − α² μ_kᵀ C_t⁻¹ μ_k / 2 + const,   z = x − α c,   μ_k = m_k − c
        D = c + α C C_t⁻¹ z + Σ_k r_k ν_k,   Cov = σ² C C_t⁻¹ + Σ_k r_k ν_k ν_kᵀ − (Σ_k r_k ν_k)(Σ_k r_k ν_k)ᵀ

    with ν_k = σ² C_t⁻¹ μ_k and c the centre of the m_k.

    Args:
        centre: α c, (d,).
        towards: α C_t⁻¹ μ_k, (d, k).
        offset: what each log r_k has besides, (k,).
        gain: α C C_t⁻¹, (d, d).
        middle: c, (d,).
        known: ν_k, (k, d).
        within: σ² C C_t⁻¹, (d, d).
    """

    centre: Tensor
    towards: Tensor
    offset: Tensor
    gain: Tensor
    middle: Tensor
    known: Tensor
    within: Tensor

    @classmethod
    def at(cls, mixture: GaussianMixture, alpha: Tensor, sigma: Tensor) -> _Common:
        middle, (values, vectors) = mixture.means.mean(0), (part[0] for part in mixture.eigen)
        variances = alpha**2 * values + sigma**2
        rotated = (mixture.means - middle) @ vectors
        offset = mixture.weights.log() - 0.5 * (alpha * rotated).square() @ (1 / variances)
        towards = vectors @ (alpha / variances * rotated).T
        gain, within = ((vectors * (factor * values / variances)) @ vectors.T for factor in (alpha, sigma**2))
        known = (sigma**2 / variances * rotated) @ vectors.T
        return cls(alpha * middle, towards, offset, gain, middle, known, within)

    def _responsibilities(self, seen: Tensor) -> Tensor:
        return torch.addmm(self.offset, seen, self.towards).softmax(-1)

    def denoised(self, x: Tensor) -> Tensor:
        seen = x - self.centre
        return torch.addmm(torch.addmm(self.middle, seen, self.gain), self._responsibilities(seen), self.known)

    def covariance(self, x: Tensor) -> Tensor:
        responsibilities = self._responsibilities(x - self.centre)
        squares = (self.known[:, :, None] * self.known[:, None]).flatten(1)
        second = torch.addmm(self.within.flatten(), responsibilities, squares)
        first = responsibilities @ self.known
        return second.unflatten(1, self.within.shape) - first[:, :, None] * first[:, None]


@dataclass(frozen=True)
class MixtureDenoiser:
    """The exact denoiser of a Gaussian mixture, with its exact posterior covariance.

        D(x) = Σ_k r_k(x) D_k(x),   r_k ∝ w_k N(x; α m_k, α² C_k + σ² I)
        D_k(x) = m_k + α C_k (α² C_k + σ² I)⁻¹ (x − α m_k)

    Exactness: exact at every noise level, both ends included when C_k is positive definite.
    Cost: O(k d²) per row; O(k d + d²) with one covariance for all components, at one time for all rows.
    Bias: none.
    Args:
        mixture: the law of the data; one component makes it the Gaussian denoiser with full covariance.
        schedule: noise levels.
    Source: conjugacy; e.g. Bishop (2006), Pattern recognition and machine learning, eq. 2.116.
    """

    mixture: GaussianMixture
    schedule: Schedule

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mixture.means.shape[1:])

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Exact draws of α x₁ + σ x₀."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        x1 = self.mixture.sample(n, stream.child("data"), dtype)
        return alpha * x1 + sigma * stream.child("base").normal(n, self.shape, dtype=dtype)

    def _law(self, x: Tensor, t: Time) -> tuple[GaussianMixture, Tensor, Tensor]:
        alpha, sigma = self.schedule.alpha(t).to(x.dtype), self.schedule.sigma(t).to(x.dtype)
        if alpha.ndim:
            alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        return _like(self.mixture, x), alpha, sigma

    def _responsible(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Responsibilities r_k (n, k), and D_k − m_k in the eigenbasis of each component (n, k, d)."""
        mixture, alpha, sigma = self._law(x, t)
        values, _ = mixture.eigen
        rotated = mixture._rotated(x, alpha)
        variances = alpha**2 * values + sigma**2
        log_weights = mixture.weights.log() - 0.5 * (rotated**2 / variances + variances.log()).sum(-1)
        return log_weights.softmax(-1), alpha * values / variances * rotated

    def _common(self, x: Tensor, t: Time) -> _Common | None:
        """What the rows need where components and rows share all but the means; None where they do not."""
        mixture, alpha, sigma = self._law(x, t)
        return None if alpha.ndim or not mixture.is_common else _Common.at(mixture, alpha, sigma)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        common = self._common(x, t)
        if common is not None:
            return common.denoised(x)
        responsibilities, shrunk = self._responsible(x, t)
        mixture = _like(self.mixture, x)
        basis = mixture.eigen[1].transpose(1, 2).flatten(0, 1)
        return responsibilities @ mixture.means + (responsibilities[..., None] * shrunk).flatten(1) @ basis

    def covariance(self, x: Tensor, t: Time) -> Tensor:
        """Cov[x₁ | x_t = x] = (σ²/α) ∂D/∂x, shape (n, d, d), by the law of total covariance."""
        common = self._common(x, t)
        if common is not None:
            return common.covariance(x)
        responsibilities, shrunk = self._responsible(x, t)
        mixture, alpha, sigma = self._law(x, t)
        values, vectors = mixture.eigen
        means = mixture.means + torch.einsum("nke,kde->nkd", shrunk, vectors)
        centred = means - (responsibilities[..., None] * means).sum(1, keepdim=True)
        within = sigma**2 * values / (alpha**2 * values + sigma**2)
        projectors = torch.einsum("kde,kfe->kedf", vectors, vectors).flatten(0, 1).flatten(1)  # one per eigenvector
        inner = (responsibilities[..., None] * within).flatten(1) @ projectors
        between = (responsibilities[..., None] * centred).transpose(1, 2) @ centred
        return inner.reshape(between.shape) + between

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        """log p_t(x), shape (n,)."""
        mixture, alpha, sigma = self._law(x, t)
        return mixture.noised_components(x, alpha, sigma).logsumexp(-1)


def _like(mixture: GaussianMixture, x: Tensor) -> GaussianMixture:
    """The mixture in the dtype and on the device of the state; the copy (and its eigenbasis) is made once."""
    key = x.dtype, x.device
    if (mixture.means.dtype, mixture.means.device) == key:
        return mixture
    cached = mixture.__dict__.setdefault("_copies", {})
    if key not in cached:
        cached[key] = mixture.to(*key)
    return cached[key]


def GaussianDenoiser(mean: Tensor, covariance: Tensor, schedule: Schedule) -> MixtureDenoiser:
    """The exact denoiser of N(mean, covariance): the mixture of one component.

    Args:
        mean: shape (d,).
        covariance: shape (d, d).
        schedule: noise levels.
    """
    return MixtureDenoiser(GaussianMixture(mean.new_ones(1), mean[None], covariance[None]), schedule)


@dataclass(frozen=True)
class EmpiricalDenoiser:
    """The exact denoiser of a finite data set, each point blurred by an isotropic Gaussian of width s.

        D(x) = Σ_i r_i(x) (σ² x_i + α s² x)/(σ² + α² s²),   r_i ∝ exp(−‖x − α x_i‖² / 2(σ² + α² s²))

    Exactness: exact for the blurred empirical law; s = 0 is what a network without inductive bias would memorise.
    Cost: O(points × d) per row.
    Bias: none for the empirical law; it says nothing of the population.
    Args:
        points: x_i, shape (points, *shape).
        schedule: noise levels.
        width: s [data units].
    Source: Karras et al. (2022), eq. 57, with a kernel.
    """

    points: Tensor
    schedule: Schedule
    width: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.points.shape[1:])

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Exact draws of α x₁ + σ x₀."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        index = (stream.child("point").uniform(n, dtype=torch.float64) * len(self.points)).long()
        width = math.sqrt(sigma**2 + (alpha * self.width) ** 2)
        return alpha * self.points.to(dtype)[index] + width * stream.child("base").normal(n, self.shape, dtype=dtype)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        points, flat = placed(self.points, x.device, x.dtype).flatten(1), x.flatten(1)
        alpha, sigma = (broadcast(level(t), flat) for level in (self.schedule.alpha, self.schedule.sigma))
        variance = sigma**2 + (alpha * self.width) ** 2
        centre = points.mean(0)  # centring keeps the digits of ‖x − α x_i‖² that matter
        shifted, targets = flat - alpha * centre, points - centre
        log_weights = (alpha * shifted @ targets.T - 0.5 * alpha**2 * (targets**2).sum(-1)) / variance
        mean = log_weights.softmax(-1) @ targets + centre
        return ((sigma**2 * mean + alpha * self.width**2 * flat) / variance).reshape(x.shape)
