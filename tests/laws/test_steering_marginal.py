"""Marginal samplers in full: moments and evidence against closed forms, refusals, cost."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from target_paths import END, likelihood, mixture, noised, skewed
from torch import Tensor

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.mixture_algebra import power, product
from sciflow.diffusion.schedule import EDM, Cosine, Scaled
from sciflow.diffusion.times import LogSNR
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.marginal import AFDPS, Ensemble, Product, Tilted
from sciflow.inverse.noised import NoisedLikelihood
from sciflow.particles.feynman_kac import smc
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.steering.control import Control
from sciflow.steering.marginal import MarginalModel, marginal
from sciflow.steering.reward import Tilt
from sciflow.steering.target import RaisedReward, TargetPath, annealed, geometric, tilted
from sciflow.steering.target import product as of_experts


def run(
    path: TargetPath, n: int = 2000, n_steps: int = 60, threshold: float = 0.5, seed: int = 0, **options
) -> Particles:
    times = LogSNR(n_steps, ratio_max=40.0, ratio_min=END)(path.schedule)
    model = marginal(path, times, **options)
    with torch.no_grad():
        return smc(model, n, Stream(seed, tile=n), ess_threshold=threshold)


@functools.cache
def answer(name: str) -> tuple[TargetPath, GaussianMixture, float]:
    """Path, law and log Z of the last level in closed form."""
    one, two = mixture(1), mixture(2)
    priors = [MixtureDenoiser(law, EDM()) for law in (one, two)]
    if name == "annealed":
        law, constant, _ = power(noised(one), 2)
        return annealed(priors[0], 2.0), law, constant
    if name == "product":
        law, constant, _ = product(noised(one), noised(two))
        return of_experts(priors), law, constant
    if name == "weighted":
        law, constant, _ = product(noised(one), noised(one), noised(two))
        return TargetPath(tuple(priors), (2.0, 1.0)), law, constant
    if name == "likelihood":
        given = likelihood(2)
        matrix = given.operator.matrix
        noise = torch.linalg.cholesky(given.sigma**2 * torch.eye(2).double() + END**2 * matrix @ matrix.T)
        white = torch.linalg.solve_triangular(noise, torch.cat([matrix, given.observation[:, None]], 1), upper=False)
        law, evidence = noised(one).posterior(white[:, :2], white[:, 2], 1.0)
        constant = float(evidence - noise.diagonal().log().sum())
        return tilted(priors[0], NoisedLikelihood(given, EDM())), law, constant
    wide, narrow = (gaussian(m, s) for m, s in (((0.0, 0.3), (1.5, 1.2)), ((1.0, -0.5), (0.6, 0.8))))
    return geometric(*(MixtureDenoiser(law, EDM()) for law in (wide, narrow)), 1.5), *extrapolated(wide, narrow, 1.5)


def gaussian(mean: tuple[float, ...], std: tuple[float, ...]) -> GaussianMixture:
    covariance = torch.diag(torch.tensor(std, dtype=torch.float64) ** 2)
    return GaussianMixture(torch.ones(1).double(), torch.tensor([mean], dtype=torch.float64), covariance[None])


def extrapolated(first: GaussianMixture, second: GaussianMixture, w: float) -> tuple[GaussianMixture, float]:
    """p₁^{1−w} p₂^w of two diagonal Gaussians, at the last level."""
    (v1, v2), (m1, m2) = (
        [noised(law).covariances[0].diagonal() for law in (first, second)],
        [law.means[0] for law in (first, second)],
    )
    precision = (1 - w) / v1 + w / v2
    mean = ((1 - w) * m1 / v1 + w * m2 / v2) / precision
    values = (1 - w) * (m1**2 / v1 + (2 * math.pi * v1).log()) + w * (m2**2 / v2 + (2 * math.pi * v2).log())
    constant = -0.5 * float((values - mean**2 * precision - (2 * math.pi / precision).log()).sum())
    return GaussianMixture(torch.ones(1).double(), mean[None], torch.diag(1 / precision)[None]), constant


SCORED = Control(("position", "score"))
WAYS: dict[str, dict[str, object]] = {
    "control": {"control": SCORED},
    "exact traces, V = 2g": {"control": Control(probes=0), "noise": 2.0},
    "ode": {"noise": 0.0, "control": SCORED, "threshold": 1e-9},
    "order 1": {"order": 1, "control": SCORED, "n_steps": 240},
    "kernel ratio": {"weights": "kernel_ratio", "n_steps": 240},
}
# log Z: O(h²) at h = 0.13 in λ, and O(h) at 0.03 for the two ways of first order; moments in posterior deviations
BIAS = {"order 1": 0.15, "kernel ratio": 0.15}


def stderr(found: Particles, values: Tensor) -> Tensor:
    """Of a weighted mean of values (n, d): the deviations are summed within families, which are all but independent."""
    centred = found.weights[:, None] * (values - found.weights @ values)
    families = torch.zeros_like(centred).index_add_(0, found.eve, centred)
    return (families**2).sum(0).sqrt()


def assert_right(found: Particles, law: GaussianMixture, constant: float, bias: float) -> None:
    """Moments and log Z within 4 standard errors of this run and a bias, in units of the law's deviations."""
    size = law.covariance().diagonal().sqrt()
    assert ((found.mean() - law.mean()).abs() < 4 * stderr(found, found.x) + bias / 2 * size).all()
    squares = (found.x - law.mean()) ** 2
    assert ((found.weights @ squares - size**2).abs() < 4 * stderr(found, squares) + bias * size**2).all()
    assert abs(found.log_evidence - constant) < 4 * found.log_evidence_stderr + bias


@pytest.mark.slow
@pytest.mark.parametrize("name", ["annealed", "product", "likelihood", "geometric"])
def test_plain_weights_draw_the_closed_form(name: str) -> None:
    """Without control: means over ten runs, whose scatter is the error bar, since few families are left of each."""
    path, law, constant = answer(name)
    runs = [run(path, 600, seed=seed) for seed in range(10)]
    size = law.covariance().diagonal().sqrt()
    moments = torch.stack([torch.cat([(r.mean() - law.mean()) / size, (r.var() / size**2 - 1)]) for r in runs])
    # O(h²) at h = 0.13; a variance about the run's own mean is low by the square of that mean's error
    lost = torch.cat([torch.zeros(len(size)), moments[:, : len(size)].var(0)])
    assert (moments.mean(0).abs() < 4 * moments.std(0) / math.sqrt(10) + 0.04 + lost).all()
    evidence = torch.tensor([r.log_evidence - constant for r in runs])
    spread = float(evidence.std())  # log Ẑ is low by half its variance
    assert abs(float(evidence.mean())) < 4 * spread / math.sqrt(10) + 0.04 + spread**2 / 2


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["annealed", "product", "likelihood", "geometric"])
def test_every_way_draws_the_closed_form(name: str, way: str) -> None:
    path, law, constant = answer(name)
    found = run(path, **WAYS[way])
    assert_right(found, law, constant, BIAS.get(way, 0.04))


@pytest.mark.parametrize("variant", ["sde", "ode"])
def test_the_published_ensemble_sampler_draws_the_posterior(variant: str) -> None:
    """Euler's steps and unadjusted moves: a bias of first order, 0.03 in λ a step, and more noise in log Z."""
    path, law, constant = answer("likelihood")
    sampler = AFDPS(variant, ensemble=Ensemble(n_particles=2000))
    times = LogSNR(240, ratio_max=40.0, ratio_min=END)(path.schedule)
    found = sampler(path.experts[0], likelihood(2), times, 1, Stream(0, tile=2000))
    assert_right(found, law, constant, 0.25)


def test_a_product_with_powers_draws_the_closed_form() -> None:
    path, law, constant = answer("weighted")
    assert_right(run(path, control=SCORED), law, constant, 0.06)


def test_powers_that_move_end_where_constant_ones_do() -> None:
    path, law, constant = answer("annealed")
    moving = TargetPath(path.experts, (lambda t: 1 + min(t / float(path.schedule.time(-math.log(END))), 1.0),))
    assert_right(run(moving, control=SCORED, n_steps=80), law, constant, 0.05)


def test_the_evidence_is_of_second_order_in_the_step() -> None:
    """Gaussians with an affine control, where all weights stay equal: no Monte Carlo error hides the bias."""
    path, _, constant = answer("geometric")
    runs = [run(path, 4000, n_steps, control=Control(("affine",))) for n_steps in (6, 12, 24)]
    bias = [abs(found.log_evidence - constant) for found in runs]
    noise = [math.sqrt((1 - found.ess() / 4000) / 4000) for found in runs]
    assert noise[0] < 0.003
    assert bias[1] < bias[0] / 2**1.6 + 4 * noise[1]
    assert bias[2] < bias[0] / 2**3.2 + 4 * noise[2]
    assert 4 * noise[0] < bias[0] < 0.05  # six steps of 1.3 in λ


def test_a_langevin_move_leaves_the_law_alone() -> None:
    """E[log γ] after ten large moves from exact draws: within 4 standard errors; unadjusted, the law inflates."""
    law = power(noised(mixture(1), 0.3), 2).law
    path, n, schedule = annealed(MixtureDenoiser(mixture(1), EDM()), 2.0), 40000, EDM()
    times = tuple(float(schedule.time(-math.log(u))) for u in (0.6, 0.3))
    start = law.sample(n, Stream(2))
    off = {}
    for adjusted in (True, False):
        shares: list[Tensor] = []
        model = MarginalModel(path, times, noise=2.0, adjusted=adjusted)
        state = model.sight.look(start, model.levels[1], Stream(3))
        for i in range(10):
            state, accepted = model._rejuvenate(state, *model.levels, Stream(4).child(i))
            shares.append(accepted.double().mean())
        assert (state["x"] - start).abs().mean() > 0.2, "it did move"
        assert all(0.5 < share < 0.99 for share in shares) or not adjusted
        change = law.log_prob(state["x"]) - law.log_prob(start)
        off[adjusted] = float(change.mean().abs() / (change.std() / math.sqrt(n)))
    assert off[True] < 4
    assert off[False] > 4


def test_a_reward_without_a_gradient_draws_the_same_law() -> None:
    path, _, _ = answer("annealed")
    found = []
    for has_gradient in (True, False):
        reward = RaisedReward(skewed, EDM(), has_gradient=has_gradient)
        found.append(run(tilted(path.experts[0], reward), noise=1.5))
    stderr = math.hypot(*(particles.log_evidence_stderr for particles in found))
    assert abs(found[0].log_evidence - found[1].log_evidence) < 4 * stderr
    # quadrature of ∫ p e^f on a grid that ends ten deviations out
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    law = noised(mixture(1))
    exact = float((law.log_prob(points) + skewed(points)).logsumexp(0)) + 2 * math.log(18 / 360)
    for particles in found:
        assert abs(particles.log_evidence - exact) < 4 * particles.log_evidence_stderr + 0.03  # O(h²), and 1 − u²


@pytest.mark.parametrize("narrow", [0.3, 0.9])
def test_a_target_without_a_constant_is_refused(narrow: float) -> None:
    """w = 3: refused as soon as the unconditional law is narrower than allows, 3/v_c < 2/v_u; else drawn."""
    wide, tight = gaussian((0.0, 0.0), (1.0, 1.0)), gaussian((0.0, 0.0), (narrow, narrow))
    path = geometric(MixtureDenoiser(tight, EDM()), MixtureDenoiser(wide, EDM()), 3.0)
    times = LogSNR(20, ratio_max=40.0, ratio_min=END)(EDM())
    if 2 / (narrow**2 + END**2) > 3.0 / (1 + END**2):
        with pytest.raises(InputError, match="no normalising constant at noise ratio"):
            marginal(path, times)
    else:
        assert marginal(path, times).n_steps == 20


def test_a_mixture_is_refused_for_the_direction_that_grows() -> None:
    flat = GaussianMixture(
        torch.tensor([0.5, 0.5]).double(), torch.zeros(2, 2).double(),
        torch.stack([torch.diag(torch.tensor(v)) for v in ((1.0, 0.04), (0.04, 0.04))]).double(),
    )  # fmt: skip
    wide = gaussian((0.0, 0.0), (0.8, 0.8))
    times = LogSNR(20, ratio_max=40.0, ratio_min=END)(EDM())
    with pytest.raises(InputError, match="narrower there"):
        marginal(geometric(MixtureDenoiser(flat, EDM()), MixtureDenoiser(wide, EDM()), 2.0), times)
    assert marginal(geometric(MixtureDenoiser(wide, EDM()), MixtureDenoiser(flat, EDM()), 0.5), times)


def test_particles_that_run_away_are_named_with_their_step() -> None:
    """Unadjusted moves of first order that are far too large; nothing is clipped."""
    path, _, _ = answer("product")
    with pytest.raises(NonFiniteError, match=r"step \d+ of 30"):
        run(path, 200, 30, order=1, noise=6.0)


def test_calls_are_counted() -> None:
    path, _, _ = answer("annealed")
    for options, per_step in (({}, 2), ({"noise": 0.0, "threshold": 1e-9}, 1), ({"order": 1}, 1)):
        counted = Counted(path.experts[0])
        run(annealed(counted, 2.0), 64, 10, **options)
        assert counted.rows == 64 * (per_step * 10 + 1) + 1  # one look at the start, and one row for its mean


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TargetPath((), ()), "one power for each"),
        (lambda: annealed(MixtureDenoiser(mixture(1), EDM()), -1.0), "positive sum"),
        (lambda: of_experts([MixtureDenoiser(mixture(1), s) for s in (EDM(), Cosine())]), "share one schedule"),
        (lambda: of_experts([MixtureDenoiser(mixture(1, d), EDM()) for d in (2, 3)]), "one event shape"),
        (lambda: TargetPath((Blind(),), (lambda t: 1 + t,)), "log_prob"),
        (lambda: marginal(annealed(MixtureDenoiser(mixture(1), Cosine()), 2.0), [0.0, 0.5]), "α > 0"),
        (lambda: model(noise=-1.0), "noise ≥ 0"),
        (lambda: model(noise=0.0, weights="kernel_ratio"), "kernel-ratio weights"),
        (lambda: model(control=Control(("gradient",))), "needs a potential"),
        (lambda: Control(("position", "affine")), "contains 'position'"),
        (lambda: Control(()), "needs different bases"),
        (lambda: Ensemble(noise=0.0), "copies that resampling makes would never separate"),
        (lambda: Product(powers=(1.0, 2.0)), "1 in all, got 2"),
        (lambda: Tilted()(Blind(), Tilt(skewed), [0.2, 0.5], 1, Stream(0)), "rise 'tempered'"),
        (lambda: run(annealed(MixtureDenoiser(mixture(1), EDM()), 2.0), 12, 3, control=SCORED), "at least 8 particles"),
    ],
)  # fmt: skip
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def model(**options) -> MarginalModel:
    return marginal(annealed(MixtureDenoiser(mixture(1), EDM()), 2.0), [0.2, 0.5], **options)


class Blind:
    """A denoiser without a density."""

    schedule, shape = EDM(), (2,)


def test_noise_levels_are_said_in_data_units() -> None:
    """A law scaled by s under a schedule scaled by s gives the same run: log Z of p^β moves by −(β − 1) d log s."""
    law, s = mixture(1), 7.0
    big = GaussianMixture(law.weights, s * law.means, s**2 * law.covariances)
    one = run(annealed(MixtureDenoiser(law, Scaled(EDM(), 1.0)), 2.0), control=SCORED)
    other = run(annealed(MixtureDenoiser(big, Scaled(EDM(), s)), 2.0), control=SCORED)
    assert torch.allclose(other.x, s * one.x, rtol=1e-6)  # rounding, grown along the path
    assert other.log_evidence == pytest.approx(one.log_evidence - 2 * math.log(s), abs=1e-6)


def test_the_control_of_a_gaussian_is_what_keeps_its_weights_equal() -> None:
    """Of q^β with q = N(m, s²): θ = (β − 1) u²/(s² + u²) at the level that a step starts from, in closed form.

    The ridge shrinks it by a share of 1e-3; centre and moments of n particles are off by shares of a few 1/√n, of which
    two enter θ as a product: 10/n is left to them.
    """
    s, beta, n = torch.tensor([1.5], dtype=torch.float64), 3.0, 4000
    law = gaussian((0.7, 0.7), (1.5, 1.5))
    path = annealed(MixtureDenoiser(law, EDM()), beta)
    model = marginal(path, LogSNR(8, ratio_max=5.0, ratio_min=0.2)(EDM()), control=Control(("position",)))
    said = smc(model, n, Stream(0)).diagnostics
    u = torch.tensor([level.ratio for level in model.levels[:-1]], dtype=torch.float64)
    exact = (beta - 1) * u**2 / (s**2 + u**2)
    assert said["control_position"].shape == said["acceptance"].shape == (9, 1) and said["control_position"][0].isnan()
    torch.testing.assert_close(said["control_position"][1:, 0], exact, rtol=1e-3 + 10 / n, atol=0)


@dataclass
class Faulty:
    """A denoiser whose call of this number gives a NaN for one row."""

    inner: MixtureDenoiser
    last: int
    calls: int = 0

    def __post_init__(self) -> None:
        self.schedule, self.shape, self.initial = self.inner.schedule, self.inner.shape, self.inner.initial

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        self.calls += 1
        found = self.inner(x, t)
        return torch.where(torch.arange(len(x))[:, None] == 3, math.nan, found) if self.calls == self.last else found


@pytest.mark.parametrize("adjusted", [True, False])
def test_a_nan_that_a_langevin_move_meets_is_not_taken_for_a_refusal(adjusted: bool) -> None:
    """Not even at the last level, after which nobody looks at the network again."""
    times = LogSNR(4, ratio_max=5.0, ratio_min=0.2)(EDM())
    for step in (2, 4):
        prior = Faulty(MixtureDenoiser(mixture(1), EDM()), 2 + 2 * step)  # two calls at the start, two in each step
        with pytest.raises(NonFiniteError, match=f"step {step} of 4: 1 of 64 log-potentials are NaN"):
            smc(marginal(annealed(prior, 2.0), times, adjusted=adjusted), 64, Stream(0))
        assert prior.calls == 2 + 2 * step
    whole = Faulty(MixtureDenoiser(mixture(1), EDM()), 0)
    assert math.isfinite(smc(marginal(annealed(whole, 2.0), times, adjusted=adjusted), 64, Stream(0)).log_evidence)


def test_a_potential_of_minus_infinity_is_a_weight_and_any_other_infinity_a_mistake() -> None:
    """Half of 64 particles weigh nothing already; proposals meet this value left of the median and 0 right of it."""
    prior, times = MixtureDenoiser(mixture(1), EDM()), tuple(float(EDM().time(-math.log(u))) for u in (0.6, 0.3))
    told, drawn = {}, mixture(1).sample(64, Stream(2))
    middle = drawn[:, 0].median()
    for value in (math.nan, math.inf, -math.inf):
        before: list[float] = [-math.inf]

        def half(x: Tensor, t: float, value: float = value, before: list[float] = before) -> Tensor:
            return torch.where(x[:, 0] < middle, before[0], 0.0 * x.sum(1))

        model = MarginalModel(tilted(prior, half), times, noise=2.0)
        state = model.sight.look(drawn, model.levels[1], Stream(3))
        dead = state["r"] == -math.inf
        before[0] = value
        moved, told[value] = model._rejuvenate(state, *model.levels, Stream(4))
        assert int(dead.sum()) == 31 and not told[value][dead].isnan().any()
        assert moved["r"][~dead & ~told[value].isnan()].isfinite().all()
    assert bool(told[math.nan].isnan().any()) and torch.equal(told[math.nan].isnan(), told[math.inf].isnan())
    assert not told[-math.inf].isnan().any() and not told[-math.inf][told[math.nan].isnan()].any()  # refused
