"""The path-weighted samplers that the laws run over, their proposals rebuilt from dense matrices, and two problems."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sciflow.diffusion.flow import transition
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import DAS, DOIT, FPS, SVDD, TDS, Dense, FKSteering, GaussianLikelihood, MCGDiff, WeightedDPS
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.steered import SteeredPosterior
from sciflow.particles import NestedModel, smc
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.steering.guides import Steered, reference
from sciflow.steering.twisted import TwistedModel

NEVER, ADAPTIVE, ALWAYS = 1e-9, 0.5, 1.0
CASES: dict[str, SteeredPosterior] = {
    "tds isotropic": TDS(),
    "tds denoised": TDS(twist="denoised", eta=0.7, alpha=1.7),
    "das schedule": DAS(),
    "das adaptive": DAS(adaptive=True),
    "weighted_dps": WeightedDPS(scale=0.7),
    "fk_steering difference": FKSteering(spread=1.3),
    "fk_steering max": FKSteering(potential="max", strength=0.3),
    "fk_steering sum": FKSteering(potential="sum", interval=2, strength=0.2),
    "fk_steering reward": FKSteering(potential="reward", interval=2, strength=0.5),
    "doit": DOIT(alpha=0.8),
    "doit frozen": DOIT(n_looks=3, variance=None),
    "svdd": SVDD(n_children=3),
    "mcgdiff": MCGDiff(eta=0.6),
    "fps": FPS(spread=2.0),
}
SIGMA = 0.7


def asymmetric() -> tuple[GaussianMixture, GaussianLikelihood]:
    """Three unequal modes in two dimensions; the observation favours none of them by symmetry."""
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    means = torch.tensor([[-1.5, 0.3], [1.0, 1.2], [1.7, -1.0]], dtype=torch.float64)
    factors = torch.tensor([[[0.6, 0.0], [0.3, 0.4]], [[0.8, 0.0], [-0.4, 0.5]], [[0.4, 0.0], [0.1, 0.9]]]).double()
    likelihood = GaussianLikelihood(torch.tensor([1.1]).double(), Dense.of(torch.tensor([[0.6, 0.9]]).double()), SIGMA)
    return GaussianMixture(weights, means, factors @ factors.mT), likelihood


def gaussian_problem() -> tuple[MixtureDenoiser, GaussianLikelihood, Tensor]:
    covariance = torch.tensor([[1.2, 0.4], [0.4, 0.5]], dtype=torch.float64)
    prior = GaussianDenoiser(torch.tensor([0.7, -0.4], dtype=torch.float64), covariance, EDM())
    likelihood = GaussianLikelihood(torch.tensor([2.0]).double(), Dense.of(torch.tensor([[1.0, 0.5]]).double()), SIGMA)
    return prior, likelihood, LogSNR(5, ratio_max=20.0, ratio_min=0.3)(EDM())


def twin(sampler: SteeredPosterior, prior: MixtureDenoiser, likelihood: Likelihood, times: Tensor) -> Particles:
    """The discretised prior weighted by the likelihood at its end, and by nothing before: plain importance sampling."""
    reward = likelihood.on(prior.shape).log_prob
    guide = Steered(prior, reward, lambda x, t, data: torch.zeros(len(x), dtype=torch.float64), reference)
    levels = sampler.model(prior, likelihood, times)
    levels = (levels.model if isinstance(levels, NestedModel) else levels).levels
    model = TwistedModel(prior, guide, levels, likelihood.observation, None, sampler.eta, 8192, sampler.spread)
    with torch.no_grad():
        return smc(model, 100_000, Stream(99), ess_threshold=NEVER)


@dataclass
class Step:
    """What a proposal may know of one particle's move, rebuilt without the code under test."""

    sampler: SteeredPosterior
    prior: MixtureDenoiser
    likelihood: GaussianLikelihood
    x: Tensor
    a: float
    b: float
    power: float  # of the twist at x
    z: Tensor  # looks ahead, (m, d)

    @property
    def levels(self) -> tuple[float, float, float, float]:
        schedule = self.prior.schedule
        return tuple(float(level(t)) for t in (self.a, self.b) for level in (schedule.alpha, schedule.sigma))

    def reference(self) -> MultivariateNormal:
        mean, s = transition(self.prior, self.x, self.prior(self.x[None], self.a)[0], self.a, self.b, self.sampler.eta)
        variance = s**2
        if self.sampler.spread is not None:
            alpha, sigma, *_ = self.levels
            variance += self.pull**2 * self.sampler.spread * sigma**2 / (sigma**2 + alpha**2 * self.sampler.spread)
        return MultivariateNormal(mean, variance * torch.eye(2, dtype=torch.float64))

    @property
    def pull(self) -> float:
        alpha, sigma, alpha_b, sigma_b = self.levels
        zeta = 1 - (alpha * sigma_b / (alpha_b * sigma)) ** 2
        return alpha_b - sigma_b * math.sqrt(1 - self.sampler.eta**2 * zeta) / sigma * alpha

    def moved(self, shift: Tensor) -> MultivariateNormal:
        p = self.reference()
        return MultivariateNormal(p.mean + shift, p.covariance_matrix)

    def slope(self, value: Callable[[Tensor], Tensor]) -> Tensor:
        """∇ value(x) by central differences of fourth order; error about h⁴ = 1e-12, rounding 1e-16/h = 1e-13."""
        h, eye = 1e-3, torch.eye(2, dtype=torch.float64)
        at = {k: torch.stack([value(self.x + k * h * unit) for unit in eye]) for k in (-2, -1, 1, 2)}
        return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)

    def misfit(self, x: Tensor) -> Tensor:
        return (self.likelihood.observation - self.likelihood.operator.matrix @ self.prior(x[None], self.a)[0])[0]


def twist_of(step: Step, x: Tensor) -> Tensor:
    """log h of the gradient samplers, up to a constant."""
    alpha, sigma, *_ = step.levels
    squared = step.likelihood.operator.matrix.square().sum()
    width = sigma**2 / (sigma**2 + alpha**2) * squared if getattr(step.sampler, "twist", "") == "isotropic" else 0.0
    return -0.5 * step.misfit(x) ** 2 / (SIGMA**2 + width) / getattr(step.sampler, "alpha", 1.0)


def by_gradient(step: Step) -> MultivariateNormal:
    alpha, sigma, *_ = step.levels
    return step.moved(step.pull * sigma**2 / alpha * step.power * step.slope(lambda x: twist_of(step, x)))


def by_dps(step: Step) -> MultivariateNormal:
    alpha, sigma, *_ = step.levels
    along = step.slope(lambda x: -step.sampler.scale * step.misfit(x).abs() / SIGMA)
    return step.moved(step.pull * sigma**2 / alpha * along)


def by_looking(step: Step) -> MultivariateNormal:
    _, _, alpha, sigma = step.levels
    v, s = step.sampler.variance, step.reference().covariance_matrix[0, 0].sqrt()
    gain = 1 / alpha if v is None else alpha * v / (alpha**2 * v + sigma**2)
    data = step.prior(step.x[None], step.a)[0]
    values = torch.stack([step.likelihood.log_prob((data + gain * s * z)[None])[0] for z in step.z])
    weights = (values / step.sampler.alpha).softmax(0) - 1 / len(step.z)
    return step.moved(s * weights @ step.z)


def by_measurement(step: Step) -> MultivariateNormal:
    """p(x') N(α y; A x', S)/normalisation, by information matrices."""
    _, _, alpha, sigma = step.levels
    matrix, p = step.likelihood.operator.matrix, step.reference()
    squared = float(matrix.square().sum())
    variance = sigma**2 * squared + alpha**2 * SIGMA**2
    if isinstance(step.sampler, MCGDiff):
        variance = sigma**2 * squared - alpha**2 * SIGMA**2
        if variance < -1e-6 * alpha**2 * SIGMA**2:
            return p
        variance = max(variance, 1e-6 * alpha**2 * SIGMA**2)
    precision = torch.linalg.inv(p.covariance_matrix)
    total = precision + matrix.T @ matrix / variance
    mean = torch.linalg.solve(total, precision @ p.mean + matrix[0] * alpha * step.likelihood.observation[0] / variance)
    return MultivariateNormal(mean, precision_matrix=total)


def by_reference(step: Step) -> MultivariateNormal:
    return step.reference()


PROPOSALS: dict[type, Callable[[Step], MultivariateNormal]] = {
    TDS: by_gradient, DAS: by_gradient, WeightedDPS: by_dps, FKSteering: by_reference, DOIT: by_looking,
    MCGDiff: by_measurement, FPS: by_measurement,
}  # fmt: skip
