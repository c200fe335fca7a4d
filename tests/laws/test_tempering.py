"""Kernels leave their law alone, annealing is unbiased, and what was adapted agrees with what was fixed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Cosine
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse import Dense, GaussianLikelihood, Tempered
from sciflow.particles import KERNELS, smc
from sciflow.particles.adaptation import Adaptation, next_temperature, pilot
from sciflow.particles.kernels import HMC, MALA, ULA, Kernel
from sciflow.particles.resampling import ess
from sciflow.particles.tempering import Bridge, NormalBase, Stage, Tempering, advance, ladder
from sciflow.particles.transport import fit_drift
from sciflow.random import Stream
from sciflow.solvers.metropolis import Point, Scale, langevin_log_ratio, look

LAW = GaussianMixture(  # unequal modes, unequal widths, correlated: a sign error cannot hide behind a symmetry
    torch.tensor([0.7, 0.3], dtype=torch.float64),
    torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64),
    torch.tensor([[[0.3, 0.0], [0.0, 0.3]], [[0.5, 0.3], [0.3, 0.4]]], dtype=torch.float64),
)
LOG_Z = math.log(3.7)
BRIDGE = Bridge(
    NormalBase(torch.zeros(2, dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)),
    lambda x: LAW.log_prob(x) + LOG_Z,
)
FACTOR = torch.tensor([[0.9, 0.0], [-0.6, 1.3]], dtype=torch.float64)
SCALES: dict[str, Scale] = {"unit": 1.0, "diagonal": FACTOR.diagonal(), "full": FACTOR}
TESTED = [kind for kind in KERNELS if KERNELS[kind]().target_acceptance is not None]
every_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Stream(seed).normal(shape[0], shape[1:], dtype=torch.float64)


def off(values: Tensor, expected: Tensor | float) -> Tensor:
    """Distance of a mean over independent rows from what it should be, in standard errors."""
    return ((values.mean(0) - expected) / values.std(0) * math.sqrt(len(values))).abs()


# Kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TESTED)
@every_scale
def test_a_kernel_with_a_test_leaves_its_law_invariant(kind: str, scale: Scale) -> None:
    """Exact draws of a mixture stay draws: means, second moments and mode weights after 6 moves of 20 000 rows."""
    kernel: Kernel = KERNELS[kind]()
    x = LAW.sample(20_000, Stream(1))
    start = x
    for move in range(6):
        x, rate = kernel.move(LAW.log_prob, x, Stream(2).child(move), kernel.step, scale)
    assert 0.1 < float(rate.mean()) < 0.999, "it moves, and the test refuses something"
    assert float((x != start).any(1).double().mean()) > 0.5
    second = LAW.covariance() + torch.outer(LAW.mean(), LAW.mean())
    products = (x[:, :, None] * x[:, None, :]).flatten(1)
    assert bool((off(x, LAW.mean()) < 4).all()) and bool((off(products, second.flatten()) < 4).all())
    assert float(off(LAW.components(x).softmax(1)[:, 0], 0.7)) < 4


@every_scale
def test_the_unadjusted_kernel_is_biased_as_stated(scale: Scale) -> None:
    """On N(0, S Sᵀ) the variance becomes S Sᵀ/(1 − h²/4): 4 standard errors from there, many from the truth."""
    step, n = 0.8, 40_000
    factor = scale if isinstance(scale, Tensor) and scale.ndim == 2 else torch.eye(2, dtype=torch.float64) * scale
    precision = torch.linalg.inv(factor @ factor.T)
    z = normal(n, 2) @ factor.T / math.sqrt(1 - step**2 / 4)
    for move in range(4):
        z, rate = ULA().move(lambda x: -0.5 * ((x @ precision) * x).sum(1), z, Stream(3).child(move), step, scale)
    assert bool((rate == 1).all())
    white = torch.linalg.solve(factor, z.T).T
    squares = white**2
    assert bool((off(squares, 1 / (1 - step**2 / 4)) < 4).all())
    assert bool((off(squares, 1.0) > 8).all()), "the bias of 19 % is seen at √(2/40 000) = 0.7 %"


@every_scale
def test_detailed_balance_of_mala(scale: Scale) -> None:
    """γ(x) q(x'|x) a(x, x') = γ(x') q(x|x') a(x', x) on arbitrary pairs, with q written by another library."""
    step = 0.7
    pairs = LAW.mean() + 1.5 * normal(2, 200, 2)
    factor = scale if isinstance(scale, Tensor) and scale.ndim == 2 else torch.eye(2, dtype=torch.float64) * scale
    metric = factor @ factor.T
    start, end = (look(LAW.log_prob, x, scale) for x in pairs)

    def log_proposal(a: Tensor, b: Tensor) -> Tensor:
        gradient = torch.autograd.functional.jacobian(lambda x: LAW.log_prob(x).sum(), a)
        return MultivariateNormal(a + 0.5 * step**2 * gradient @ metric, step**2 * metric).log_prob(b)

    ratio = langevin_log_ratio(start, end, step, scale)
    back = langevin_log_ratio(end, start, step, scale)
    there = LAW.log_prob(pairs[0]) + log_proposal(*pairs) + ratio.clamp_max(0)
    again = LAW.log_prob(pairs[1]) + log_proposal(pairs[1], pairs[0]) + back.clamp_max(0)
    assert torch.allclose(there, again, rtol=1e-10, atol=1e-8)  # float64, log-densities to some 100
    assert float(ratio.min()) < -1 and float(ratio.max()) > 1, "the pairs are not all alike"


@every_scale
def test_hmc_is_reversible_and_keeps_volume(scale: Scale) -> None:
    """The two facts that make its acceptance min(1, exp(−ΔH)) detailed balance for the joint law of x and p."""
    kernel, step, x, p = HMC(n_leapfrog=4), 0.35, LAW.mean() + normal(20, 2), normal(20, 2, seed=5)

    def flow(at: Tensor, momentum: Tensor) -> tuple[Point, Tensor]:
        return kernel.trajectory(LAW.log_prob, look(LAW.log_prob, at, scale), momentum, step, scale)

    end, q = flow(x, p)
    again, back = flow(end.x, -q)
    # float64 rounding, amplified by at most e^(4 steps of a stiff mode)
    assert torch.allclose(again.x, x, atol=1e-9) and torch.allclose(back, -p, atol=1e-9)
    assert float((end.x - x).norm(dim=1).min()) > 1e-2
    h, columns = 1e-5, []
    for axis in range(4):
        bump = h * torch.eye(4, dtype=torch.float64)[axis]
        (up, up_p), (down, down_p) = (flow(x + sign * bump[:2], p + sign * bump[2:]) for sign in (1, -1))
        columns.append(torch.cat([up.x - down.x, up_p - down_p], 1) / (2 * h))
    determinant = torch.linalg.det(torch.stack(columns, 2))
    assert torch.allclose(
        determinant, torch.ones_like(determinant), atol=1e-5
    )  # h² of central differences, stiff modes


def test_moves_are_the_same_for_any_tile() -> None:
    x = LAW.sample(100, Stream(1))
    model = [Tempering(BRIDGE, ladder(3, 0.5), MALA(), 2, tile) for tile in (7, 100)]
    first, second = (m.step(0, {"x": x}, Stream(4)) for m in model)
    # products of another batch shape differ in their last bits
    assert torch.allclose(first[0]["x"], second[0]["x"], atol=1e-12)
    assert torch.allclose(first[1], second[1], atol=1e-11)


def test_what_leaves_the_numbers_stays_and_what_is_broken_is_said() -> None:
    far = torch.full((4, 2), 1e3, dtype=torch.float64)
    x, rate = HMC(n_leapfrog=60).move(lambda x: -(x**4).sum(1), far, Stream(0), 1.0)
    assert torch.equal(x, far) and bool((rate == 0).all())

    def half_line(x: Tensor) -> Tensor:
        return (-x.sum(1)).masked_fill((x <= 0).any(1), -math.inf)

    x = 1e-3 + torch.rand(500, 2, dtype=torch.float64, generator=Stream(1).generator())
    moved, rate = MALA().move(half_line, x, Stream(0), 0.9)
    assert bool((moved > 0).all()) and bool((rate == 0).any()) and bool((rate > 0).any())

    def broken(x: Tensor) -> Tensor:
        return LAW.log_prob(x).masked_fill(x[:, 0] > 3, math.nan)

    model = Tempering(Bridge(LAW, broken), ladder(2, 1.5))
    with pytest.raises(NonFiniteError, match=r"log-potentials are NaN"):
        smc(model, 200, Stream(0))


# Annealing -------------------------------------------------------------------------------------------------------


NEVER, ADAPTIVE, ALWAYS = 1e-9, 0.5, 1.0


@pytest.mark.parametrize(
    ("kernel", "threshold"),
    [
        (MALA(), NEVER),
        (MALA(), ADAPTIVE),
        *(pytest.param(kernel, t, marks=pytest.mark.slow) for kernel, t in ((MALA(), ALWAYS), (HMC(0.4, 3), ADAPTIVE))),
    ],
)
def test_evidence_is_unbiased(kernel: Kernel, threshold: float) -> None:
    """E[Ẑ] = Z of a shifted mixture from 24 particles, 400 runs; NEVER is annealed importance sampling."""
    model = Tempering(BRIDGE, ladder(4, kernel.step, torch.tensor([1.0, 1.3]), 2.0), kernel)
    runs = [smc(model, 24, Stream(seed), ess_threshold=threshold) for seed in range(400)]
    ratio = torch.tensor([math.exp(run.log_evidence - LOG_Z) for run in runs], dtype=torch.float64)
    assert float(off(ratio, 1.0)) < 4 and float(ratio.std()) < 0.6
    assert {NEVER: 0, ADAPTIVE: 1, ALWAYS: 4}[threshold] <= max(run.n_resampled for run in runs)


def test_maps_change_the_weights_and_not_the_evidence() -> None:
    """Any affine map between temperatures, however bad, leaves E[Ẑ] = Z: its volume is in the weight."""
    stages = []
    for k, stage in enumerate(ladder(3, 0.9)):
        drift = fit_drift(normal(50, 2, seed=k), normal(50, 2, seed=k + 10), normal(50, 1, seed=k + 20)[:, 0], "affine")
        stages.append(stage._replace(transport=drift.flow(0.4)))
    runs = [smc(Tempering(BRIDGE, tuple(stages)), 64, Stream(seed)) for seed in range(400)]
    ratio = torch.tensor([math.exp(run.log_evidence - LOG_Z) for run in runs], dtype=torch.float64)
    assert float(off(ratio, 1.0)) < 4
    assert max(abs(stage.transport.log_det) for stage in stages if stage.transport) > 0.05


def gaussian_bridge(d: int) -> tuple[Bridge, Tensor, Tensor]:
    """From N(0, I) to an unnormalised correlated Gaussian off centre."""
    factor = torch.eye(d, dtype=torch.float64) * 0.6 + 0.15 * normal(d, d, seed=7).tril()
    mean, covariance = 1.5 * normal(d, seed=8), factor @ factor.T
    target = MultivariateNormal(mean, covariance)
    base = NormalBase(torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64))
    return Bridge(base, lambda x: target.log_prob(x) + 2.5), mean, covariance


def test_the_fitted_drift_is_exact_for_gaussians() -> None:
    """The affine basis holds the exact drift, so that along its flow all weights grow alike: at dβ, up to dβ²."""
    bridge, _, _ = gaussian_bridge(4)
    x = bridge.base.sample(400, Stream(0))
    drift = fit_drift(x, look(bridge.base.log_prob, x, 1.0).slope, bridge.rate(x), "affine")
    spreads = [float(advance(bridge, x, 0.0, b, drift.flow(b))[1].std()) for b in (0.02, 0.01)]
    alone = float(advance(bridge, x, 0.0, 0.01)[1].std())
    assert spreads[1] < 0.05 * alone
    assert spreads[0] / spreads[1] == pytest.approx(4, rel=0.15)  # second order in dβ, third-order terms beside it


def test_a_pilot_with_a_drift_needs_fewer_temperatures() -> None:
    """And the run with its stages has the exact moments and evidence, within 4 standard errors over 30 runs."""
    bridge, mean, covariance = gaussian_bridge(4)
    plain, carried = (pilot(bridge, 500, Stream(0), adaptation=Adaptation(0.9, drift=d)) for d in ("none", "affine"))
    assert len(carried.stages) < 0.7 * len(plain.stages)
    runs = [smc(Tempering(bridge, carried.stages), 200, Stream(1, (seed,))) for seed in range(30)]
    assert bool((off(torch.stack([run.mean() for run in runs]), mean) < 4).all())
    # variances are low by their bias, below 4/200 here
    variances = torch.stack([run.var() for run in runs]) / covariance.diagonal()
    assert bool(((variances.mean(0) - 1).abs() < 4 * variances.std(0) / math.sqrt(30) + 0.02).all())
    ratio = torch.tensor([math.exp(run.log_evidence - 2.5) for run in runs], dtype=torch.float64)
    assert float(off(ratio, 1.0)) < 4


def test_adaptive_and_fixed_agree() -> None:
    """Evidence and means of 60 adaptive runs, and of 60 runs with the stages of a pilot, against the truth."""
    found = pilot(BRIDGE, 300, Stream(99), adaptation=Adaptation(0.8, "full"), n_moves=2)
    assert fixed_betas(found.stages) == sorted(fixed_betas(found.stages)) and found.stages[-1].beta == 1
    frozen = Tempering(BRIDGE, found.stages, n_moves=2)
    fixed = [smc(frozen, 300, Stream(1, (seed,))) for seed in range(60)]
    adaptive = [
        pilot(BRIDGE, 300, Stream(2, (seed,)), adaptation=Adaptation(0.8, "full"), n_moves=2).particles
        for seed in range(60)
    ]
    for runs, bias in ((fixed, 0.0), (adaptive, 2 / 300)):  # adaptive runs: consistent, with a bias O(1/n)
        ratio = torch.tensor([math.exp(run.log_evidence - LOG_Z) for run in runs], dtype=torch.float64)
        assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(60) + bias
        means = torch.stack([run.mean() for run in runs])
        # the means of weighted particles are off by O(1/n) of their spread, which is 1 here
        assert bool(((means.mean(0) - LAW.mean()).abs() < 4 * means.std(0) / math.sqrt(60) + 2 / 300).all())
        stated = torch.tensor([run.log_evidence_stderr for run in runs], dtype=torch.float64).square().mean()
        # a variance of 60 runs is known to √(2/60) = 18 %, 4 standard errors are 73 %
        assert 1 / 1.73 < float(stated) / float(ratio.log().var()) < 1.73


def fixed_betas(stages: tuple[Stage, ...]) -> list[float]:
    return [stage.beta for stage in stages]


def test_the_next_temperature_meets_the_ess() -> None:
    rate = 3 * normal(1000, 1)[:, 0]
    chosen = next_temperature(lambda b: (b - 0.2) * rate, 0.2, 0.7)
    assert float(ess((chosen - 0.2) * rate)) == pytest.approx(700, rel=1e-6)  # thirty bisections
    assert next_temperature(lambda b: 0.01 * b * rate, 0.2, 0.7) == 1.0


def test_the_step_follows_the_acceptance() -> None:
    found = pilot(BRIDGE, 400, Stream(0), MALA(step=3.0), Adaptation(0.97, "full"))
    assert found.stages[-1].step < 0.7 * 3.0 and found.acceptance[-1] > found.acceptance[0] + 0.1
    kept = pilot(BRIDGE, 400, Stream(0), ULA(step=0.2), Adaptation(0.9, "full"))
    assert {stage.step for stage in kept.stages} == {0.2} and set(kept.acceptance) == {1.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MALA(step=0.0), "step > 0"),
        (lambda: ULA(step=math.nan), "step > 0"),
        (lambda: HMC(n_leapfrog=0), "n_leapfrog ≥ 1"),
        (lambda: Tempering(BRIDGE, (Stage(0.5, 1.0),)), "increase from above 0 to 1"),
        (lambda: Tempering(BRIDGE, (Stage(0.5, 1.0), Stage(0.4, 1.0), Stage(1.0, 1.0))), "increase from above 0 to 1"),
        (lambda: Tempering(BRIDGE, ladder(2, 1.0), n_moves=0), "n_moves ≥ 1"),
        (lambda: ladder(0, 1.0), "n_temperatures ≥ 1"),
        (lambda: Adaptation(share=1.0), r"\(0, 1\)"),
        (lambda: fit_drift(normal(5, 2), normal(5, 2), normal(5, 1)[:, 0], "affine"), "6 coefficients in 2 dimensions"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_pilot_that_cannot_go_on_says_where() -> None:
    nowhere = Bridge(BRIDGE.base, lambda x: torch.full((len(x),), math.nan, dtype=x.dtype))
    with pytest.raises(NonFiniteError, match=r"β = 0: 50 of 50 log-weights are NaN"):
        pilot(nowhere, 50, Stream(0))
    with pytest.raises(NonFiniteError, match="3 temperatures reach"):
        pilot(BRIDGE, 50, Stream(0), adaptation=Adaptation(0.999, most=3))


# The posterior ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [
        Tempered(200, n_moves=1),
        Tempered(200, HMC(n_leapfrog=3), n_moves=1, metric="full"),
        Tempered(200, n_moves=1, n_temperatures=8),
        pytest.param(Tempered(200, n_moves=1, n_temperatures=8, ess_threshold=0.0), marks=pytest.mark.slow),
        pytest.param(Tempered(200, n_moves=1, drift="affine", share=0.7), marks=pytest.mark.slow),
    ],
    ids=["pilot", "hmc", "fixed", "importance sampling", "drift"],
)
def test_tempering_finds_the_posterior_of_a_mixture(sampler: Tempered) -> None:
    """Moments, mode weights and evidence in closed form, within 4 standard errors over 40 runs of 200 particles."""
    matrix, y = torch.tensor([[0.6, 0.9]], dtype=torch.float64), torch.tensor([1.1], dtype=torch.float64)
    likelihood, prior = GaussianLikelihood(y, Dense.of(matrix), 0.7), MixtureDenoiser(LAW, Cosine())
    exact, log_evidence = LAW.posterior(matrix, y, 0.7)
    runs = [sampler(prior, likelihood, [0.1, 0.9], 1, Stream(seed)) for seed in range(40)]
    ratio = torch.tensor([math.exp(run.log_evidence - float(log_evidence)) for run in runs], dtype=torch.float64)
    assert float(off(ratio, 1.0)) < 4
    modes = torch.stack([run.weights @ exact.components(run.x).softmax(1) for run in runs])
    spread = exact.covariance().diagonal()
    for values, expected in (
        (torch.stack([run.mean() for run in runs]) / spread.sqrt(), exact.mean() / spread.sqrt()),
        (torch.stack([run.var() for run in runs]) / spread, torch.ones(2)),
        (modes, exact.weights),
    ):
        # weighted means are off by O(1/n): below 2/200 of the spread
        assert bool(((values.mean(0) - expected).abs() < 4 * values.std(0) / math.sqrt(40) + 0.01).all())


@pytest.mark.parametrize("wrong", [lambda x: x.square().sum(), lambda x: x.square()], ids=["of all rows", "of numbers"])
def test_a_density_that_is_not_one_number_a_row_is_refused(wrong: Callable[[Tensor], Tensor]) -> None:
    """A sum over all rows would be broadcast to each of them without a word."""
    model = Tempering(Bridge(LAW, lambda x: wrong(x) if x.requires_grad else LAW.log_prob(x)), ladder(2, 0.3))
    said = r"a log-density must give one number for each row, \(20,\), got"
    with pytest.raises(InputError, match=f"step 1 of 2: {said}"):
        smc(model, 20, Stream(0))
    with pytest.raises(InputError, match=f"at the start: {said}"):
        smc(Tempering(Bridge(LAW, wrong), ladder(2, 0.3)), 20, Stream(0))
