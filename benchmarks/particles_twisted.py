"""Path-space samplers against closed forms: a Gaussian half observed, and the 25 modes of MCGDiff's problem.

(a) A Gaussian with covariance 0.6^|i−j| in d dimensions, every other coordinate observed with noise 0.3. The denoiser
    hides its covariance, as a network does. Error of the log-evidence, ratio of the sampler's variances to the exact
    ones in observed and in unobserved coordinates (1 is exact; below, the ensemble is impoverished), over seeds; cost
    in calls of the denoiser and backward passes through it, per particle and level, counted.
    Target: at d = 128 |Δ log Z| ≤ 0.1 and both variances within 3 %, with the twist from the denoiser's derivative.
(b) MCGDiff's mixture of 25 Gaussians in 8 dimensions (Cardoso et al., 2024), built with their seed: 1000 draws of the
    posterior against 10 000 exact ones, largest Wasserstein-2 distance over 100 directions. MCGDiff itself, stated
    anew here, makes each draw by a filter of its own of 128 particles and 100 levels, as they did. Ours takes 1000
    draws of one ensemble, with fewer denoiser calls in all, backward passes counted as calls.
    Target: below the distance of their stored run at every number of measurements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rows import Row
from torch import Tensor

from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM
from sciflow.diffusion.times import LogSNR
from sciflow.inverse.by_gradient import DAS, TDS, WeightedDPS
from sciflow.inverse.by_measurement import FPS, MCGDiff
from sciflow.inverse.by_value import DOIT, SVDD, FKSteering, GreedySVDD
from sciflow.inverse.dense import Dense
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.posterior import TwistedSMC
from sciflow.random import Stream

NOISE, CORRELATION = 0.3, 0.6
MOST_ERROR, MOST_RATIO = 0.1, 0.03
PUBLISHED = {1: 5.23, 2: 4.28, 4: 0.18}
"""Stored run of MCGDiff with 128 particles: number of measurements → largest sliced distance."""


class _Tally(torch.autograd.Function):
    """Identity that counts the rows that gradients flow back through."""

    @staticmethod
    def forward(context: Any, data: Tensor, count: list[int]) -> Tensor:
        context.count = count
        return data.view_as(data)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        context.count[0] += len(gradient)
        return gradient, None


@dataclass
class Opaque:
    """A denoiser that hides its covariance and counts rows of calls and of backward passes."""

    prior: MixtureDenoiser

    def __post_init__(self) -> None:
        self.schedule, self.shape, self.initial = self.prior.schedule, self.prior.shape, self.prior.initial
        self.calls, self.passes = 0, [0]

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        self.calls += len(x)
        return _Tally.apply(self.prior(x, t), self.passes)


# (a) -------------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    """A sampler for n particles and the number of levels it is given."""

    make: Callable[[int], Any]
    n: int
    levels: int
    largest: int = 128  # dimension


METHODS = {
    "twisted SMC, covariance by differentiating": Method(lambda n: TwistedSMC(n, "jacobian"), 400, 20),
    "twisted SMC, measured spread by differentiating": Method(lambda n: TwistedSMC(n), 1000, 300, 32),
    "twisted SMC, isotropic": Method(lambda n: TwistedSMC(n, "pigdm", variance=1.0), 2000, 300),
    "TDS, isotropic, large variance": Method(lambda n: TDS(n, variance=1.0, spread=1.0), 2000, 300),
    "TDS, isotropic": Method(lambda n: TDS(n, variance=1.0), 2000, 300),
    "TDS, likelihood at D": Method(lambda n: TDS(n, twist="denoised"), 2000, 300),
    "DAS, scheduled": Method(lambda n: DAS(n), 2000, 300),
    "DAS, adaptive": Method(lambda n: DAS(n, adaptive=True), 2000, 300),
    "DPS with weights": Method(lambda n: WeightedDPS(n), 2000, 300),
    "FK-steering, difference": Method(lambda n: FKSteering(n), 2000, 300),
    "FK-steering, max": Method(lambda n: FKSteering(n, potential="max", interval=60), 2000, 300),
    "FK-steering, sum": Method(lambda n: FKSteering(n, potential="sum", interval=60, strength=0.2), 2000, 300),
    "FK-steering, reward": Method(lambda n: FKSteering(n, potential="reward", interval=60), 2000, 300),
    "DOIT as proposal": Method(lambda n: DOIT(n), 2000, 300),
    "SVDD, nested": Method(lambda n: SVDD(n), 500, 300),
    "SVDD, argmax (no target)": Method(lambda n: GreedySVDD(n), 500, 300),
    "MCGDiff": Method(lambda n: MCGDiff(n, spread=1.0), 2000, 300),
    "FPS": Method(lambda n: FPS(n, spread=1.0), 2000, 300),
}
BEST = next(iter(METHODS))


def half_observed(d: int) -> tuple[MixtureDenoiser, GaussianLikelihood, Tensor]:
    """Prior, likelihood and which coordinates are observed."""
    place = torch.arange(d)
    covariance = (CORRELATION ** (place[:, None] - place).abs()).double()
    prior = GaussianDenoiser(torch.linspace(-1, 1, d, dtype=torch.float64), covariance, EDM())
    matrix = torch.eye(d, dtype=torch.float64)[::2]
    truth, stream = prior.mixture.sample(1, Stream(7))[0], Stream(8)
    y = matrix @ truth + NOISE * stream.normal(len(matrix), dtype=torch.float64)
    return prior, GaussianLikelihood(y, Dense.of(matrix), NOISE), place % 2 == 0


def gaussian_rows(name: str, method: Method, d: int, n_seeds: int, quick: bool) -> list[Row]:
    """Evidence, variances and cost of one sampler; means over seeds."""
    prior, likelihood, observed = half_observed(d)
    exact, log_evidence = prior.mixture.posterior(likelihood.operator.matrix, likelihood.observation, NOISE)
    variance = exact.covariances[0].diagonal()
    n, levels = (method.n // 4, min(method.levels, 40)) if quick else (method.n, method.levels)
    times = LogSNR(levels, ratio_max=100.0, ratio_min=0.01)(EDM())
    found, opaque = [], Opaque(prior)
    for seed in range(n_seeds):
        run = method.make(n)(opaque, likelihood, times, 1, Stream(seed))
        ratio = run.var() / variance
        found.append(
            [run.log_evidence - float(log_evidence), float(ratio[observed].mean()), float(ratio[~observed].mean())]
        )
    values = torch.tensor(found, dtype=torch.float64)
    mean, error = values.mean(0).tolist(), (values.std(0) / math.sqrt(n_seeds)).tolist()
    judge = name == BEST and d == 128 and not quick
    looks = n_seeds * n * (levels + 1)
    where = f"(a) d = {d}, {name}"
    return [
        _near(f"{where}: Δ log Z", mean[0], error[0], 0.0, MOST_ERROR if judge else None),
        _near(f"{where}: variance, observed", mean[1], error[1], 1.0, MOST_RATIO if judge else None),
        _near(f"{where}: variance, unobserved", mean[2], error[2], 1.0, MOST_RATIO if judge else None),
        Row(f"{where}: calls per particle and level", opaque.calls / looks, 0.0),
        Row(f"{where}: backward passes per particle and level", opaque.passes[0] / looks, 0.0),
    ]  # fmt: skip


def _near(claim: str, value: float, stderr: float, aim: float, most: float | None) -> Row:
    """A row for |value − aim|, judged where a most is given."""
    if most is None:
        return Row(claim, value, stderr)
    return Row(f"{claim}, distance to {aim:g}", abs(value - aim), stderr, most, abs(value - aim) <= most)


# (b) -------------------------------------------------------------------------------------------------------------


def twenty_five_modes(n_measurements: int, d: int = 8) -> tuple[GaussianMixture, GaussianLikelihood]:
    """The published problem: 25 unit Gaussians on a grid, random weights, a random matrix with random singular values.

    Drawn from torch's global generator with the published seed, in the published order, or it is another problem.
    """
    state = torch.get_rng_state()
    torch.manual_seed(27)
    grid = [torch.tensor([-8.0 * i, -8.0 * j] * (d // 2)) for i in range(-2, 3) for j in range(-2, 3)]
    weights = torch.randn(len(grid)) ** 2
    weights = (weights / weights.sum()).double()
    left, singular, right = torch.linalg.svd(torch.randn((n_measurements, d)), full_matrices=True)
    singular = torch.sort(torch.rand_like(singular), descending=True).values
    matrix = left @ (torch.diag(singular) @ right[:n_measurements])
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(weights.float(), validate_args=False),
        torch.distributions.MultivariateNormal(torch.stack(grid), torch.eye(d).repeat(len(grid), 1, 1)),
    )
    clean = matrix @ law.sample()
    sigma = float(torch.rand((1,))[0] * max(singular))
    y = clean + torch.randn_like(clean) * sigma
    torch.set_rng_state(state)
    eye = torch.eye(d, dtype=torch.float64).expand(len(grid), d, d)
    mixture = GaussianMixture(weights / weights.sum(), torch.stack(grid).double(), eye)
    return mixture, GaussianLikelihood(y.double(), Dense.of(matrix.double()), sigma)


def largest_sliced(x: Tensor, y: Tensor, stream: Stream, n_directions: int = 100) -> float:
    """Largest Wasserstein-2 distance of two sets of draws over random directions; sizes divide one another."""
    directions = stream.normal(n_directions, (x.shape[1],), dtype=torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)
    a, b = ((directions @ rows.double().T).sort(dim=1).values for rows in (x, y))
    size = math.lcm(a.shape[1], b.shape[1])
    a, b = (values.repeat_interleave(size // values.shape[1], dim=1) for values in (a, b))
    return float((a - b).square().mean(1).max().sqrt())


def _one_by_one(prior: Opaque, likelihood: GaussianLikelihood, n: int, seed: int) -> Tensor:
    """MCGDiff as published: a filter of 128 particles and 100 levels for each draw, with the noise η = 0.6."""
    times = LogSNR(100, ratio_max=150.0, ratio_min=0.01)(EDM())
    sampler = MCGDiff(128, eta=0.6, resampling="multinomial")
    runs = [sampler(prior, likelihood, times, 1, Stream(seed).child(k)) for k in range(n)]
    return torch.cat([run.resample(1, Stream(seed).child("pick", k)).x for k, run in enumerate(runs)])


def _one_ensemble(prior: Opaque, likelihood: GaussianLikelihood, n: int, seed: int, n_particles: int) -> Tensor:
    """Ours: 1000 draws of one ensemble whose twist and kernels differentiate the denoiser."""
    times = LogSNR(60, ratio_max=150.0, ratio_min=0.01)(EDM())
    run = TwistedSMC(n_particles, "jacobian")(prior, likelihood, times, 1, Stream(seed))
    return run.resample(n, Stream(seed).child("draws")).x


def mode_rows(n_measurements: int, quick: bool) -> list[Row]:
    """Distance and calls of both, in one run, beside exact draws."""
    law, likelihood = twenty_five_modes(n_measurements)
    exact, _ = law.posterior(likelihood.operator.matrix, likelihood.observation, likelihood.sigma)
    n_particles, n_filters, n_seeds = (2000, 10, 2) if quick else (10_000, 1000, 5)
    where, known = f"(b) {n_measurements} measured", exact.sample(10_000, Stream(1))

    def distances(draw: Callable[[int], Tensor], repeats: int) -> tuple[float, float]:
        found = torch.tensor([largest_sliced(known, draw(k), Stream(2).child(k)) for k in range(repeats)])
        return float(found.mean()), float(found.std() / math.sqrt(repeats)) if repeats > 1 else math.nan

    ours, theirs = Opaque(MixtureDenoiser(law, EDM())), Opaque(MixtureDenoiser(law, EDM()))
    value, error = distances(lambda k: _one_ensemble(ours, likelihood, 1000, k, n_particles), n_seeds)
    floor = distances(lambda k: exact.sample(1000, Stream(3).child(k)), n_seeds)
    again = distances(lambda k: _one_by_one(theirs, likelihood, n_filters, k), 1)
    spent, most = (ours.calls + ours.passes[0]) / n_seeds / 1000, theirs.calls / n_filters
    limit = PUBLISHED[n_measurements]
    return [
        Row(f"{where}, twisted SMC: largest sliced distance", value, error, limit, None if quick else value <= limit),
        Row(f"{where}, exact draws: largest sliced distance", *floor),
        Row(f"{where}, MCGDiff stated anew, {n_filters} draws: largest sliced distance", *again),
        Row(f"{where}, twisted SMC: calls and backward passes per draw", spent, 0.0, most, spent <= most),
        Row(f"{where}, MCGDiff stated anew: calls per draw", most, 0.0),
    ]


def rows(quick: bool) -> list[Row]:
    """All rows; quick ones are small and judge with what they have."""
    found = []
    for d in (8, 32, 128):
        for name, method in METHODS.items():
            if d <= method.largest and not (quick and d > 8 and name != BEST):
                found += gaussian_rows(name, method, d, 2 if quick else 4, quick)
    for n_measurements in PUBLISHED:
        found += mode_rows(n_measurements, quick)
    return found
