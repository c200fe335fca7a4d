"""Marginal weights against closed forms: annealing of two mixtures, and a half-observed Gaussian.

GMM-40: forty Gaussians in the plane, cubed (the protocol of Feynman–Kac correctors, our own draw of the means). d = 30:
eight unit Gaussians, squared. Linear Gaussian: N(0, I), half of the coordinates observed with σ = 0.3. Exact denoisers
in float64; every method sees the same grid; means over seeds with their standard errors. The evidence is compared with
that of the law at the last noise level. Calls are counted: network calls for each particle and step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rows import Row
from torch import Tensor

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.mixture_algebra import power
from sciflow.diffusion.schedule import EDM, Scaled, Schedule
from sciflow.diffusion.times import LogSNR
from sciflow.domains.analytic.simulate import MixturePower
from sciflow.inverse.dense import Dense
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.noised import NoisedLikelihood
from sciflow.metrics.particle import sliced_w2
from sciflow.particles.feynman_kac import smc
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.steering.control import Control
from sciflow.steering.marginal import marginal
from sciflow.steering.target import TargetPath, annealed, tilted

METHODS: dict[str, dict[str, object]] = {
    "first order, target score": {"order": 1},
    "first order, kernel ratio": {"weights": "kernel_ratio"},
    "second order": {},
    "second order, control": {"control": Control()},
}


@dataclass(frozen=True)
class Problem:
    """A target path with what its draws should be."""

    name: str
    path: Callable[[MixtureDenoiser | Counted], TargetPath]
    prior: MixtureDenoiser
    law: GaussianMixture
    log_constant: float
    n_particles: int
    n_steps: int


def noised(law: GaussianMixture, u: float) -> GaussianMixture:
    eye = torch.eye(law.means.shape[1], dtype=torch.float64)
    return GaussianMixture(law.weights, law.means, law.covariances + u**2 * eye)


def levels(schedule: Schedule, n_steps: int, low: float) -> Tensor:
    return LogSNR(n_steps, ratio_max=20.0, ratio_min=low)(schedule)


def annealing(name: str, law: GaussianMixture, beta: int, n_particles: int, n_steps: int) -> Problem:
    """A whole power of a mixture, as it is at the last noise level."""
    schedule = Scaled(EDM(), float(law.covariance().diagonal().mean().sqrt()))
    end = float(schedule.sigma(levels(schedule, n_steps, 0.005)[-1]))
    target, constant, _ = power(noised(law, end), beta, drop=1e-9)
    prior = MixtureDenoiser(law, schedule)
    return Problem(name, lambda expert: annealed(expert, float(beta)), prior, target, constant, n_particles, n_steps)


def eight_modes() -> GaussianMixture:
    weights = torch.linspace(1, 2, 8, dtype=torch.float64)
    means = 3 * Stream(30).normal(8, (30,), dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, torch.eye(30, dtype=torch.float64).repeat(8, 1, 1))


def run(problem: Problem, seed: int, options: dict[str, object]) -> tuple[Particles, float]:
    """Particles, and network calls for each particle and step."""
    counted = Counted(problem.prior)
    times = levels(problem.prior.schedule, problem.n_steps, 0.005)
    model = marginal(problem.path(counted), times, **options)
    particles = smc(model, problem.n_particles, Stream(seed, ("benchmark", problem.name), tile=1024))
    return particles, counted.rows / problem.n_particles / problem.n_steps


def distance(problem: Problem, x: Tensor, log_weights: Tensor, seed: int) -> float:
    exact = problem.law.sample(problem.n_particles, Stream(seed, ("exact",)))
    return sliced_w2(exact[None], x[None], log_weights=log_weights[None])["sliced_w2"].value


def mode_error(problem: Problem, modes: Tensor, x: Tensor, log_weights: Tensor) -> float:
    """Total variation of the weights of the modes, each the sum of its components."""
    shares = log_weights.softmax(0) @ problem.law.components(x).softmax(-1) - problem.law.weights
    return float(shares.new_zeros(int(modes.max()) + 1).index_add_(0, modes, shares).abs().sum() / 2)


def mean(claim: str, values: Sequence[float], target: float | None = None) -> Row:
    """Mean and standard error over seeds; the verdict is on the mean."""
    value, stderr = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    return Row(claim, value, stderr, target, None if target is None else value <= target)


def annealed_rows(problem: Problem, modes: Tensor, n_seeds: int, with_distance: bool) -> list[Row]:
    """Every method on one problem; targets are for the last one."""
    found = []
    equal = torch.zeros(problem.n_particles, dtype=torch.float64)
    fresh = [problem.law.sample(problem.n_particles, Stream(seed, ("fresh",))) for seed in range(n_seeds)]
    floor = statistics.fmean(distance(problem, x, equal, seed) for seed, x in enumerate(fresh)) if with_distance else 0
    least = [mode_error(problem, modes, x, equal) for x in fresh]
    found.append(mean(f"{problem.name}, exact draws: mode-weight TV", least))
    for method, options in METHODS.items():
        runs = [run(problem, seed, options) for seed in range(n_seeds)]
        is_last = options.get("control") is not None
        label = f"{problem.name}, {method}"
        values = [mode_error(problem, modes, p.x, p.log_weights) for p, _ in runs]
        found.append(mean(f"{label}: mode-weight TV", values, 0.05 if is_last else None))
        bias = [p.log_evidence - problem.log_constant for p, _ in runs]
        found.append(bias_row(label, bias, 0.05 if is_last else None))
        if with_distance:
            distances = [distance(problem, p.x, p.log_weights, seed) / floor for seed, (p, _) in enumerate(runs)]
            found.append(mean(f"{label}: sliced W2 over that of exact draws", distances, 2.0 if is_last else None))
        found.append(mean(f"{label}: resamplings", [float(p.n_resampled) for p, _ in runs]))
        found.append(mean(f"{label}: network calls per step", [calls for _, calls in runs]))
    return found


def bias_row(label: str, bias: Sequence[float], target: float | None) -> Row:
    value, stderr = statistics.fmean(bias), statistics.stdev(bias) / math.sqrt(len(bias))
    return Row(f"{label}: log Ẑ − log Z", value, stderr, target, None if target is None else abs(value) <= target)


def half_observed(d: int, n_particles: int, n_steps: int) -> Problem:
    """N(0, I), the first half of the coordinates observed with σ = 0.3."""
    law = GaussianMixture(torch.ones(1).double(), torch.zeros(1, d).double(), torch.eye(d).double()[None])
    matrix = torch.eye(d, dtype=torch.float64)[: d // 2]
    truth = law.sample(1, Stream(5, ("truth",)))[0]
    y = matrix @ truth + 0.3 * Stream(5, ("noise",)).normal(d // 2, dtype=torch.float64)
    posterior, evidence = law.posterior(matrix, y, 0.3)
    prior = MixtureDenoiser(law, EDM())
    potential = NoisedLikelihood(GaussianLikelihood(y, Dense.of(matrix), 0.3), prior.schedule)
    path, name = (lambda expert: tilted(expert, potential)), f"linear Gaussian d={d}"
    return Problem(name, path, prior, posterior, float(evidence), n_particles, n_steps)


def tilted_rows(problem: Problem, n_seeds: int) -> list[Row]:
    found, d = [], problem.law.means.shape[1]
    control = Control(("position", "score", "gradient"))
    for method, options in (("half guidance", {}), ("half guidance, control", {"control": control})):
        runs = [run(problem, seed, options) for seed in range(n_seeds)]
        label = f"{problem.name}, {method}"
        bias = [p.log_evidence - problem.log_constant for p, _ in runs]
        found.append(bias_row(label, bias, 0.1 if options else None))
        ratios = [p.var() / problem.law.covariances[0].diagonal() for p, _ in runs]
        found.append(mean(f"{label}: variance ratio, observed", [float(r[: d // 2].mean()) for r in ratios]))
        found.append(mean(f"{label}: variance ratio, unobserved", [float(r[d // 2 :].mean()) for r in ratios]))
        found.append(mean(f"{label}: network calls per step", [calls for _, calls in runs]))
    return found


def rows(quick: bool) -> list[Row]:
    """All rows; quick: few particles, steps and seeds, which show that it runs."""
    n_particles, n_steps, n_seeds = (300, 20, 2) if quick else (4000, 200, 10)
    dataset = MixturePower(n_components=40)
    forty = annealing("GMM-40, power 3", dataset.law(Stream(0)), 3, n_particles, n_steps)
    modes = nearest(forty.law, dataset.law(Stream(0)))
    found = annealed_rows(forty, modes, n_seeds, with_distance=True)
    eight = annealing("8 modes in d=30, power 2", eight_modes(), 2, n_particles // 2, n_steps)
    found += annealed_rows(eight, nearest(eight.law, eight_modes()), n_seeds, with_distance=False)
    for d in (8, 32, 128):
        found += tilted_rows(half_observed(d, n_particles // 2, n_steps), max(2, n_seeds // 2))
    return found


def nearest(law: GaussianMixture, modes: GaussianMixture) -> Tensor:
    """The mode whose mean is nearest, for each component: a partition, whose weights are exact sums."""
    return torch.cdist(law.means, modes.means).argmin(1)
