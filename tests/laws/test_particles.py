"""Resampling and evidence are unbiased, weights are what they claim, and twisted SMC finds closed forms."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hidden_chain import Filter
from torch import Tensor
from torch.distributions import MultivariateNormal

from sciflow.diffusion.flow import transition
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear
from sciflow.diffusion.times import Karras, LogSNR
from sciflow.inverse import Dense, GaussianLikelihood, TwistedSMC
from sciflow.inverse.belief import FullBelief, IsotropicBelief
from sciflow.particles import RESAMPLERS, ess, smc
from sciflow.random import Stream
from sciflow.steering.twisted import TwistedModel

every_scheme = pytest.mark.parametrize("scheme", RESAMPLERS)


# The driver ------------------------------------------------------------------------------------------------------


NEVER, ADAPTIVE, ALWAYS = 1e-9, 0.5, 1.0


@pytest.mark.parametrize(
    ("scheme", "threshold"),
    [("systematic", NEVER), *((scheme, threshold) for scheme in RESAMPLERS for threshold in (ADAPTIVE, ALWAYS))],
)
def test_evidence_is_unbiased(scheme: str, threshold: float) -> None:
    """E[Ẑ] = Z for 48 particles over 400 islands, whether weights are carried or not; lost ones would show."""
    log_evidence, *_ = Filter().kalman()
    run = smc(Filter(), 400 * 48, Stream(0), scheme, threshold, islands=400)
    ratio = (run.island_log_evidence - log_evidence).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(400)
    least, most = {NEVER: (0, 0), ALWAYS: (8 * 400, 8 * 400)}.get(threshold, (400, 8 * 400 - 1))
    assert least <= run.n_resampled <= most


@pytest.mark.slow
@every_scheme
def test_filter_moments(scheme: str) -> None:
    """Mean and variance of the last state against Kalman, over 160 runs of 400 particles."""
    _, mean, variance = Filter().kalman()
    runs = [smc(Filter(), 400, Stream(seed), scheme) for seed in range(160)]
    for got, expected in (([run.mean() for run in runs], mean), ([run.var() for run in runs], variance)):
        values = torch.cat(got)
        # O(1/n) bias of a ratio estimate: below 2/400 of the spread here
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(160) + 2 / 400 * math.sqrt(variance)


@pytest.mark.slow
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


def surprises(values: Tensor, expected: Tensor) -> list[tuple[float, float]]:
    """(distance, standard error) wherever the mean over runs is more than 4 standard errors off."""
    off, error = (values.mean(0) - expected).abs(), values.std(0) / math.sqrt(len(values))
    return [(o, e) for o, e in zip(off.tolist(), error.tolist(), strict=True) if not o <= 4 * e]


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
    assert not surprises(torch.stack([run.mean() for run in runs]) / spread, exact.mean() / spread), "mean"
    assert not surprises(torch.stack([run.var() for run in runs]) / spread**2, torch.ones_like(spread)), "variance"
    modes = torch.stack([run.weights @ exact.components(run.x).softmax(1) for run in runs])
    assert not surprises(modes, exact.weights), "modes"
    ratio = torch.tensor([[math.exp(run.log_evidence - log_evidence)] for run in runs], dtype=torch.float64)
    assert not surprises(ratio, torch.ones(1, dtype=torch.float64)), "evidence"


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
    """E[Ẑ]/Z for 400 islands of 40 particles on four coarse steps, with a twist of the wrong width.

    For an isotropic Gaussian prior c = C exactly, so the chain is Gaussian and its law at the end is a recursion. It
    ends at u = 1 with x₁ = D, so its evidence differs from the exact one, and the test can tell the two apart.
    """
    mean, variance = torch.tensor([0.7, -0.4], dtype=torch.float64), 1.5
    prior = GaussianDenoiser(mean, variance * torch.eye(2, dtype=torch.float64), EDM())
    matrix = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    likelihood = GaussianLikelihood(torch.tensor([3.0], dtype=torch.float64), Dense.of(matrix), 0.5)
    times = LogSNR(4, ratio_max=20.0, ratio_min=1.0)(EDM())
    sampler = TwistedSMC(400 * 40, "pigdm", variance=3.0, ess_threshold=threshold, islands=400)
    levels = [float(EDM().sigma(t)) for t in times]  # α = 1
    spread = variance + levels[0] ** 2  # variance of x along the chain; its mean stays m
    for a, b in itertools.pairwise(levels):
        zeta, gain, c = 1 - (b / a) ** 2, variance / (variance + a**2), variance * a**2 / (variance + a**2)
        spread = ((1 - zeta) + zeta * gain) ** 2 * spread + b**2 * zeta + zeta**2 * c
    spread *= (variance / (variance + levels[-1] ** 2)) ** 2
    total = spread * float(matrix @ matrix.T) + 0.5**2
    log_evidence = -0.5 * float((3.0 - matrix @ mean) ** 2 / total) - 0.5 * math.log(2 * math.pi * total)
    ratio = (sampler(prior, likelihood, times, 1, Stream(0)).island_log_evidence - log_evidence).exp()
    error = ratio.std() / math.sqrt(len(ratio))
    assert abs(ratio.mean() - 1) < 4 * error
    exact = prior.mixture.posterior(matrix, likelihood.observation, 0.5)[1]
    assert abs(math.exp(exact - log_evidence) - 1) > 8 * error  # the test sees a bias of the size of the discretisation


def test_the_jacobian_of_a_denoiser_is_its_covariance() -> None:
    """Twisted SMC that differentiates the denoiser gives the bits of one that is told the covariance, to rounding."""
    law, likelihood = asymmetric()
    prior, times = MixtureDenoiser(law, EDM()), Karras(8, ratio_max=30.0, ratio_min=0.02)(EDM())
    told = TwistedSMC(50, ess_threshold=NEVER)(prior, likelihood, times, 1, Stream(0))
    own = TwistedSMC(50, "jacobian", ess_threshold=NEVER)(Opaque(prior), likelihood, times, 1, Stream(0))
    # the derivative divides by α/σ² of the first level, 1e-3, and the Cholesky factors of both are those of 1e3 more
    assert own.log_evidence == pytest.approx(told.log_evidence, abs=1e-8)
    assert torch.allclose(own.x, told.x, atol=1e-6)


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
    model = TwistedModel(prior, belief, levels, likelihood.observation, tile=3)
    with torch.no_grad():
        stream = Stream(4)
        state, total = model.initial(7, stream.child("initial"))
        claimed = torch.zeros(7, dtype=torch.float64)
        streams = [stream.child("initial"), *(stream.child("step", k) for k in range(model.n_steps))]
        for k in range(model.n_steps):
            before, t = state["x"].clone(), levels[k]  # a move takes place in the memory that it is given
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
