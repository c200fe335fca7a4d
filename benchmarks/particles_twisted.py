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
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rows import Row, in_parallel
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


def sizes(method: Method, quick: bool) -> tuple[int, int]:
    """Particles and levels."""
    return (method.n // 4, min(method.levels, 40)) if quick else (method.n, method.levels)


def gaussian_run(d: int, name: str, quick: bool, seed: int) -> tuple[float, ...]:
    """Error of the evidence, both ratios of variances, and both costs of one run."""
    prior, likelihood, observed = half_observed(d)
    exact, log_evidence = prior.mixture.posterior(likelihood.operator.matrix, likelihood.observation, NOISE)
    n, levels = sizes(METHODS[name], quick)
    times = LogSNR(levels, ratio_max=100.0, ratio_min=0.01)(EDM())
    opaque = Opaque(prior)
    run = METHODS[name].make(n)(opaque, likelihood, times, 1, Stream(seed))
    ratio, looks = run.var() / exact.covariances[0].diagonal(), n * (levels + 1)
    errors = run.log_evidence - float(log_evidence), float(ratio[observed].mean()), float(ratio[~observed].mean())
    return *errors, opaque.calls / looks, opaque.passes[0] / looks


def gaussian_rows(d: int, name: str, quick: bool, found: Sequence[tuple[float, ...]]) -> list[Row]:
    """Evidence, variances and cost of one sampler; means over seeds."""
    values = torch.tensor(found, dtype=torch.float64)
    mean, error = values.mean(0).tolist(), (values.std(0) / math.sqrt(len(found))).tolist()
    judge = name == BEST and d == 128 and not quick
    where = f"(a) d = {d}, {name}"
    return [
        _near(f"{where}: Δ log Z", mean[0], error[0], 0.0, MOST_ERROR if judge else None),
        _near(f"{where}: variance, observed", mean[1], error[1], 1.0, MOST_RATIO if judge else None),
        _near(f"{where}: variance, unobserved", mean[2], error[2], 1.0, MOST_RATIO if judge else None),
        Row(f"{where}: calls per particle and level", mean[3], 0.0),
        Row(f"{where}: backward passes per particle and level", mean[4], 0.0),
    ]


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


OURS, THEIRS, EXACT = "twisted SMC", "MCGDiff stated anew", "exact draws"
N_DRAWS, CHUNK = 1000, 50


def _one_by_one(prior: Opaque, likelihood: GaussianLikelihood, first: int, n: int) -> Tensor:
    """MCGDiff as published: a filter of 128 particles and 100 levels for each draw, with the noise η = 0.6."""
    times = LogSNR(100, ratio_max=150.0, ratio_min=0.01)(EDM())
    sampler = MCGDiff(128, eta=0.6, resampling="multinomial")
    runs = [sampler(prior, likelihood, times, 1, Stream(0).child(k)).resample(1, Stream(0).child("pick", k))
            for k in range(first, first + n)]  # fmt: skip
    return torch.cat([run.x for run in runs])


def _one_ensemble(prior: Opaque, likelihood: GaussianLikelihood, seed: int, n_particles: int) -> Tensor:
    """Ours: 1000 draws of one ensemble whose twist and kernels differentiate the denoiser."""
    times = LogSNR(60, ratio_max=150.0, ratio_min=0.01)(EDM())
    run = TwistedSMC(n_particles, "jacobian")(prior, likelihood, times, 1, Stream(seed))
    return run.resample(N_DRAWS, Stream(seed).child("draws")).x


def mode_run(n_measurements: int, who: str, quick: bool, k: int) -> tuple[list[list[float]], float]:
    """Draws of one ensemble, of one chunk of filters, or exact ones; and the calls of each draw."""
    law, likelihood = twenty_five_modes(n_measurements)
    prior = Opaque(MixtureDenoiser(law, EDM()))
    if who == EXACT:
        exact, _ = law.posterior(likelihood.operator.matrix, likelihood.observation, likelihood.sigma)
        x = exact.sample(N_DRAWS, Stream(3).child(k))
    elif who == THEIRS:
        x = _one_by_one(prior, likelihood, k * CHUNK, 10 if quick else CHUNK)
    else:
        x = _one_ensemble(prior, likelihood, k, 2000 if quick else 10_000)
    return x.tolist(), (prior.calls + prior.passes[0]) / len(x)


def mode_cases(quick: bool) -> list[tuple[int, str, bool, int]]:
    """Every run of (b)."""
    repeats = {OURS: 2 if quick else 5, EXACT: 2 if quick else 5, THEIRS: 1 if quick else N_DRAWS // CHUNK}
    return [(m, who, quick, k) for m in PUBLISHED for who, n in repeats.items() for k in range(n)]


def mode_rows(n_measurements: int, quick: bool, found: dict[str, list[tuple[list[list[float]], float]]]) -> list[Row]:
    """Distance and calls of both, beside exact draws."""
    law, likelihood = twenty_five_modes(n_measurements)
    exact, _ = law.posterior(likelihood.operator.matrix, likelihood.observation, likelihood.sigma)
    known = exact.sample(10_000, Stream(1))
    clouds = {who: [torch.tensor(x, dtype=torch.float64) for x, _ in told] for who, told in found.items()}
    clouds[THEIRS] = [torch.cat(clouds[THEIRS])]
    distances = {
        who: torch.tensor([largest_sliced(known, x, Stream(2).child(k)) for k, x in enumerate(parts)])
        for who, parts in clouds.items()
    }
    spent, most = (statistics.fmean(calls for _, calls in found[who]) for who in (OURS, THEIRS))
    where, limit = f"(b) {n_measurements} measured", PUBLISHED[n_measurements]
    rows = []
    for who, values in distances.items():
        value, n = float(values.mean()), len(values)
        error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
        judged = who == OURS and not quick
        claim = f"{where}, {who}: largest sliced distance"
        rows.append(Row(claim, value, error, limit if judged else None, value <= limit if judged else None))
    calls = f"{where}, {OURS}: calls and backward passes per draw"
    return [*rows, Row(calls, spent, 0.0, most, spent <= most), Row(f"{where}, {THEIRS}: calls per draw", most, 0.0)]


def rows(quick: bool) -> list[Row]:
    """All rows; quick ones are small and judge with what they have."""
    pairs = [(d, name) for d in (8, 32, 128) for name, method in METHODS.items() if d <= method.largest]
    who = [(d, name) for d, name in pairs if d == 8 or name == BEST or not quick]
    cases = [(d, name, quick, seed) for d, name in reversed(who) for seed in range(2 if quick else 4)]
    told = zip(cases, in_parallel(gaussian_run, cases), strict=True)
    by_case: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for (d, name, *_), numbers in told:
        by_case.setdefault((d, name), []).append(numbers)
    found = [row for d, name in who for row in gaussian_rows(d, name, quick, by_case[d, name])]
    modes: dict[int, dict[str, list]] = {m: {} for m in PUBLISHED}
    runs = mode_cases(quick)
    for (m, one, *_), answer in zip(runs, in_parallel(mode_run, runs), strict=True):
        modes[m].setdefault(one, []).append(answer)
    return found + [row for m in PUBLISHED for row in mode_rows(m, quick, modes[m])]
