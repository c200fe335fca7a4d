"""Path-space samplers: what the weights claim holds for every single path, and evidence is that of the discrete chain.

The first law has no Monte Carlo error: the proposal of every sampler is rebuilt from dense matrices and finite
differences, and  reference(path) · G(x₁) = proposal(path) · Π weights  must hold to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from twisted_cases import ADAPTIVE, ALWAYS, CASES, NEVER, PROPOSALS, SIGMA, Step, asymmetric, gaussian_problem

from sciflow.diffusion.flow import transition
from sciflow.diffusion.mixture import MixtureDenoiser
from sciflow.diffusion.schedule import Cosine
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import POSTERIORS, GaussianLikelihood, GreedySVDD, MCGDiff
from sciflow.inverse.steered import SteeredPosterior
from sciflow.particles import NestedModel
from sciflow.random import Stream
from sciflow.steering.twisted import TwistedModel


def test_every_path_weighted_sampler_is_looked_at() -> None:
    weighted = {cls for cls in POSTERIORS.values() if issubclass(cls, SteeredPosterior)}
    assert weighted == {type(sampler) for sampler in CASES.values()} | {GreedySVDD}


# The density of an arbitrary path ---------------------------------------------------------------------------------


def target_factor(
    sampler: SteeredPosterior, likelihood: GaussianLikelihood, path: list[Tensor], levels, prior
) -> Tensor:
    """log G of each path: the tempered likelihood of its end, or the density of the matched measurement."""
    if not isinstance(sampler, MCGDiff):
        return likelihood.log_prob(path[-1]) / getattr(sampler, "alpha", 1.0)
    ratios = [float(prior.schedule.sigma(t) / prior.schedule.alpha(t)) for t in levels]
    wanted = SIGMA / float(likelihood.operator.matrix.norm())
    k = min(range(len(ratios)), key=lambda i: abs(ratios[i] - wanted))
    assert abs(ratios[k] / wanted - 1) < 1e-6, "the chain has a level with the noise of y"
    measured = likelihood.operator(path[k])[:, 0] / float(prior.schedule.alpha(levels[k]))
    width = torch.tensor(1e-3 * SIGMA, dtype=torch.float64)
    return torch.distributions.Normal(likelihood.observation[0], width).log_prob(measured)


@pytest.mark.parametrize("case", [name for name in CASES if name != "svdd"])
def test_the_density_of_every_path(case: str) -> None:
    """log reference(path) + log G = log proposal(path) + Σ log weights: 1e-10 of finite differences and rounding."""
    law, likelihood = asymmetric()
    prior, sampler, n = MixtureDenoiser(law, Cosine()), replace(CASES[case], tile=3), 7
    model = sampler.model(prior, likelihood, LogSNR(5, ratio_max=10.0, ratio_min=0.05)(Cosine()))
    with torch.no_grad():
        state, total = model.initial(n, Stream(4))
        path, claimed = [state["x"].clone()], torch.zeros(n, dtype=torch.float64)
        for k in range(model.n_steps):
            before, own = {name: value.clone() for name, value in state.items()}, Stream(4).child("step", k)
            state, potential = model.step(k, state, own)  # in the memory of the state
            total = total + potential
            path.append(state["x"].clone())
            if k == model.n_steps - 1:
                end = prior(before["x"], model.levels[k])
                assert torch.allclose(state["x"], end, atol=1e-13)  # the chain ends at D, to rounding
                break
            for i in range(n):
                first = own.rows_from(3 * (i // 3)).child("shift")
                z = first.normal(3, (getattr(sampler, "n_looks", 1), 2), dtype=torch.float64)[i % 3]
                power = power_of(model, before, k)
                step = Step(sampler, prior, likelihood, before["x"][i], *model.levels[k : k + 2], power, z)
                p, m = step.reference(), PROPOSALS[type(sampler)](step)
                claimed[i] += p.log_prob(state["x"][i]) - m.log_prob(state["x"][i])
    claimed = claimed + target_factor(sampler, likelihood, path, model.levels, prior)
    # a matched measurement is met to 1e-3 of its noise: rounding of the exponent is 1e6 times that of x
    assert torch.allclose(total, claimed, rtol=0, atol=1e-8 if isinstance(sampler, MCGDiff) else 1e-10)


def power_of(model: TwistedModel, state: dict[str, Tensor], k: int) -> float:
    """λ_k: given beforehand, or what the adaptive rule settled on."""
    if "power" in state:
        return float(state["power"][0])
    return float(model.memory.powers[k]) if hasattr(model.memory, "powers") else 1.0


def test_the_density_of_every_family() -> None:
    """SVDD on the extended space: all children from the reference, one chosen, against the law that it targets.

    Π_m p(x^m) · e^{v_j}/Σ e^v  ·  weight  =  Π_m p(x^m)/M · h(x^j)/h(parent)
    """
    law, likelihood = asymmetric()
    prior, sampler, n, m = MixtureDenoiser(law, Cosine()), CASES["svdd"], 5, 3
    model = sampler.model(prior, likelihood, LogSNR(4, ratio_max=10.0, ratio_min=0.05)(Cosine()))
    assert isinstance(model, NestedModel)
    with torch.no_grad():
        state, total = model.initial(n, Stream(4))
        claimed = torch.zeros(n, dtype=torch.float64)
        for k in range(model.n_steps):
            before, own = state["x"], Stream(4).child("step", k)
            state, potential, *_ = model.step(k, state, own)
            total = total + potential
            if k == model.n_steps - 1:
                break
            a, b = model.model.levels[k : k + 2]
            mean, s = transition(prior, before, prior(before, a), a, b)
            z = own.child("children").child("noise").normal(n * m, (2,), dtype=torch.float64).reshape(n, m, 2)
            children = mean[:, None] + s * z
            values = torch.stack([likelihood.log_prob(prior(rows, b)) for rows in children])
            chosen = (children - state["x"][:, None]).abs().sum(-1)
            assert (chosen.min(1).values < 1e-12).all(), "the kept child is one of those that were born"
            index = chosen.argmin(1, keepdim=True)
            choice = values.log_softmax(1).gather(1, index)[:, 0]
            claimed += -math.log(m) - choice
        claimed = claimed + likelihood.log_prob(state["x"])
    assert torch.allclose(total, claimed, rtol=0, atol=1e-10)  # rounding


# Evidence of the discretised chain --------------------------------------------------------------------------------


def affine(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """F and f of x ↦ F x + f in two dimensions."""
    images = function(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double())
    return (images[1:] - images[0]).T, images[0]


def carried(law: tuple[Tensor, Tensor], matrix: Tensor, offset: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    mean, covariance = law
    return matrix @ mean + offset, matrix @ covariance @ matrix.T + variance * torch.eye(2, dtype=torch.float64)


def discrete_log_evidence(
    sampler: SteeredPosterior, prior: MixtureDenoiser, likelihood: GaussianLikelihood, levels: tuple[float, ...]
) -> float:
    """∫ (law of the discretised chain) G, by the Kalman-like recursion of its mean and covariance."""
    schedule = prior.schedule
    alpha, sigma = float(schedule.alpha(levels[0])), float(schedule.sigma(levels[0]))
    eye, start = torch.eye(2, dtype=torch.float64), prior.mixture
    law = alpha * start.means[0], alpha**2 * start.covariances[0] + sigma**2 * eye
    matrix, noise, temperature = likelihood.operator.matrix, SIGMA**2, getattr(sampler, "alpha", 1.0)
    for a, b in itertools.pairwise(levels):
        if isinstance(sampler, MCGDiff) and abs(float(schedule.sigma(a) / schedule.alpha(a)) - wanted(matrix)) < 1e-6:
            scale = float(schedule.alpha(a))
            total = (matrix @ law[1] @ matrix.T / scale**2 + 1e-6 * noise)[0, 0]
            misfit = (likelihood.observation - matrix @ law[0] / scale)[0]
            return float(-0.5 * misfit**2 / total - 0.5 * (2 * math.pi * total).log())
        step = Step(sampler, prior, likelihood, torch.zeros(2, dtype=torch.float64), a, b, 1.0, torch.zeros(1, 2))
        s = float(step.reference().covariance_matrix[0, 0])
        move = affine(lambda x, a=a, b=b: transition(prior, x, prior(x, a), a, b, sampler.eta)[0])
        law = carried(law, *move, s)
    mean, covariance = carried(law, *affine(lambda x: prior(x, levels[-1])), 0.0)
    total = (matrix @ covariance @ matrix.T + noise * temperature)[0, 0]
    misfit = (likelihood.observation - matrix @ mean)[0]
    log_gaussian = -0.5 * misfit**2 / total - 0.5 * (2 * math.pi * total).log()
    # p(y | x)^{1/α} is N(y; A x, α σ_y²) times this constant
    constant = 0.5 * math.log(2 * math.pi * temperature * noise) - 0.5 * math.log(2 * math.pi * noise) / temperature
    return float(log_gaussian + constant)


def wanted(matrix: Tensor) -> float:
    return SIGMA / float(matrix.norm())


RUNS, MORE = 400, 1600  # more where nothing is resampled, which spreads


def evidences(sampler: SteeredPosterior, prior: MixtureDenoiser, likelihood: GaussianLikelihood, times: Tensor):
    """log Ẑ of each run, and resamplings in all; the runs are islands of one, where no rule looks at all of them."""
    if getattr(sampler, "adaptive", False):
        runs = [sampler(prior, likelihood, times, 1, Stream(seed)) for seed in range(RUNS)]
        return torch.tensor([run.log_evidence for run in runs], dtype=torch.float64), sum(r.n_resampled for r in runs)
    n = MORE if sampler.ess_threshold == NEVER else RUNS
    run = replace(sampler, n_particles=n * sampler.n_particles, islands=n)(prior, likelihood, times, 1, Stream(0))
    return run.island_log_evidence, run.n_resampled


THRESHOLDS = {"never": NEVER, "adaptive": ADAPTIVE, "always": ALWAYS}


@pytest.mark.parametrize(
    ("case", "threshold"),
    [  # with an adaptive power each run is one of its own
        pytest.param(
            case, value, id=f"{case}, {name}", marks=[pytest.mark.slow] * (case == "das adaptive" or value != ADAPTIVE)
        )
        for case in CASES
        for name, value in THRESHOLDS.items()
    ],
)
def test_evidence_is_unbiased_for_the_discretised_chain(case: str, threshold: float) -> None:
    """E[Ẑ]/Z of the discrete chain over 400 runs or more of 64 particles, resampled never, where needed, always.

    The evidence of the continuous prior differs by more than what is allowed, and so does that of the other sign of y.
    """
    prior, likelihood, times = gaussian_problem()
    sampler = replace(CASES[case], n_particles=64, ess_threshold=threshold)
    model = sampler.model(prior, likelihood, times)
    levels = model.model.levels if isinstance(model, NestedModel) else model.levels
    log_evidence = discrete_log_evidence(sampler, prior, likelihood, levels)
    found, n_resampled = evidences(sampler, prior, likelihood, times)
    ratio = (found - log_evidence).exp()
    error = float(ratio.std()) / math.sqrt(len(ratio))
    # an adaptive power depends on the particles: O(1/64) besides
    assert abs(float(ratio.mean()) - 1) < 4 * error + (1 / 64 if case == "das adaptive" else 0)
    assert error < 0.06, "the law would see no bias"
    mirrored = replace(likelihood, observation=-likelihood.observation)
    assert abs(discrete_log_evidence(sampler, prior, mirrored, levels) - log_evidence) > 0.4
    assert {NEVER: n_resampled == 0, ALWAYS: n_resampled >= 5 * len(ratio)}.get(threshold, True)


def test_the_exact_value_leaves_the_noise_of_children_alone() -> None:
    """SVDD with v = log E[G | x_k], by recursion: one step's weights are 1 up to the spread of a mean over children."""
    prior, likelihood, times = gaussian_problem()
    plain = replace(CASES["svdd"], n_children=1).model(prior, likelihood, times).model
    levels, matrix, values = plain.levels, likelihood.operator.matrix, {}
    end = affine(lambda x: prior(x, levels[-1]))  # y given x_k is N(A (M x + m), A C Aᵀ + σ²)
    carried_on, offset, covariance = end[0], end[1], torch.zeros(2, 2, dtype=torch.float64)
    values[levels[-1]] = (carried_on, offset, covariance)
    for a, b in reversed(list(itertools.pairwise(levels))):
        s = transition(prior, torch.zeros(1, 2).double(), torch.zeros(1, 2).double(), a, b)[1]
        move = affine(lambda x, a=a, b=b: transition(prior, x, prior(x, a), a, b)[0])
        covariance = covariance + s**2 * carried_on @ carried_on.T
        carried_on, offset = carried_on @ move[0], carried_on @ move[1] + offset
        values[a] = (carried_on, offset, covariance)

    def exact(x: Tensor, t: float, data: Tensor) -> Tensor:
        on, shift, spread = values[t]
        width = (matrix @ spread @ matrix.T)[0, 0] + SIGMA**2
        return torch.distributions.Normal((x @ on.T + shift) @ matrix[0], width.sqrt()).log_prob(likelihood.observation)

    def worst(value: Callable | None, n: int = 40, m: int = 2000) -> float:
        """Largest distance to 1 of the mean weight of m children, over parents and steps, in standard errors."""
        model, found = replace(CASES["svdd"], value=value).model(prior, likelihood, times).model, 0.0
        state, _ = model.initial(n, Stream(0))
        for k in range(model.n_steps):
            parents = {name: part.repeat_interleave(m, 0) for name, part in state.items()}
            weights = model.step(k, parents, Stream(1).child(k))[1].exp().reshape(n, m)
            error = weights.std(1) / math.sqrt(m) + 1e-9  # rounding, where children do not differ: the end
            found = max(found, float(((weights.mean(1) - 1).abs() / error).max()))
            state, _ = model.step(k, state, Stream(2).child(k))
        return found

    assert worst(exact) < 5 < 20 < worst(None)  # of 240 means one is beyond 5 in 7000 tests
    run = replace(CASES["svdd"], value=exact, n_particles=400 * 20, islands=400)(prior, likelihood, times, 1, Stream(3))
    log_evidence = discrete_log_evidence(CASES["svdd"], prior, likelihood, levels)
    ratio = (run.island_log_evidence - log_evidence).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(len(ratio))
