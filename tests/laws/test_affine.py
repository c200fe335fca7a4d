"""Samplers that go down the levels, against their moments: with Gaussian data and a linear measurement each is affine.

The law of a sampler is read off its code by `probe.moments`, without a Monte Carlo error, and must be that of a
recursion stated anew here, direction by direction; what that tends to is compared with what the docstrings say.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import pytest
import torch
from probe import Probe, moments
from problems import gaussian
from torch import Tensor

from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.mixture import GaussianDenoiser, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Scaled, Schedule
from sciflow.diffusion.times import LogSNR
from sciflow.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    GUIDANCE,
    POSTERIORS,
    Dense,
    DiffPIR,
    GaussianLikelihood,
    Guidance,
    Guided,
    MomentMatching,
    PiGDM,
    PnPDM,
    REDDiff,
)
from sciflow.inverse.descent import Descent
from sciflow.inverse.posterior import Posterior
from sciflow.random import Stream
from sciflow.solvers import DDIM, EABM, Euler, Solver, solve

MATRIX = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8]], dtype=torch.float64)
OBSERVATION, SIGMA = torch.tensor([1.5, 0.3], dtype=torch.float64), 0.4
LIKELIHOOD = GaussianLikelihood(OBSERVATION, Dense.of(MATRIX), SIGMA)

CASES: dict[str, Descent] = {
    **{kind: cls() for kind, cls in POSTERIORS.items() if issubclass(cls, Descent) and cls is not REDDiff},
    "ddrm published": DDRM(eta=0.6, eta_b=0.7, published=True),
    "ddnm published": DDNM(zeta=0.7),
    "ddnm with time travel": DDNM(n_repeats=3),
    "diffpir published": DiffPIR(strength=7.0, zeta=0.3, variance=math.inf),
    "daps published": DAPS(n_flow_steps=4, variance=math.inf),
    "pnp_dm, more sweeps": PnPDM(n_sweeps=3, n_inner=4, solver=EABM(1, "data", eta=1.0)),
}


# The recursions, in coordinates Vᵀ of all d directions ---------------------------------------------------------------


def rule(sampler: Descent, s: float, below: float, noise: Tensor, variance: float) -> tuple[Tensor, ...]:
    """z' = a X + b z + c ȳ + √q n for each direction, X the prediction, noise σ̃_i (∞: not measured)."""
    nothing = torch.zeros_like(noise)
    if isinstance(sampler, DDRM):
        pull = math.sqrt(1 - sampler.eta**2) * below / noise
        known = below >= noise
        c = torch.where(known, sampler.eta_b, pull)
        q = torch.where(known, below**2 - (sampler.eta_b * noise) ** 2, (sampler.eta * below) ** 2)
        fresh = sampler.eta**2 if sampler.published else 1 - below**2 / s**2
        free = noise == math.inf
        b = torch.where(free, nothing + math.sqrt(1 - fresh) * below / s, 0.0)
        q = torch.where(free, fresh * below**2, q)
        return (1 - b - c, b, c, q) if below else (nothing + 1, nothing, nothing, nothing)
    width = 1 / (1 / s**2 + (0 if getattr(sampler, "variance", None) == math.inf else 1 / variance))
    if isinstance(sampler, DAPS):
        gain = width / (width + noise**2)
        return 1 - gain, nothing, gain, width * (1 - gain) + below**2
    if isinstance(sampler, PnPDM):
        gain = below**2 / (below**2 + noise**2)
        return 1 - gain, nothing, gain, below**2 * (1 - gain)
    assert isinstance(sampler, DDNM | DiffPIR)
    fresh = 1 - below**2 / s**2 if sampler.zeta is None else sampler.zeta
    kept = math.sqrt(1 - fresh) * below / s
    if isinstance(sampler, DiffPIR):
        width = width / sampler.strength
        gain = width / (width + noise**2)
        return (1 - kept) * (1 - gain), nothing + kept, (1 - kept) * gain, nothing + fresh * below**2
    added = math.sqrt(fresh) * below
    gain = torch.where(added >= (1 - kept) * noise, 1.0, added / ((1 - kept) * noise))
    free = noise == math.inf
    q = added**2 - torch.where(free, 0.0, (1 - kept) * gain * noise) ** 2
    gain = torch.where(free, 0.0, gain)
    return (1 - kept) * (1 - gain), nothing + kept, (1 - kept) * gain, q.clamp_min(0)


def ratio(prior: MixtureDenoiser, t: float) -> float:
    return float(prior.schedule.sigma(t)) / float(prior.schedule.alpha(t))


def prediction(sampler: Descent, prior: MixtureDenoiser, times: list[float], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """F, f, Q of X = F z + f + N(0, Q) at level k: the denoiser, or a flow to the last level and the denoiser there."""
    n_steps = {DAPS: "n_flow_steps", PnPDM: "n_inner"}.get(type(sampler))
    n_steps = getattr(sampler, n_steps) if n_steps and k < len(times) - 1 else 0
    if not n_steps:
        law, s = prior.mixture, ratio(prior, times[k])
        gain = law.covariances[0] @ torch.linalg.inv(law.covariances[0] + s**2 * torch.eye(3).double())
        return gain, law.means[0] - gain @ law.means[0], torch.zeros(3, 3).double()
    alpha = [float(prior.schedule.alpha(t)) for t in times]
    start = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    ends = (float(prior.schedule.log_snr(times[i])) for i in (k, -1))
    log_snr = torch.linspace(*ends, n_steps + 1, dtype=torch.float64)
    grid = [times[k], *prior.schedule.time(log_snr)[1:-1].tolist(), times[-1]]

    def flow(z: Tensor, stream: Probe) -> Tensor:
        return prior(solve(probability_flow(prior), alpha[k] * z, grid, sampler.solver, stream=stream), times[-1])

    with torch.no_grad():
        images = flow(start, Probe(torch.zeros(4, 0).double()))
        _, spread, _ = moments(lambda probe, n: flow(torch.zeros(n, 3).double(), probe))
    return (images[1:] - images[0]).T, images[0], spread


def recursion(sampler: Descent, prior: MixtureDenoiser, times: list[float]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the draws, by the formulas."""
    left, singular, right = torch.linalg.svd(MATRIX, full_matrices=True)
    noise = torch.cat([SIGMA / singular, torch.tensor([math.inf]).double()])
    target = torch.cat([left.T @ OBSERVATION / singular, torch.zeros(1).double()])
    schedule, law = prior.schedule, prior.mixture
    s = [ratio(prior, t) for t in times] + [0.0]
    mean, cov = right @ law.means[0], right @ law.covariances[0] @ right.T + s[0] ** 2 * torch.eye(3).double()
    if isinstance(sampler, DDRM):
        known = noise < s[0]
        mean = torch.where(known, target, mean)
        cov = torch.where(known[:, None] | known, 0.0, cov) + torch.diag((s[0] ** 2 - noise**2).clamp_min(0))
    for k in range(len(times)):
        f_map, f_shift, f_noise = prediction(sampler, prior, times, k)
        f_map, f_shift, f_noise = right @ f_map @ right.T, right @ f_shift, right @ f_noise @ right.T
        n_repeats = getattr(sampler, "n_repeats", 1) + getattr(sampler, "n_sweeps", 1) - 1
        for again in reversed(range(n_repeats)):
            below = s[k] if again and isinstance(sampler, PnPDM) else s[k + 1]
            a, b, c, q = rule(sampler, s[k], below, noise, float(getattr(schedule, "std", 1.0)) ** 2)
            step = a[:, None] * f_map + torch.diag(b)
            mean = step @ mean + a * f_shift + c * target
            cov = step @ cov @ step.T + a[:, None] * f_noise * a + torch.diag(q)
            if again and isinstance(sampler, DDNM):
                cov = cov + (s[k] ** 2 - s[k + 1] ** 2) * torch.eye(3).double()
    return right.T @ mean, right.T @ cov @ right


def of_code(sampler: Posterior, prior: MixtureDenoiser, times: Tensor) -> tuple[Tensor, Tensor, float]:
    return moments(lambda probe, n: sampler(prior, LIKELIHOOD, times, n, probe).x)


@pytest.mark.parametrize("schedule", [EDM(), Scaled(Cosine(), 0.8)], ids=["edm", "scaled cosine"])
@pytest.mark.parametrize("name", CASES)
def test_moments_are_those_of_the_recursion(name: str, schedule: Schedule) -> None:
    """A correlated Gaussian, two of three directions measured; 1e-10 of rounding of numbers of size 20."""
    prior = MixtureDenoiser(gaussian(), schedule)
    times = LogSNR(7, ratio_max=20.0, ratio_min=0.02)(schedule)
    mean, covariance, departure = of_code(CASES[name], prior, times)
    assert departure < 1e-12  # rounding
    wanted = recursion(CASES[name], prior, times.tolist())
    assert torch.allclose(mean, wanted[0], rtol=1e-10, atol=1e-10)
    assert torch.allclose(covariance, wanted[1], rtol=1e-10, atol=1e-10)
    assert float(wanted[1].diagonal().min()) > 1e-6  # there is a spread to be compared


# What they tend to ---------------------------------------------------------------------------------------------------


def isotropic(variance: float) -> MixtureDenoiser:
    mean = torch.tensor([0.7, -0.4, 0.2], dtype=torch.float64)
    return GaussianDenoiser(mean, variance * torch.eye(3, dtype=torch.float64), Scaled(EDM(), math.sqrt(variance)))


def against_exact(sampler: Descent, n_steps: int, variance: float = 0.5) -> tuple[Tensor, Tensor]:
    """Variance over the exact one in the three directions Vᵀ, and the mean's error in standard deviations."""
    prior = isotropic(variance)
    times = LogSNR(n_steps, ratio_max=50.0, ratio_min=5e-3)(prior.schedule)
    mean, covariance = recursion(sampler, prior, times.tolist())
    exact, _ = prior.mixture.posterior(MATRIX, OBSERVATION, SIGMA)
    right = torch.linalg.svd(MATRIX, full_matrices=True)[2]
    got, true = ((right @ c @ right.T).diagonal() for c in (covariance, exact.covariances[0]))
    return got / true, (right @ (mean - exact.means[0])) / true.sqrt()


def limit(sampler: Descent) -> Tensor:
    """Variance over the exact one and the mean's error in standard deviations, (2, 3), as steps → ∞.

    Extrapolated from 150 and 300 steps; what is left is of second order in the step of 0.03 in λ.
    """
    coarse, fine = (torch.stack(against_exact(sampler, n)) for n in (150, 300))
    return 2 * fine - coarse


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        (DDRM(eta=0.85, published=True), math.sqrt(1 - 0.85**2)),
        (DDRM(eta=1.0, published=True), 0.0),
        (DDNM(zeta=0.1), math.sqrt(0.9)),
        (DiffPIR(zeta=1.0, variance=math.inf), 0.0),
    ],
    ids=repr,
)
def test_published_noise_leaves_too_little_where_nothing_was_measured(sampler: Descent, kept: float) -> None:
    """(1 + c)/2 of the variance as steps → ∞, c the kept share of the predicted noise: 0.763, 0.5, 0.974."""
    assert float(limit(sampler)[0, 2]) == pytest.approx((1 + kept) / 2, abs=0.005)  # second order: 0.03² times some


@pytest.mark.parametrize("name", ["ddrm", "ddnm", "diffpir"])
def test_the_noise_of_the_time_reversal_is_right_there(name: str) -> None:
    assert float(limit(CASES[name])[0, 2]) == pytest.approx(1, abs=0.005)  # as above


def test_diffpir_is_exact_for_isotropic_data_in_the_limit() -> None:
    ratios, shifts = limit(DiffPIR())
    assert (ratios - 1).abs().max() < 0.005 and shifts.abs().max() < 0.005  # as above
    assert against_exact(DiffPIR(strength=7.0), 150)[0][:2].min() > 1.3  # a strength of 7 is wider than it should be


@pytest.mark.parametrize("n_steps", [3, 30])
def test_daps_is_exact_for_isotropic_data_at_any_number_of_levels(n_steps: int) -> None:
    """Through the code; what is left is the start, which does not know y: (v/u²)-sized at each of the levels."""
    prior = isotropic(0.5)
    times = LogSNR(n_steps, ratio_max=3e4, ratio_min=1e-2)(prior.schedule)
    exact, _ = prior.mixture.posterior(MATRIX, OBSERVATION, SIGMA)
    mean, covariance, _ = of_code(DAPS(), prior, times)
    assert torch.allclose(mean, exact.means[0], atol=1e-8)  # 1/u² = 1e-9
    assert torch.allclose(covariance, exact.covariances[0], atol=1e-8)


def unmeasured(n_levels: int, variance: float = 0.5) -> float:
    """Variance over v in a direction that nothing measured, by DAPS with r = s and the exact flow, κ² = v/(v + s²)."""
    s = torch.logspace(math.log10(50.0), math.log10(5e-3), n_levels, dtype=torch.float64).tolist()
    spread = variance + s[0] ** 2
    for here, below in itertools.zip_longest(s, s[1:], fillvalue=0.0):
        spread = variance / (variance + here**2) * spread + here**2 + below**2
    return spread / variance


def test_the_flow_of_daps_doubles_the_spread_where_nothing_was_measured() -> None:
    """Its end has the spread of the data by itself, and r² comes on top: V = κ² V + 2 s² gives V = 2 (v + s²)."""
    coarse, fine = unmeasured(4000), unmeasured(8000)
    assert 2 * fine - coarse == pytest.approx(2, abs=0.01)  # extrapolated in the step of 0.001
    right = torch.linalg.svd(MATRIX, full_matrices=True)[2]
    prior = isotropic(0.5)
    times = LogSNR(11, ratio_max=50.0 / math.sqrt(0.5), ratio_min=5e-3 / math.sqrt(0.5))(prior.schedule)
    _, covariance, _ = of_code(DAPS(n_flow_steps=32, variance=math.inf, solver=EABM(3)), prior, times)
    found = float((right @ covariance @ right.T)[2, 2]) / 0.5
    assert found == pytest.approx(unmeasured(12), rel=0.02)  # steps of 0.3 in λ at most, the first two of lower order
    assert float(limit(DAPS(variance=math.inf))[0, 2]) == pytest.approx(1, abs=0.005)  # without the flow


def test_pnp_dm_at_one_level_has_the_law_of_its_joint_density() -> None:
    """x ~ p(x) N(y; A x, σ_y² + ρ² A Aᵀ) after many sweeps at ρ = 0.5, read off the code."""
    rho, prior = 0.5, MixtureDenoiser(gaussian(), EDM())
    times = torch.tensor([float(EDM().time(-math.log(u))) for u in (rho, 2e-3)], dtype=torch.float64)
    mean, covariance, _ = of_code(PnPDM(n_sweeps=25, n_inner=20), prior, times)
    noise = SIGMA**2 * torch.eye(2).double() + rho**2 * MATRIX @ MATRIX.T
    white = torch.linalg.inv(torch.linalg.cholesky(noise))
    law, _ = gaussian().posterior(white @ MATRIX, white @ OBSERVATION, 1.0)
    size = law.covariances[0].diagonal().sqrt()
    # second order in a step of 0.28 in λ, and 2e-3 of the last level; contraction per sweep 1/(1 + ρ²/v) at v = 1.5
    assert ((mean - law.means[0]).abs() / size).max() < 0.03
    assert ((covariance - law.covariances[0]).abs() / (size[:, None] * size)).max() < 0.03
    exact, _ = gaussian().posterior(MATRIX, OBSERVATION, SIGMA)
    assert (law.covariances[0].diagonal() / exact.covariances[0].diagonal()).max() > 1.2  # that is not the posterior


@pytest.mark.parametrize("make", [DDRM, DDNM])
def test_spectral_samplers_lose_their_spread_where_something_was_measured(make: type[Descent]) -> None:
    found = torch.stack([against_exact(make(), n)[0][:2] for n in (25, 75, 225)])
    assert (found[1:] < 0.7 * found[:-1]).all() and found[-1].max() < 0.1  # tends to 0 with more steps


# Guided flows --------------------------------------------------------------------------------------------------------

GUIDED: dict[str, Guidance] = {
    "dps": functools.partial(DPS, scale=0.2),  # at 1 the flow is stiff: its numbers, and their rounding, explode
    "pigdm": PiGDM,
    "pigdm of another variance": functools.partial(PiGDM, variance=0.3),
    "moment_matching": MomentMatching,
    "moment_matching iterated": functools.partial(MomentMatching, closed_form=False, tolerance=0, max_iterations=2),
}


def guided_mean(name: str, prior: MixtureDenoiser, t: float) -> tuple[Tensor, Tensor]:
    """D_y(x) = M x + m at time t: D moved by s² Gᵀ Aᵀ W (y − A D), G = ∂D/∂z, z = x/α, W⁻¹ the assumed spread of y."""
    s, centre, cov, eye = ratio(prior, t), prior.mixture.means[0], prior.mixture.covariances[0], torch.eye(3).double()
    gain = cov @ torch.linalg.inv(cov + s**2 * eye)
    variance = 0.3 if "another" in name else float(getattr(prior.schedule, "std", 1.0)) ** 2
    isotropic = eye / (1 / variance + 1 / s**2)
    spread = {"dps": 0 * eye, "pigdm": isotropic, "moment_matching": s**2 * gain, "none": eye}[name.split()[0]]
    weight = torch.linalg.inv(MATRIX @ spread @ MATRIX.T + SIGMA**2 * torch.eye(2).double())
    pull = {"dps": 0.2, "none": 0.0}.get(name, 1.0) * s**2 * gain.T @ MATRIX.T @ weight
    kept = eye - pull @ MATRIX
    return kept @ gain / float(prior.schedule.alpha(t)), kept @ (centre - gain @ centre) + pull @ OBSERVATION


def guided_recursion(name: str, solver: Solver, prior: MixtureDenoiser, times: list[float]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x along DDIM, α' D_y + σ' (x − α D_y)/σ, or along Euler's steps of the flow."""
    schedule, eye = prior.schedule, torch.eye(3).double()
    levels = [[float(of(t)) for of in (schedule.alpha, schedule.sigma)] for t in times]
    alpha, sigma = levels[0]
    mean = alpha * prior.mixture.means[0]
    cov = alpha**2 * prior.mixture.covariances[0] + sigma**2 * eye
    if not name.startswith("dps"):  # these start at x + α (D_y − D)
        own, free = guided_mean(name, prior, times[0]), guided_mean("none", prior, times[0])
        start = eye + alpha * (own[0] - free[0])
        mean, cov = start @ mean + alpha * (own[1] - free[1]), start @ cov @ start.T
    for k, (t, below) in enumerate(itertools.pairwise(times)):
        (alpha, sigma), (ahead, left) = levels[k : k + 2]
        a, b = ahead - alpha * left / sigma, left / sigma  # of D_y and x
        if isinstance(solver, Euler):
            rise, fall = float(schedule.alpha_rate(t)), float(schedule.sigma_rate(t))
            a, b = (below - t) * (rise - alpha * fall / sigma), 1 + (below - t) * fall / sigma
        matrix, shift = guided_mean(name, prior, t)
        step = a * matrix + b * eye
        mean, cov = step @ mean + a * shift, step @ cov @ step.T
    matrix, shift = guided_mean(name, prior, times[-1])
    return matrix @ mean + shift, matrix @ cov @ matrix.T


@pytest.mark.parametrize("schedule", [EDM(), Scaled(Cosine(), 0.8)], ids=["edm", "scaled cosine"])
@pytest.mark.parametrize("solver", [DDIM(), Euler()], ids=["ddim", "euler"])
@pytest.mark.parametrize("name", GUIDED)
def test_moments_of_a_guided_flow_are_those_of_the_recursion(name: str, solver: Solver, schedule: Schedule) -> None:
    """As above, to 1e-10 of rounding. `normalised` DPS is left out: a pull by the residual's norm is not affine."""
    prior = MixtureDenoiser(gaussian(), schedule)
    times = LogSNR(12, ratio_max=20.0, ratio_min=0.02)(schedule)
    mean, covariance, departure = of_code(Guided(GUIDED[name], solver), prior, times)
    assert departure < 1e-12  # rounding
    wanted = guided_recursion(name, solver, prior, times.tolist())
    assert torch.allclose(mean, wanted[0], rtol=1e-10, atol=1e-10)
    assert torch.allclose(covariance, wanted[1], rtol=1e-10, atol=1e-10)
    assert float(wanted[1].diagonal().min()) > 1e-6  # there is a spread to be compared


def test_every_guidance_is_looked_at() -> None:
    assert {name.split()[0] for name in GUIDED} == set(GUIDANCE)


# RED-diff ------------------------------------------------------------------------------------------------------------


def test_red_diff_is_adam_on_its_gradient() -> None:
    """Path by path, with the noise prediction and Adam as their papers have them."""
    prior, stream, n = MixtureDenoiser(gaussian(), EDM()), Stream(3, tile=5), 5
    times = LogSNR(30, ratio_max=20.0, ratio_min=0.02)(EDM())
    drawn = REDDiff(strength=0.4, learning_rate=0.05, weight="sqrt")(prior, LIKELIHOOD, times, n, stream).x
    centre = prior(torch.zeros(n, 3).double(), float(times[0]))
    u = float(EDM().sigma(times[0]) / EDM().alpha(times[0]))
    width = u**2 / (1 + u**2)
    gain = width * MATRIX.T @ torch.linalg.inv(width * MATRIX @ MATRIX.T + SIGMA**2 * torch.eye(2).double())
    mean = centre + (OBSERVATION - centre @ MATRIX.T) @ gain.T
    m = v = torch.zeros_like(mean)
    for k, t in enumerate(times.tolist()):
        alpha, sigma = float(EDM().alpha(t)), float(EDM().sigma(t))
        noise = stream.child("step").normal(n, (3,), step=k, dtype=torch.float64)
        x = alpha * mean + sigma * noise
        predicted = (x - alpha * prior(x, t)) / sigma
        gradient = (mean @ MATRIX.T - OBSERVATION) @ MATRIX + 0.4 * math.sqrt(sigma / alpha) * (predicted - noise)
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        mean = mean - 0.05 * (m / (1 - 0.9 ** (k + 1))) / ((v / (1 - 0.99 ** (k + 1))).sqrt() + 1e-8)
    assert torch.allclose(drawn, mean, rtol=0, atol=1e-9)  # rounding, through 30 divisions by √v


def test_red_diff_has_no_spread() -> None:
    prior = MixtureDenoiser(gaussian(), EDM())
    exact, _ = gaussian().posterior(MATRIX, OBSERVATION, SIGMA)
    times = LogSNR(300, ratio_max=20.0, ratio_min=0.01)(EDM())
    drawn = REDDiff()(prior, LIKELIHOOD, times, 64, Stream(0)).x
    measured = (drawn @ MATRIX.T).var(0) / (MATRIX @ exact.covariances[0] @ MATRIX.T).diagonal()
    assert measured.max() < 0.01  # a posterior has 1
    assert (drawn @ MATRIX.T - OBSERVATION).abs().max() < 0.05  # and y is met, noise and all: σ_y is 0.4


# All of them ---------------------------------------------------------------------------------------------------------


def test_every_sampler_that_goes_down_the_levels_is_looked_at() -> None:
    looked = {type(sampler) for sampler in CASES.values()} | {REDDiff}
    assert looked == {cls for cls in POSTERIORS.values() if issubclass(cls, Descent)}


@pytest.mark.parametrize("kind", [kind for kind, cls in POSTERIORS.items() if issubclass(cls, Descent)])
def test_draws_do_not_depend_on_how_many_there_are(kind: str) -> None:
    prior = MixtureDenoiser(gaussian(), EDM())
    assumed = replace(LIKELIHOOD, observation=OBSERVATION.float())
    times = LogSNR(4, ratio_max=10.0, ratio_min=0.05)(EDM())
    runs = {n: POSTERIORS[kind]()(prior, assumed, times, n, Stream(5)).x for n in (40, 64, 200)}
    assert runs[200].dtype == torch.float32
    assert all(torch.equal(one, other[: len(one)]) for one, other in itertools.pairwise(runs.values()))
    assert not torch.equal(runs[40], POSTERIORS[kind]()(prior, assumed, times, 40, Stream(6)).x)
