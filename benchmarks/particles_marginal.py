"""Marginal weights against closed forms: annealing of two mixtures, and a half-observed Gaussian.

GMM-40: forty Gaussians in the plane, cubed (the protocol of Feynman–Kac correctors, our own draw of the means). d = 30:
eight unit Gaussians, squared. Linear Gaussian: N(0, I), half of the coordinates observed with σ = 0.3. Exact denoisers
in float64; every method sees the same grid; means over seeds with their standard errors. The evidence is compared with
that of the law at the last noise level. Calls are counted: network calls for each particle and step.
A control is fitted to the particles that it moves, which biases log Ẑ by a term of order d/n: −0.84, −0.19 and −0.04
for 500, 2000 and 8000 particles in 128 dimensions, whatever the grid. Up to 32 dimensions have 2000 particles, 128
have 10⁴.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rows import Row, in_parallel
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
LAST = "second order, control"
EXACT = "exact draws"
TILTED: dict[str, dict[str, object]] = {
    "half guidance": {},
    "half guidance, control": {"control": Control(("position", "score", "gradient"))},
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


@functools.cache
def problems(quick: bool) -> dict[str, tuple[Problem, Tensor | None]]:
    """Every problem, and the mode that each component of its law belongs to; None for the tilted ones."""
    n_particles, n_steps = (300, 20) if quick else (10_000, 200)  # 10⁴ as in the protocol
    modes = MixturePower(n_components=40).law(Stream(0))
    forty = annealing("GMM-40, power 3", modes, 3, n_particles, n_steps)
    eight = annealing("8 modes in d=30, power 2", eight_modes(), 2, n_particles // 5, n_steps)
    found = {one.name: (one, nearest(one.law, law)) for one, law in ((forty, modes), (eight, eight_modes()))}
    sizes = {8: n_particles // 5, 32: n_particles // 5, 128: n_particles}  # see the bias of a control above
    return found | {f"d={d}": (half_observed(d, n, n_steps), None) for d, n in sizes.items()}


def annealing_run(name: str, quick: bool, method: str, seed: int) -> dict[str, float]:
    """What one run, or as many exact draws, are judged by."""
    problem, modes = problems(quick)[name]
    assert modes is not None
    if method == EXACT:
        x, log_weights = problem.law.sample(problem.n_particles, Stream(seed, ("fresh",))), torch.zeros(1).double()
        log_weights, told = log_weights.expand(len(x)), {}
    else:
        particles, calls = run(problem, seed, METHODS[method])
        x, log_weights = particles.x, particles.log_weights
        told = {"log Ẑ − log Z": particles.log_evidence - problem.log_constant}
        told |= {"resamplings": float(particles.n_resampled), "network calls per step": calls}
    w2 = {"sliced W2": distance(problem, x, log_weights, seed)} if x.shape[1] == 2 else {}
    return {"mode-weight TV": mode_error(problem, modes, x, log_weights)} | told | w2


def annealed_rows(name: str, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    """Every method on one problem; targets are for the last one."""

    def values(method: str, what: str) -> list[float]:
        return [one[what] for one in found[method]]

    rows = [mean(f"{name}, {EXACT}: mode-weight TV", values(EXACT, "mode-weight TV"))]
    for method in METHODS:
        is_last, label = method == LAST, f"{name}, {method}"
        rows.append(mean(f"{label}: mode-weight TV", values(method, "mode-weight TV"), 0.05 if is_last else None))
        rows.append(bias_row(label, values(method, "log Ẑ − log Z"), 0.05 if is_last else None))
        if "sliced W2" in found[method][0]:
            floor = statistics.fmean(values(EXACT, "sliced W2"))
            over = [one / floor for one in values(method, "sliced W2")]
            rows.append(mean(f"{label}: sliced W2 over that of exact draws", over, 2.0 if is_last else None))
        rows += [mean(f"{label}: {what}", values(method, what)) for what in ("resamplings", "network calls per step")]
    return rows


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


def tilted_run(name: str, quick: bool, method: str, seed: int) -> dict[str, float]:
    problem, _ = problems(quick)[name]
    particles, calls = run(problem, seed, TILTED[method])
    ratio = particles.var() / problem.law.covariances[0].diagonal()
    half = len(ratio) // 2
    return {
        "log Ẑ − log Z": particles.log_evidence - problem.log_constant,
        "variance ratio, observed": float(ratio[:half].mean()),
        "variance ratio, unobserved": float(ratio[half:].mean()),
        "network calls per step": calls,
    }


def tilted_rows(name: str, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    rows = []
    for method, options in TILTED.items():
        label = f"linear Gaussian {name}, {method}"
        rows.append(bias_row(label, [one["log Ẑ − log Z"] for one in found[method]], 0.1 if options else None))
        others = [what for what in found[method][0] if what != "log Ẑ − log Z"]
        rows += [mean(f"{label}: {what}", [one[what] for one in found[method]]) for what in others]
    return rows


def rows(quick: bool) -> list[Row]:
    """All rows; quick: few particles, steps and seeds, which show that it runs."""
    n_seeds, names = (2 if quick else 10), problems(quick)
    annealed = [name for name, (_, modes) in names.items() if modes is not None]
    cases = [(name, quick, m, seed) for name in annealed for m in (EXACT, *METHODS) for seed in range(n_seeds)]
    told = zip(cases, in_parallel(annealing_run, cases), strict=True)
    others = [(n, quick, m, s) for n in names if n not in annealed for m in TILTED for s in range(max(2, n_seeds // 2))]
    told = [*told, *zip(others, in_parallel(tilted_run, others), strict=True)]
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in names}
    for (name, _, method, _), numbers in told:
        found[name].setdefault(method, []).append(numbers)
    shown = [annealed_rows(name, found[name]) if name in annealed else tilted_rows(name, found[name]) for name in names]
    return [row for part in shown for row in part]


def nearest(law: GaussianMixture, modes: GaussianMixture) -> Tensor:
    """The mode whose mean is nearest, for each component: a partition, whose weights are exact sums."""
    return torch.cdist(law.means, modes.means).argmin(1)
