"""Target paths that the laws of steering share: mixtures without symmetry, and one path of each kind."""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Schedule
from sciflow.inverse.dense import Dense
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.noised import NoisedLikelihood
from sciflow.random import Stream
from sciflow.steering.target import RaisedReward, TargetPath, annealed, geometric, tilted
from sciflow.steering.target import product as of_experts

END = 0.02  # last noise ratio u of the runs


def mixture(seed: int, d: int = 2, k: int = 3, spread: float = 1.5) -> GaussianMixture:
    """Unequal weights, means and covariances: nothing symmetric for a sign error to hide behind."""
    stream = Stream(seed)
    factors = 0.4 * stream.child("factors").normal(k, (d, d), dtype=torch.float64)
    covariances = factors @ factors.mT + 0.3 * torch.eye(d, dtype=torch.float64)
    weights = torch.arange(1.0, k + 1, dtype=torch.float64)
    means = spread * stream.child("means").normal(k, (d,), dtype=torch.float64) + 0.5
    return GaussianMixture(weights / weights.sum(), means, covariances)


def noised(law: GaussianMixture, u: float = END) -> GaussianMixture:
    eye = torch.eye(law.means.shape[1], dtype=torch.float64)
    return GaussianMixture(law.weights, law.means, law.covariances + u**2 * eye)


def likelihood(d: int) -> GaussianLikelihood:
    matrix = torch.linspace(-0.4, 1.0, 2 * d, dtype=torch.float64).reshape(2, d)
    return GaussianLikelihood(torch.tensor([0.8, -0.5], dtype=torch.float64), Dense.of(matrix), 0.5)


def skewed(x: Tensor) -> Tensor:
    """A reward without any symmetry."""
    return torch.sin(x[:, 0] + 0.3) - 0.2 * (x**2).sum(1) * torch.sigmoid(x[:, -1])


def paths(schedule: Schedule, d: int) -> dict[str, TargetPath]:
    one, two, three = (MixtureDenoiser(mixture(seed, d), schedule) for seed in (1, 2, 3))
    return {
        "annealed": annealed(one, 2.5),
        "geometric": geometric(one, two, 1.7),
        "product": of_experts((one, two), 1.3),
        "weighted": TargetPath((one, two, three), (1.2, -0.3, 0.6)),
        "moving": TargetPath((one, two), (lambda t: 0.5 + t**2, lambda t: 1.0 - 0.4 * t)),
        "reward": tilted(one, RaisedReward(skewed, schedule)),
        "likelihood": tilted(one, NoisedLikelihood(likelihood(d), schedule)),
        "all": TargetPath((one, two), (1.6, -0.4), RaisedReward(skewed, schedule)),
    }


def log_gamma(path: TargetPath, x: Tensor, t: Tensor) -> Tensor:
    """log γ_t(x) with a differentiable time."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for expert, beta in zip(path.experts, path.powers, strict=True):
        strength = beta(t) if callable(beta) else beta
        total = total + strength * expert.log_prob(x, t)
    return total if path.potential is None else total + potential_in_time(path, x, t)


def potential_in_time(path: TargetPath, x: Tensor, t: Tensor) -> Tensor:
    """The two potentials of these tests, written out with a differentiable time."""
    z, spread = x / path.schedule.alpha(t), (path.schedule.sigma(t) / path.schedule.alpha(t)) ** 2
    if isinstance(path.potential, RaisedReward):
        return skewed(z) / (1 + spread)
    assert isinstance(path.potential, NoisedLikelihood)
    given = path.potential.likelihood
    matrix = given.operator.matrix
    covariance = given.sigma**2 * torch.eye(2, dtype=torch.float64) + spread * matrix @ matrix.T
    law = torch.distributions.MultivariateNormal(given.observation, covariance)
    return law.log_prob(z @ matrix.T)


def divergence(field: Tensor, x: Tensor) -> Tensor:
    parts = [torch.autograd.grad(field[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(x.shape[1])]
    return torch.stack(parts, 1).sum(1)


class Curved(RaisedReward):
    """`skewed` with its exact Laplacian."""

    def laplacian(self, x: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            state = x.detach().clone().requires_grad_()
            gradient = torch.autograd.grad(self(state, t).sum(), state, create_graph=True)[0]
            return divergence(gradient, state).detach()
