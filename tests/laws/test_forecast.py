"""One-step forecasters against a chain whose law is known, and the Föllmer process against its published drift."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sciflow.diffusion import Karras, reverse_sde
from sciflow.diffusion.denoiser import FromView
from sciflow.diffusion.forecast import Forecasts
from sciflow.diffusion.loss import Denoising, Velocity
from sciflow.diffusion.model import pack, unpack
from sciflow.diffusion.one_step import DiffusionModel, ForecastModel, RefinerModel, RegressionModel, Scale, told
from sciflow.diffusion.paths import Follmer
from sciflow.diffusion.schedule import EDM, Linear
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.rollout import Rollout
from sciflow.inverse.sensors import Sensors
from sciflow.networks.unet import UNet
from sciflow.random import Stream
from sciflow.solvers.exponential import EABM
from sciflow.training.windows import Windows
from tests.laws.probe import moments

KEEP, NOISE, SIZE, HORIZON = 0.8, 0.5, 8, 3  # u' = KEEP u + NOISE ξ at each of SIZE places
SCALE = Scale(mean=0.3, std=1.2, step=0.7)
START = Stream(8).normal(1, (SIZE,), dtype=torch.float64)[0]
GIVEN = GaussianLikelihood(START, Sensors(1, 1), 0.1)


class ExactIncrement(nn.Module):
    """What the network of a perfect conditional diffusion answers for the chain, in the units of `NetworkDenoiser`."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        noisy, past = x[:, :1], x[:, -1:] * SCALE.std + SCALE.mean
        mean, variance = (KEEP - 1) * past / SCALE.step, (NOISE / SCALE.step) ** 2
        ratio = level.exp()[:, None, None]
        root = (1 + ratio**2).sqrt()
        expected = mean + variance / (variance + ratio**2) * (noisy * root - mean)
        return ((expected - noisy / root) * root / ratio).expand(-1, x.shape[1], -1)


class ExactMean(nn.Module):
    """What the network of a perfect regression answers."""

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        return (KEEP - 1) * (x * SCALE.std + SCALE.mean) / SCALE.step


class ExactRefinement(nn.Module):
    """What the network of a perfect refiner answers: E[σ a − α ε | α a + σ ε = x], a ~ N(m, s²) given the past."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        noisy, past = x[:, :1], x[:, -1:] * SCALE.std + SCALE.mean
        mean, variance = (KEEP - 1) * past / SCALE.step, (NOISE / SCALE.step) ** 2
        ratio = level.exp()[:, None, None]  # infinite at level 0
        alpha, sigma = (1 + ratio**2).rsqrt(), (1 + ratio**-2).rsqrt()
        expected = mean + alpha * variance / (alpha**2 * variance + sigma**2) * (noisy - alpha * mean)
        return (sigma * expected - alpha * (noisy - alpha * expected) / sigma).expand(-1, x.shape[1], -1)


class PastAlone(nn.Module):
    """A network that sees the past, as one that sees noise before it and does not look."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        return self.module(x[:, 1:], level).expand(-1, x.shape[1], -1)


def chain(n: int, length: int, stream: Stream) -> Tensor:
    fields = [stream.child("start").normal(n, (1, SIZE), dtype=torch.float64)]
    for k in range(length - 1):
        fields.append(KEEP * fields[-1] + NOISE * stream.normal(n, (1, SIZE), step=k, dtype=torch.float64))
    return torch.stack(fields, 1)


DIFFUSION = {
    name: DiffusionModel(ExactIncrement(), (1, SIZE), 1, SCALE, schedule)
    for name, schedule in {"edm": EDM(), "linear": Linear(), "follmer": Follmer(noise=0.5)}.items()
}
REGRESSION = RegressionModel(ExactMean(), (1, SIZE), 1, SCALE).finished(chain(4000, 2, Stream(4)))
REFINER = RefinerModel(ExactRefinement(), (1, SIZE), 1, SCALE, n_refinements=3, min_noise=0.05)
FORECASTS = Forecasts({**DIFFUSION, "mean": REGRESSION, "refiner": REFINER}, (HORIZON + 1, SIZE), interval=0.5)
TIMES = Karras(24, 20.0, 0.02)(FORECASTS.schedule)
FLOW, HALF, NOISY = EABM(order=3), EABM(order=3, frame="data", eta=0.5), EABM(order=3, frame="data", eta=1.0)


def rolled(n: int, tile: int = 512, **options: object) -> Tensor:
    return Rollout(**options)(FORECASTS, GIVEN, TIMES, n, Stream(2, tile=tile)).x  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"forecaster": "edm", "solver": FLOW},
        {"forecaster": "linear", "solver": FLOW},
        {"forecaster": "follmer", "solver": FLOW},
        {"forecaster": "follmer", "solver": HALF},
        {"forecaster": "follmer", "solver": NOISY},
        {"forecaster": "mean", "residual": 1.0},
    ],
    ids=lambda options: f"{options['forecaster']} {getattr(options.get('solver'), 'eta', 'regression')}",
)
def test_a_rollout_of_an_exact_forecaster_has_the_law_of_the_chain(options: dict[str, object]) -> None:
    """u_h ~ N(a^h u_0, q² (1 − a^{2h})/(1 − a²)) at each place; places are independent."""
    n = 2048
    x = rolled(n, **options)
    assert torch.equal(x[:, 0], START.expand(n, SIZE))
    for h in range(1, HORIZON + 1):
        variance = NOISE**2 * (1 - KEEP ** (2 * h)) / (1 - KEEP**2)
        mean_error = (x[:, h].mean(0) - KEEP**h * START).norm() / math.sqrt(variance / n * SIZE)
        # a norm of SIZE standard normals over √SIZE: 1 ± 1/√(2 SIZE) = 1 ± 1/4, four of these above is 2
        assert float(mean_error) < 2
        pooled = (x[:, h] - KEEP**h * START).square().mean() / variance
        # 4 standard errors of the variance of n SIZE numbers, and twice what 24 steps and the ends of the grid change,
        # read off as below: at most 1.5 % for the flow, at h = 3, 0.6 % for η = 1/2, 0.2 % for η = 1
        assert abs(float(pooled) - 1) < 4 * math.sqrt(2 / (n * SIZE)) + 0.03


@pytest.mark.parametrize("eta", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_noise_level_is_free(eta: float) -> None:
    """The law of one step, read off the solver: right at every η, but for what the ends R and r of the grid cost.

    Of N(m, s²) the reverse SDE at level η keeps K = ((s² + r²)/(s² + R²))^{(1 + η²)/2} of what the start has wrong: its
    mean by −m and its variance R² + 1 by 1 − s². The last denoising multiplies deviations by D = s²/(s² + r²).
    """
    high, low, n_steps, square = 20.0, 0.02, 96, (NOISE / SCALE.step) ** 2
    kept = ((square + low**2) / (square + high**2)) ** ((1 + eta**2) / 2)
    denoised = square / (square + low**2)
    one = Forecasts({"law": DIFFUSION["follmer"]}, (2, SIZE))
    rollout = Rollout("law", solver=EABM(order=3, frame="data", eta=eta))
    grid = Karras(n_steps, high, low)(one.schedule)
    mean, covariance, departure = moments(lambda stream, n: rollout(one, GIVEN, grid, n, stream).x[:, 1])  # type: ignore
    left = (1 - KEEP) * START * kept * denoised
    variance = SCALE.step**2 * denoised**2 * (square + low**2 + kept**2 * (1 - square))
    step = math.log(high / low) / n_steps  # of log(σ/α), on average
    assert departure < 1e-13  # rounding of 96 steps
    assert float((mean - KEEP * START - left).abs().max()) < step**3 * float(left.abs().max())  # order 3, without noise
    expected = variance * torch.eye(SIZE, dtype=torch.float64)
    assert float((covariance - expected).abs().max()) < step**2 * variance  # weak order 2


def test_a_mean_has_no_spread_and_a_perturbation_fades() -> None:
    """A perturbation of the state keeps a^h of its size: the error of an initial state, not the noise of the chain."""
    plain, perturbed = rolled(64, forecaster="mean"), rolled(2048, forecaster="mean", perturbation=2.0)
    expected = torch.stack([KEEP**h * START for h in range(HORIZON + 1)])
    assert torch.allclose(plain, expected.expand_as(plain), rtol=0, atol=1e-12)  # float64, three products
    spread = (perturbed - expected).square().mean((0, 2)).sqrt()
    ratio = spread / torch.tensor([2.0 * NOISE * KEEP**h for h in range(HORIZON + 1)], dtype=torch.float64)
    # standard error of the spread of 2048 · 8 numbers, and of the spectrum fitted to 4000 · 8
    assert bool(((ratio - 1).abs() < 4 * math.sqrt(1 / (2 * 2048 * SIZE) + 1 / (2 * 4000 * SIZE))).all())


def test_members_do_not_depend_on_how_many_there_are() -> None:
    for options in (
        {"forecaster": "follmer", "solver": NOISY},
        {"forecaster": "mean", "residual": 1.0},
        {"forecaster": "refiner"},
    ):
        assert torch.equal(rolled(11, tile=4, **options)[:5], rolled(5, tile=4, **options))


def test_the_fitted_spectrum_is_that_of_the_residual() -> None:
    """White noise of the chain has a flat spectrum of height q; each mode of 4000 residuals is known to 1/√4000."""
    assert REGRESSION.spectrum is not None
    assert bool(((REGRESSION.spectrum / NOISE).square() - 1).abs().max() < 5 * math.sqrt(2 / 4000))  # of five modes


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_follmer_process_is_the_reverse_sde(power: float) -> None:
    """Drift b + ½(g² − σ_s²) s and optimal g of the interpolant against `reverse_sde` at noise levels 1 and 0."""
    schedule = Follmer(power, 0.7)
    model = FromView(lambda x, t: torch.sin(x) + 0.2 * t, "data", schedule, (4,))
    x = Stream(0).normal(6, (4,), dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        beta, beta_rate, sigma, sigma_rate = t**power, power * t ** (power - 1), 0.7 * (1 - t), -0.7
        data = model(x, t)
        noise = (x - beta * data) / (math.sqrt(t) * sigma)
        score = -noise / (math.sqrt(t) * sigma)
        drift = beta_rate * data + sigma_rate * math.sqrt(t) * noise
        for level, squared in (
            (1.0, abs(2 * t * sigma * (beta_rate * sigma / beta - sigma_rate) - sigma**2)),
            (0.0, 0),
        ):
            found = reverse_sde(model, level)
            expected = drift + 0.5 * (squared - sigma**2) * score
            assert torch.allclose(found.drift(t, x), expected, rtol=1e-10, atol=1e-12)  # float64, ten operations
            assert found.diffusion(t, x) ** 2 == pytest.approx(squared, rel=1e-10)  # type: ignore[operator]


@pytest.mark.parametrize(
    "model", [REGRESSION, DIFFUSION["edm"], replace(DIFFUSION["linear"], objective=Velocity()), REFINER]
)
def test_rows_of_a_loss_do_not_depend_on_the_batch(model: ForecastModel) -> None:
    windows, stream = chain(10, 2, Stream(5)), Stream(3, tile=4)
    whole = model.loss(windows, stream, 5)
    parts = torch.cat([model.loss(windows[k : k + 4], stream, 5, k) for k in (0, 4, 8)])
    assert torch.allclose(parts, whole, rtol=1e-12, atol=0)  # the same numbers, in other batch shapes


def test_no_network_has_a_lower_loss_than_the_exact_one() -> None:
    """Against the answer of the exact network times 0.7 and 1.3, at 4 standard errors of the paired difference."""
    windows = chain(4000, 2, Stream(6))
    for exact in (REGRESSION, replace(DIFFUSION["edm"], objective=Denoising()), REFINER):
        for factor in (0.7, 1.3):
            gap = replace(exact, module=Scaled(exact.module, factor)).loss(windows, Stream(1), 0)
            gap = gap - exact.loss(windows, Stream(1), 0)
            assert float(gap.mean()) > 4 * float(gap.std()) / math.sqrt(len(gap))


class Scaled(nn.Module):
    def __init__(self, module: nn.Module, factor: float) -> None:
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        return self.factor * self.module(x, level)


def test_without_refinements_a_refiner_is_a_regression() -> None:
    refiner, windows = replace(REFINER, module=PastAlone(ExactMean()), n_refinements=0), chain(50, 2, Stream(7))
    assert torch.equal(refiner.loss(windows, Stream(1), 3), REGRESSION.loss(windows, Stream(1), 3))
    past = windows[:, :1]
    assert torch.equal(past[:, -1] + refiner.increment(past, Stream(1)), REGRESSION.mean(past))
    exact = replace(REFINER, n_refinements=0).increment(past, Stream(1))
    assert torch.allclose(exact, (KEEP - 1) * past[:, -1], rtol=0, atol=1e-12)  # float64, ten operations


@pytest.mark.parametrize("n_refinements", [1, 3, 60])
def test_refinements_leave_the_mean_and_draw_with_the_variance_of_theory(n_refinements: int) -> None:
    """V_k = g² (V_{k−1} + ρ²), g = s²/(s² + ρ²): never half of s², however many levels there are."""
    n, refiner = 4096, replace(REFINER, n_refinements=n_refinements)
    drawn = refiner.increment(START.expand(n, 1, 1, SIZE), Stream(9)) - (KEEP - 1) * START
    ratios, variance = (refiner.noises / (1 - refiner.noises**2).sqrt())[1:], 0.0
    for ratio in (SCALE.step * ratios).tolist():
        variance = (NOISE**2 / (NOISE**2 + ratio**2)) ** 2 * (variance + ratio**2)
    assert variance < NOISE**2 / 2
    # 4 standard errors: of the mean of n numbers, the largest of SIZE; of the mean square of n · SIZE
    assert float(drawn.mean(0).abs().max()) < 4 * math.sqrt(variance / n)
    assert abs(float(drawn.square().mean()) / variance - 1) < 4 * math.sqrt(2 / (n * SIZE))
    if n_refinements == 60:
        assert variance > 0.3 * NOISE**2  # from 0.01 with one level; its limit is below 0.5


def test_the_loss_of_an_exact_refiner_is_the_variance_that_is_left() -> None:
    """Var(σ a − α ε | α a + σ ε) = s²/(α² s² + σ²), s² at level 0, at 4 standard errors."""
    n, variance = 20000, (NOISE / SCALE.step) ** 2
    windows, noise = chain(n, 2, Stream(10)), Stream(11).normal(n, (1, SIZE), dtype=torch.float64)
    for k, sigma in enumerate(REFINER.noises.tolist()):
        found = REFINER.loss_at(torch.full((n,), k), windows, noise)
        expected = variance / ((1 - sigma**2) * variance + sigma**2)
        assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(n)


def test_rows_of_a_refinement_never_see_one_another() -> None:
    past, stream = chain(11, 2, Stream(12))[:, :1], Stream(13, tile=4)
    whole = REFINER.increment(past, stream)
    parts = [REFINER.increment(past[k : k + 3], stream.rows_from(k)) for k in range(0, 11, 3)]
    assert torch.equal(torch.cat(parts), whole)


def test_windows_are_all_pieces_of_all_trajectories() -> None:
    data = torch.arange(12.0).reshape(2, 6, 1, 1)
    windows = Windows(data, 3)
    found = windows[torch.arange(len(windows))].flatten(1).tolist()
    assert found == [[6 * i + j + k for k in range(3)] for i in range(2) for j in range(4)]
    with pytest.raises(InputError, match="need trajectories of 8 or more, got 6"):
        Windows(data, 8)


def test_forecasters_come_back_from_their_file() -> None:
    spec = UNet(channels=(4,), padding="circular")
    torch.manual_seed(0)
    models = {
        "a": RegressionModel(spec.build((3, SIZE)), (1, SIZE), 2, PUSHED, REGRESSION.spectrum),
        "b": DiffusionModel(spec.build((4, SIZE)), (1, SIZE), 2, PUSHED, Follmer(1.5)),
        "c": RefinerModel(spec.build((4, SIZE)), (1, SIZE), 2, PUSHED, 2, 0.01),
    }
    for model in models.values():
        torch.nn.init.normal_(model.module.last[-1].weight)  # it starts as zero
        model.module.requires_grad_(False)
    found = unpack(pack(Forecasts(models, (4, SIZE), 0.25), spec))
    assert isinstance(found, Forecasts) and found.shape == (4, SIZE) and found.interval == 0.25
    past, t = told(Stream(1).normal(3, (2, 1, SIZE)), torch.tensor([[0.5], [0.0], [-2.0]])), 0.4
    assert found.scale == PUSHED
    assert torch.equal(found.named("a").mean(past), models["a"].mean(past))
    before, after = (held["b"].denoiser(past)(past[:, -1, :1], t) for held in (models, found.models))
    assert torch.equal(before, after)
    assert torch.equal(found.named("a").spectrum, REGRESSION.spectrum)
    drawn = [held["c"].increment(past, Stream(2)) for held in (models, found.models)]
    assert torch.equal(*drawn) and not torch.equal(drawn[0], models["c"].increment(past, Stream(3)))


class Pushed(nn.Module):
    """Answers with the last channel: a field that moves by its parameter, in units of its increment."""

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        return x[:, -1:].expand(-1, x.shape[1], -1)


PUSHED = replace(SCALE, parameters={"force": (2.0, 0.5), "depth": (7.0, 0.0)})


def test_a_parameter_is_told_to_the_network_in_units_of_its_spread() -> None:
    """u' = u + step (force − 2)/0.5 at each step; of a parameter that never differed nothing is told."""
    model = RegressionModel(Pushed(), (1, SIZE), 1, PUSHED)
    forecasts = Forecasts({"mean": model}, (HORIZON + 1, SIZE))
    for force in (2.0, 3.0):
        found = Rollout()(forecasts.given({"force": force, "depth": 7.0, "else": 1.0}), GIVEN, TIMES, 3, Stream(0)).x
        expected = torch.stack([START + h * SCALE.step * (force - 2.0) / 0.5 for h in range(HORIZON + 1)])
        assert torch.allclose(found, expected.expand(3, -1, -1), rtol=0, atol=1e-12)  # float64, three sums


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, r"told of \['depth', 'force'\], but for this state 'force' is missing; known are \[\]"),
        ({"force": math.nan, "depth": 7.0}, "'force' is nan"),
        ({"force": 2.0, "depth": 8.0}, "trained at depth = 7 alone, and cannot tell of 8"),
    ],
)
def test_parameters_that_are_missing_are_refused(parameters: dict[str, float], message: str) -> None:
    forecasts = Forecasts({"mean": RegressionModel(Pushed(), (1, SIZE), 1, PUSHED)}, (HORIZON + 1, SIZE))
    with pytest.raises(InputError, match=message):
        forecasts.given(parameters)
    with pytest.raises(InputError, match="'force' is missing"):
        Rollout()(forecasts, GIVEN, TIMES, 3, Stream(0))


@pytest.mark.parametrize("model", [REGRESSION, DIFFUSION["edm"], REFINER])
def test_parameters_do_not_enter_the_target(model: ForecastModel) -> None:
    """A network that does not look at them has the loss it has without, on the same windows and noise."""
    windows, stream = chain(10, 2, Stream(5)), Stream(3)
    wide = told(windows, Stream(6).normal(10, (1,), dtype=torch.float64))
    blind = replace(model, module=Blind(model.module), scale=PUSHED)
    assert torch.equal(blind.loss(wide, stream, 5), model.loss(windows, stream, 5))


class Blind(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        return self.module(x[:, :-1], level)


def test_a_blow_up_names_time_and_norm() -> None:
    wild = replace(REGRESSION, module=Scaled(ExactMean(), -60.0))  # u' = 13 u
    forecasts = Forecasts({"wild": wild}, (9, SIZE), interval=0.5)
    with pytest.raises(
        NonFiniteError, match=r"rollout of 'wild' blows up at time 1(\.5)?: a field has root mean square"
    ):
        Rollout("wild")(forecasts, GIVEN, TIMES, 3, Stream(0))


@pytest.mark.parametrize(
    ("options", "likelihood", "message"),
    [
        ({"forecaster": "nobody"}, GIVEN, "not 'nobody'. Name one of them"),
        ({}, GIVEN, "not ''. Name one of them"),
        ({"forecaster": "edm", "residual": 1.0}, GIVEN, "are for a regression"),
        ({"forecaster": "refiner", "perturbation": 1.0}, GIVEN, "are for a regression"),
        ({"forecaster": "edm"}, GaussianLikelihood(START[::2], Sensors(2, 1), 0.1), "got an observation of 4"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, likelihood: GaussianLikelihood, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rollout(**options)(FORECASTS, likelihood, TIMES, 3, Stream(0))


def test_forecasters_are_no_prior_of_trajectories() -> None:
    with pytest.raises(InputError, match="Use `rollout`, or train with"):
        FORECASTS(torch.zeros(1, *FORECASTS.shape), 0.5)
    other = replace(DIFFUSION["edm"]).denoiser(torch.zeros(1, 1, 1, SIZE))
    with pytest.raises(InputError, match="a rollout needs one-step forecasters"):
        Rollout()(other, GIVEN, TIMES, 3, Stream(0))
