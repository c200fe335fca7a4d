"""Resampling and evidence are unbiased, weights are what they claim, and twisted SMC finds closed forms."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sciflow.diffusion.flow import transition
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear
from sciflow.diffusion.times import Karras, LogSNR
from sciflow.inverse import Dense, GaussianLikelihood, TwistedSMC
from sciflow.inverse.belief import FullBelief, IsotropicBelief
from sciflow.inverse.twisted import TwistedModel
from sciflow.particles import RESAMPLERS, smc
from sciflow.particles.resampling import ess
from sciflow.random import Stream

every_scheme = pytest.mark.parametrize("scheme", RESAMPLERS)


# Resampling ------------------------------------------------------------------------------------------------------


def counts(scheme: str, log_weights: Tensor, n: int, seed: int) -> Tensor:
    ancestors = RESAMPLERS[scheme](log_weights, n, Stream(seed))
    assert ancestors.dtype == torch.int64 and ancestors.shape == (n,)
    return torch.bincount(ancestors, minlength=len(log_weights)).double()


@every_scheme
@pytest.mark.parametrize("n", [7, 20])
def test_expected_copies(scheme: str, n: int) -> None:
    """E[copies of i] = n w_i within 4 standard errors; 12 of 12 weights, one of them zero, one of them large."""
    log_weights = torch.tensor([0.0, -1.0, 2.5, -math.inf, 0.3, -4.0, 1.0, 0.0, 0.7, -0.5, 0.1, -2.0]) + 300.0
    weights, runs = log_weights.double().softmax(0), 4000
    drawn = torch.stack([counts(scheme, log_weights, n, seed) for seed in range(runs)])
    standard_error = drawn.std(0) / math.sqrt(runs)
    off = (drawn.mean(0) - n * weights).abs()
    assert (off <= 4 * standard_error + 1e-9).all()  # 1e-9: copies that are certain have no spread
    assert (drawn[:, 3] == 0).all()
    assert (drawn.sum(1) == n).all()
    multinomial_variance = n * weights * (1 - weights)
    # no scheme spreads more than multinomial; a sample variance of 4000 has a relative standard error of √(2/4000)
    # for a normal count, and up to 5 times that for the rare ones
    assert (drawn.var(0) <= multinomial_variance * (1 + 20 * math.sqrt(2 / runs)) + 1e-9).all()


def test_conditional_laws() -> None:
    """What each scheme promises of every single draw, and the whole law of the multinomial counts."""
    weights = torch.tensor([0.05, 0.31, 0.0, 0.44, 0.2], dtype=torch.float64)
    log_weights, n = weights.log(), 10
    drawn = {
        scheme: torch.stack([counts(scheme, log_weights, n, seed) for seed in range(3000)]) for scheme in RESAMPLERS
    }
    off = {scheme: (copies - n * weights).abs().max() for scheme, copies in drawn.items()}
    assert off["systematic"] < 1
    assert off["stratified"] < 2
    assert (drawn["residual"] >= (n * weights).floor()).all()
    copies = drawn["multinomial"]
    centred = copies - n * weights
    covariance = centred.T @ centred / len(copies)
    expected = n * (weights.diag() - weights[:, None] * weights)
    # 4 standard errors of variances ≤ 2.5
    assert torch.allclose(covariance, expected, atol=4 * 2.5 * math.sqrt(2 / 3000))
    # systematic copies are two-valued: ⌊nw⌋ or ⌊nw⌋ + 1, the latter with probability frac(nw)
    fraction = (n * weights) % 1
    above = (drawn["systematic"] > (n * weights).floor()).double().mean(0)
    assert ((above - fraction).abs() <= 4 * (fraction * (1 - fraction) / 3000).sqrt() + 1e-9).all()


@every_scheme
def test_equal_weights_are_kept(scheme: str) -> None:
    """n equal weights, 1/n not representable: all schemes but multinomial keep every particle exactly once."""
    copies = counts(scheme, torch.full((49,), -7.3), 49, 0)
    if scheme == "multinomial":
        assert copies.max() > 1
    elif scheme == "stratified":
        assert (copies - 1).abs().max() < 2
    else:
        assert (copies == 1).all()


# The driver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """A hidden Markov chain x_k = a x_{k−1} + √(1 − a²) w observed as y_k = x_k + s v, its evidence by Kalman."""

    n_steps: int = 8
    a: float = 0.9
    s: float = 0.5

    def y(self, k: int) -> float:
        return 1.5 * math.sin(1.3 * k) + 0.5

    def log_potential(self, x: Tensor, k: int) -> Tensor:
        return -0.5 * ((self.y(k) - x[:, 0]) / self.s) ** 2 - math.log(self.s * math.sqrt(2 * math.pi))

    def initial(self, n: int, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        x = stream.normal(n, (1,), dtype=torch.float64)
        return {"x": x}, self.log_potential(x, 0)

    def step(self, k: int, state: dict[str, Tensor], stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        noise = stream.normal(len(state["x"]), (1,), dtype=torch.float64)
        x = self.a * state["x"] + math.sqrt(1 - self.a**2) * noise
        return {"x": x}, self.log_potential(x, k + 1)

    def kalman(self) -> tuple[float, float, float]:
        """log evidence, and mean and variance of the last state given all observations."""
        mean, variance, log_evidence = 0.0, 1.0, 0.0
        for k in range(self.n_steps + 1):
            if k:
                mean, variance = self.a * mean, self.a**2 * variance + 1 - self.a**2
            spread = variance + self.s**2
            log_evidence += -0.5 * ((self.y(k) - mean) ** 2 / spread + math.log(2 * math.pi * spread))
            mean, variance = mean + variance / spread * (self.y(k) - mean), variance * self.s**2 / spread
        return log_evidence, mean, variance


NEVER, ADAPTIVE, ALWAYS = 1e-9, 0.5, 1.0


@pytest.mark.parametrize(
    ("scheme", "threshold"),
    [("systematic", NEVER), *((scheme, threshold) for scheme in RESAMPLERS for threshold in (ADAPTIVE, ALWAYS))],
)
def test_evidence_is_unbiased(scheme: str, threshold: float) -> None:
    """E[Ẑ] = Z for 48 particles, whether weights are carried or not; lost weights would show as a factor."""
    log_evidence, *_ = Filter().kalman()
    runs = [smc(Filter(), 48, Stream(seed), scheme, threshold) for seed in range(250)]
    ratio = torch.tensor([math.exp(run.log_evidence - log_evidence) for run in runs], dtype=torch.float64)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(runs))
    resampled = [run.n_resampled for run in runs]
    assert {NEVER: max(resampled) == 0, ALWAYS: min(resampled) == 8}.get(threshold, 0 < max(resampled) < 8)


@every_scheme
def test_filter_moments(scheme: str) -> None:
    """Mean and variance of the last state against Kalman, over 40 runs of 400 particles."""
    _, mean, variance = Filter().kalman()
    runs = [smc(Filter(), 400, Stream(seed), scheme) for seed in range(40)]
    for got, expected in (([run.mean() for run in runs], mean), ([run.var() for run in runs], variance)):
        values = torch.cat(got)
        # O(1/n) bias of a ratio estimate: below 2/400 of the spread here
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(40) + 2 / 400 * math.sqrt(variance)


@every_scheme
def test_stated_error_of_the_evidence(scheme: str) -> None:
    """The error bar of one run against the spread of 300 runs, in variance.

    The spread of 300 runs is itself uncertain to √(2/300) = 8 %, 4 standard errors are 33 %.
    """
    runs = [smc(Filter(), 300, Stream(seed), scheme) for seed in range(300)]
    truth = torch.tensor([run.log_evidence for run in runs], dtype=torch.float64).var()
    stated = torch.tensor([run.log_evidence_stderr**2 for run in runs], dtype=torch.float64).mean()
    assert abs(float(stated / truth) - 1) < 0.33


# Twisted SMC -----------------------------------------------------------------------------------------------------


def asymmetric() -> tuple[GaussianMixture, GaussianLikelihood]:
    """Three unequal modes in two dimensions; the observation is off-centre and favours none of them by symmetry."""
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    means = torch.tensor([[-3.0, 0.5], [2.0, 2.5], [3.5, -2.0]], dtype=torch.float64)
    factors = torch.tensor([[[0.6, 0.0], [0.3, 0.4]], [[0.8, 0.0], [-0.4, 0.5]], [[0.4, 0.0], [0.1, 0.9]]]).double()
    matrix = torch.tensor([[0.6, 0.9]], dtype=torch.float64)
    observation = torch.tensor([1.1], dtype=torch.float64)
    likelihood = GaussianLikelihood(observation, Dense.of(matrix), 0.7)
    return GaussianMixture(weights, means, factors @ factors.mT), likelihood


def in_8_dimensions() -> tuple[GaussianMixture, GaussianLikelihood]:
    """Four modes that a rank-2 measurement confuses."""
    stream = Stream(11)
    means = 4 * stream.child("means").normal(4, (8,), dtype=torch.float64)
    factors = 0.4 * stream.child("factors").normal(4, (8, 8), dtype=torch.float64)
    matrix = stream.child("matrix").normal(2, (8,), dtype=torch.float64) / 3
    weights = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
    law = GaussianMixture(weights, means, factors @ factors.mT + 0.2 * torch.eye(8, dtype=torch.float64))
    observation = matrix @ (0.6 * means[1] + 0.4 * means[3])
    return law, GaussianLikelihood(observation, Dense.of(matrix), 1.5)


@dataclass
class Opaque:
    """A denoiser without `covariance`, like a network."""

    prior: MixtureDenoiser

    def __post_init__(self) -> None:
        self.schedule, self.shape, self.initial = self.prior.schedule, self.prior.shape, self.prior.initial

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.prior(x, t)


def within(values: Tensor, expected: Tensor, what: str) -> None:
    """Mean over runs within 4 standard errors."""
    off, error = (values.mean(0) - expected).abs(), values.std(0) / math.sqrt(len(values))
    assert (off <= 4 * error).all(), f"{what}: off by {off}, standard error {error}"


@pytest.mark.parametrize("problem", [asymmetric, pytest.param(in_8_dimensions, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "twist", ["covariance", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("moment_matching", "pigdm"))]
)
def test_twisted_smc_on_a_mixture(twist: str, problem) -> None:
    """Moments, mode weights and evidence against closed form, within 4 standard errors over 20 runs.

    The chain's own bias must stay below these errors. With the covariance it falls as the step squared, without it as
    the step, hence more of them: measured over 12 000 particles at most 0.035 of the spread (standard error of 20 runs
    of 200: 0.013 for means, 0.02 for variances) and 0.015 of the evidence (0.008).
    """
    law, likelihood = problem()
    exact, log_evidence = law.posterior(likelihood.operator.matrix, likelihood.observation, likelihood.sigma)
    prior = MixtureDenoiser(law, EDM())
    sampler = TwistedSMC(200, "pigdm" if twist == "pigdm" else "moment_matching", variance=4.0)
    model = prior if twist == "covariance" else Opaque(prior)
    times = Karras(40 if twist == "covariance" else 80, ratio_max=30.0, ratio_min=0.02)(EDM())
    runs = [sampler(model, likelihood, times, 1, Stream(seed)) for seed in range(20)]
    spread = exact.covariance().diagonal().sqrt()
    within(torch.stack([run.mean() for run in runs]) / spread, exact.mean() / spread, "mean")
    within(torch.stack([run.var() for run in runs]) / spread**2, torch.ones_like(spread), "variance")
    within(torch.stack([run.weights @ exact.components(run.x).softmax(1) for run in runs]), exact.weights, "modes")
    ratio = torch.tensor([[math.exp(run.log_evidence - log_evidence)] for run in runs], dtype=torch.float64)
    within(ratio, torch.ones(1, dtype=torch.float64), "evidence")


@pytest.mark.parametrize("n_steps", [2, 10])
@pytest.mark.parametrize("schedule", [EDM(sigma_max=1e4), Cosine(), Linear()])
def test_twisted_smc_is_exact_for_gaussians_at_any_number_of_steps(schedule, n_steps: int) -> None:
    """With the covariance all weights are equal: the evidence has no error but that of the first level."""
    factor = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.4, 0.2, 0.3]], dtype=torch.float64)
    prior = GaussianDenoiser(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), factor @ factor.T, schedule)
    matrix = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8]], dtype=torch.float64)
    likelihood = GaussianLikelihood(torch.tensor([1.5, 0.3], dtype=torch.float64), Dense.of(matrix), 0.1)
    exact, log_evidence = prior.mixture.posterior(matrix, likelihood.observation, 0.1)
    times = LogSNR(n_steps, ratio_max=1e4, ratio_min=1e-2)(schedule)
    run = TwistedSMC(2000)(prior, likelihood, times, 1, Stream(0))
    # ∇ log h at the first level is C Aᵀ S⁻¹ r/u², times a spread u of x: 50/u = 5e-3 in each log-weight
    assert abs(run.log_evidence - log_evidence) < 5e-3 / math.sqrt(2000) * 4
    assert run.ess_trace.min() > 0.999 * 2000 and run.n_resampled == 0
    spread = exact.covariances[0].diagonal().sqrt()
    assert ((run.mean() - exact.means[0]) / spread).abs().max() < 4 / math.sqrt(2000)
    assert (run.var() / spread**2 - 1).abs().max() < 4 * math.sqrt(2 / 2000)


@pytest.mark.parametrize("threshold", [NEVER, ADAPTIVE, ALWAYS])
def test_twisted_evidence_is_unbiased_for_the_discretised_prior(threshold: float) -> None:
    """E[Ẑ]/Z for 40 particles on four coarse steps, with a twist of the wrong width.

    For an isotropic Gaussian prior c = C exactly, so the chain is Gaussian and its law at the end is a recursion. It
    ends at u = 1 with x₁ = D, so its evidence differs from the exact one, and the test can tell the two apart.
    """
    mean, variance = torch.tensor([0.7, -0.4], dtype=torch.float64), 1.5
    prior = GaussianDenoiser(mean, variance * torch.eye(2, dtype=torch.float64), EDM())
    matrix = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    likelihood = GaussianLikelihood(torch.tensor([3.0], dtype=torch.float64), Dense.of(matrix), 0.5)
    times = LogSNR(4, ratio_max=20.0, ratio_min=1.0)(EDM())
    sampler = TwistedSMC(40, "pigdm", variance=3.0, ess_threshold=threshold)
    levels = [float(EDM().sigma(t)) for t in times]  # α = 1
    spread = variance + levels[0] ** 2  # variance of x along the chain; its mean stays m
    for a, b in itertools.pairwise(levels):
        zeta, gain, c = 1 - (b / a) ** 2, variance / (variance + a**2), variance * a**2 / (variance + a**2)
        spread = ((1 - zeta) + zeta * gain) ** 2 * spread + b**2 * zeta + zeta**2 * c
    spread *= (variance / (variance + levels[-1] ** 2)) ** 2
    total = spread * float(matrix @ matrix.T) + 0.5**2
    log_evidence = -0.5 * float((3.0 - matrix @ mean) ** 2 / total) - 0.5 * math.log(2 * math.pi * total)
    runs = [sampler(prior, likelihood, times, 1, Stream(seed)) for seed in range(250)]
    ratio = torch.tensor([math.exp(run.log_evidence - log_evidence) for run in runs], dtype=torch.float64)
    error = ratio.std() / math.sqrt(len(runs))
    assert abs(ratio.mean() - 1) < 4 * error
    exact = prior.mixture.posterior(matrix, likelihood.observation, 0.5)[1]
    assert abs(math.exp(exact - log_evidence) - 1) > 8 * error  # the test sees a bias of the size of the discretisation


def conditional(law: MixtureDenoiser, likelihood: GaussianLikelihood, x: Tensor, t: float) -> tuple[Tensor, ...]:
    """D, C, D_y and C_y at one state, by plain linear algebra."""
    data, covariance = law(x[None], t)[0], law.covariance(x[None], t)[0]
    matrix = likelihood.operator.matrix
    noise = likelihood.sigma**2 * torch.eye(len(matrix), dtype=torch.float64)
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + noise)
    shifted = data + gain @ (likelihood.observation - matrix @ data)
    return data, covariance, shifted, covariance - gain @ matrix @ covariance


@pytest.mark.parametrize("kind", ["full", "isotropic"])
def test_path_density(kind: str) -> None:
    """log reference(path) + log p(y | x₁) = log proposal(path) + Σ log-potentials, for every single path.

    No Monte Carlo error: reference and proposal are rebuilt from dense matrices, on a mixture, so that nothing is
    linear, and what the weights claim must hold to rounding.
    """
    law, likelihood = asymmetric()
    prior = MixtureDenoiser(law, Cosine())
    full = kind == "full"
    belief = FullBelief(prior, likelihood) if full else IsotropicBelief(prior, likelihood, project=True)
    levels = tuple(LogSNR(5, ratio_max=10.0, ratio_min=0.05)(Cosine()).tolist())
    model = TwistedModel(prior, likelihood, belief, levels, tile=3)
    with torch.no_grad():
        stream = Stream(4)
        state, total = model.initial(7, stream.child("initial"))
        claimed = torch.zeros(7, dtype=torch.float64)
        streams = [stream.child("initial"), *(stream.child("step", k) for k in range(model.n_steps))]
        for k in range(model.n_steps):
            before, t = state["x"], levels[k]
            state, potential = model.step(k, state, streams[k + 1])
            total = total + potential
            probes = streams[k].child("probe").normal(7, (2,), dtype=torch.float64)
            for i, (x, after, probe) in enumerate(zip(before, state["x"], probes, strict=True)):
                data, covariance, shifted, narrowed = conditional(prior, likelihood, x, t)
                if not full:  # both kernels take c I, estimated by the probe
                    c = probe @ covariance @ probe / (probe @ probe)
                    covariance = narrowed = c * torch.eye(2, dtype=torch.float64)
                if k < model.n_steps - 1:
                    b = levels[k + 1]
                    reach, s = transition(prior, x, data, t, b)
                    pull = float(Cosine().alpha(b)) * (s / float(Cosine().sigma(b))) ** 2
                    floor = s**2 * torch.eye(2, dtype=torch.float64)
                    p = MultivariateNormal(reach, floor + pull**2 * covariance)
                    m = MultivariateNormal(reach + pull * (shifted - data), floor + pull**2 * narrowed)
                    claimed[i] += p.log_prob(after) - m.log_prob(after)
                elif full:
                    p, m = MultivariateNormal(data, covariance), MultivariateNormal(shifted, narrowed)
                    claimed[i] += p.log_prob(after) - m.log_prob(after)
                else:
                    assert torch.allclose(after, data)  # the chain ends at x₁ = D
        claimed = claimed + likelihood.log_prob(state["x"])
    assert torch.allclose(total, claimed, rtol=0, atol=1e-9)


def test_carried_weights_decide_when_to_resample() -> None:
    """The effective size that is compared with the threshold is that of the cumulative weights."""
    run = smc(Filter(), 200, Stream(3), ess_threshold=0.6)
    resampled = run.parents_trace < 200
    assert resampled.sum() == run.n_resampled > 0
    assert torch.equal(run.ess_trace[:-1] <= 0.6 * 200, resampled[:-1])
    assert run.ess_trace[-1] == pytest.approx(float(ess(run.log_weights)))
