"""Log-likelihoods against closed forms, each with the error that it states about itself."""

from __future__ import annotations

import math

import pytest
import torch
from problems import LAWS, gaussian
from torch import Tensor

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.density import bits_per_dimension, change_of_variables, dequantise, log_likelihood
from sciflow.diffusion.divergence import ExactDivergence, Hutchinson, HutchPlusPlus
from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.ito import ItoDensity
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Linear, Schedule, Trigonometric, VariancePreserving
from sciflow.diffusion.times import Karras, LogSNR
from sciflow.diffusion.two_sided import MixtureTwoSided, TwoSided, transport
from sciflow.random import Stream
from sciflow.solvers import DDIM, EABM, Dopri5, EulerMaruyama, Heun, linear, solve

SCHEDULES = [VariancePreserving(), EDM(), Linear(), Trigonometric()]


def problem(law: str, schedule: Schedule, n: int = 16, n_steps: int = 48) -> tuple[MixtureDenoiser, Tensor, Tensor]:
    """A denoiser, a grid from white noise to u = 0.05, and draws of x there."""
    denoiser = MixtureDenoiser(LAWS[law](), schedule)
    times = LogSNR(n_steps=n_steps, ratio_max=200.0, ratio_min=0.05)(schedule)
    return denoiser, times, denoiser.initial(float(times[-1]), n, Stream(3), torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_likelihood_of_a_gaussian(schedule: Schedule) -> None:
    denoiser, times, x = problem("gaussian", schedule, n_steps=128)
    found = log_likelihood(denoiser, x, times)
    error = (found.value - denoiser.log_prob(x, times[-1])).abs()
    assert float(error.max()) < 1e-6  # fourth order: 3e-7 with 128 steps
    # Richardson's estimate is right to leading order
    assert float(found.discretisation.max() / error.max()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_likelihood_of_a_mixture_is_within_the_error_it_states(schedule: Schedule) -> None:
    denoiser, times, x = problem("mixture", schedule)
    found = log_likelihood(denoiser, x, times)
    error = (found.value - denoiser.log_prob(x, times[-1])).abs()
    assert float(error.max()) < 2e-3  # fourth order with 48 steps; measured 3e-4
    # the worst rows lie between two components, where 48 steps do not show the order yet: measured 0.95 to 3
    assert 0.3 < float(found.discretisation.max() / error.max()) < 10
    assert 0.5 < float(found.discretisation.median() / error.median()) < 2  # measured 0.8 to 1.1
    assert not found.stderr.any(), "the divergence is exact"


@pytest.mark.parametrize(("solver", "order"), [(Heun(), 2), (EABM(2, "time"), 2)], ids=str)
def test_likelihood_converges_at_the_order_of_its_solver(solver: object, order: int) -> None:
    denoiser, _, x = problem("mixture", VariancePreserving())
    angle = torch.linspace(1.5, 0.1, 129, dtype=torch.float64)
    fine = denoiser.schedule.time(-angle.tan().log())
    exact = denoiser.log_prob(x, fine[-1])
    errors = [
        float((log_likelihood(denoiser, x, grid, solver).value - exact).square().mean().sqrt())
        for grid in (fine[::2], fine)
    ]
    # 0.25: the order-1 start of the multistep method and next-order terms at h = 0.01
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_a_white_base_is_the_default_of_a_network() -> None:
    """Without a law of its own at the start the model is given N(0, σ²): its error is O(1/u²) there."""

    class Bare:
        def __init__(self, denoiser: MixtureDenoiser) -> None:
            self.denoiser, self.schedule, self.shape = denoiser, denoiser.schedule, denoiser.shape

        def __call__(self, x: Tensor, t: float) -> Tensor:
            return self.denoiser(x, t)

    denoiser, times, x = problem("gaussian", EDM(sigma_max=500.0))
    own, white = (log_likelihood(d, x, times).value for d in (denoiser, Bare(denoiser)))
    assert 0 < float((own - white).abs().max()) < 0.1  # |mean| = 2.3 at u = 200: ⟨x, m⟩/σ² is about 0.03


def test_likelihood_of_any_flow() -> None:
    """ẋ = A x with A = diag: the log-density falls by the trace; and the diffusion flow in its own time."""
    rate = torch.tensor([0.3, -0.5], dtype=torch.float64)
    x = torch.tensor([[0.4, 1.0], [-2.0, 0.3]], dtype=torch.float64)

    def base(v: Tensor) -> Tensor:
        return -0.5 * v.square().sum(1) - math.log(2 * math.pi)

    found = change_of_variables(linear(rate, lambda t, v: 0 * v), x, [0.0, 0.5, 1.0, 1.5, 2.0], base, Dopri5())
    exact = base(x * torch.exp(-2 * rate)) - 2 * rate.sum()
    assert found.value.numpy() == pytest.approx(exact.numpy(), abs=1e-5)  # Dopri5's tolerance 1e-6 on 4 intervals
    assert found.start.numpy() == pytest.approx((x * torch.exp(-2 * rate)).numpy(), abs=1e-5)


def test_likelihood_of_a_two_sided_interpolant() -> None:
    """Between two known laws, over the whole of [0, 1]: the score −η/γ is never used where γ = 0."""
    base = GaussianMixture(gaussian().weights, torch.ones(1, 2).double(), 0.5 * torch.eye(2).double()[None])
    flow = transport(MixtureTwoSided(TwoSided(), base, LAWS["mixture"]()))
    x = LAWS["mixture"]().sample(8, Stream(1))
    found = change_of_variables(flow, x, torch.linspace(0, 1, 33), base.log_prob)
    error = (found.value - LAWS["mixture"]().log_prob(x)).abs()
    assert float(error.max()) < 1e-4  # fourth order: 3e-6 with 32 steps
    assert 0.3 < float(found.discretisation.max() / error.max()) < 3  # measured 0.9


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_with_fixed_probes(law: str) -> None:
    denoiser, times, x = problem("mixture", VariancePreserving(), n=1)
    x, n = x.expand(400, -1), 400
    estimate = Hutchinson(n_probes=2, law=law)
    found = log_likelihood(denoiser, x, times[::3], Heun(), divergence=estimate, stream=Stream(5))
    exact = log_likelihood(denoiser, x[:1], times[::3], Heun()).value
    error = found.value - exact
    assert float(error.std()) > 1e-3, "the probes do something"
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(n)
    # the stated standard errors squared are, on average over 400 pairs of probes, the variance of the value
    ratio = float(found.stderr.square().mean() / error.var())
    spread = float(found.stderr.square().std() / found.stderr.square().mean()) / math.sqrt(n) + math.sqrt(2 / n)
    assert ratio == pytest.approx(1, abs=4 * spread)


def low_rank(spectrum: list[float], d: int = 12) -> MixtureDenoiser:
    vectors = torch.linalg.qr(Stream(1).normal(d, (d,), dtype=torch.float64))[0][:, : len(spectrum)]
    covariance = vectors * torch.tensor(spectrum, dtype=torch.float64) @ vectors.T
    return GaussianDenoiser(torch.zeros(d, dtype=torch.float64), covariance, VariancePreserving())


def errors(denoiser: MixtureDenoiser, divergence: object) -> Tensor:
    """Of 64 independent estimates for one x, against the exact divergence on the same grid."""
    times = LogSNR(n_steps=10, ratio_max=100.0, ratio_min=0.1)(denoiser.schedule)
    x = denoiser.initial(float(times[-1]), 1, Stream(2), torch.float64).expand(64, -1)
    exact = log_likelihood(denoiser, x[:1], times, Heun()).value
    return log_likelihood(denoiser, x, times, Heun(), divergence=divergence, stream=Stream(4)).value - exact


def test_hutch_plus_plus_is_exact_on_low_rank() -> None:
    denoiser = low_rank([1.0, 1.0])
    # rounding of 20 traces and QRs, times the weight r/σ = 10 of the last
    assert float(errors(denoiser, HutchPlusPlus(n_probes=2)).abs().max()) < 1e-10
    assert float(errors(denoiser, Hutchinson(n_probes=6)).std()) > 0.1, "the same number of products"


def test_hutch_plus_plus_beats_hutchinson_on_a_falling_spectrum() -> None:
    denoiser = low_rank([1.0, 0.3, 1e-3, 1e-4])
    sketched, plain = (errors(denoiser, d) for d in (HutchPlusPlus(n_probes=2), Hutchinson(n_probes=6)))
    # the variance of 64 draws is known to √(2/64) = 18 %: a factor 4 is beyond 4 standard errors; measured 13
    assert 4 * float(sketched.var()) < float(plain.var())
    assert abs(float(sketched.mean())) < 4 * float(sketched.std()) / 8


def test_a_row_does_not_depend_on_its_batch() -> None:
    denoiser, times, x = problem("mixture", VariancePreserving(), n=7)
    for divergence in (ExactDivergence(), Hutchinson(2), HutchPlusPlus(1)):
        options = {"divergence": divergence, "stream": Stream(6)}
        whole = log_likelihood(denoiser, x, times[::6], **options)
        part = log_likelihood(denoiser, x[:3], times[::6], **options)
        # to the last bits of the closed form's own matrix products, which depend on the shape of the batch
        assert whole.value[:3].numpy() == pytest.approx(part.value.numpy(), rel=1e-12)


def test_the_likelihood_can_be_differentiated() -> None:
    """Its gradient with respect to x is the score."""
    denoiser, times, x = problem("mixture", VariancePreserving(), n=4)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(log_likelihood(denoiser, x, times, differentiable=True).value.sum(), x)
    (score,) = torch.autograd.grad(denoiser.log_prob(x, float(times[-1])).sum(), x)
    assert gradient.numpy() == pytest.approx(score.numpy(), rel=0.01, abs=0.05)  # fourth order with 48 steps


def test_refusals_name_what_to_do() -> None:
    denoiser, times, x = problem("gaussian", Linear(), n=2)
    with pytest.raises(ValueError, match=r"stream=Stream"):
        log_likelihood(denoiser, x, times, divergence=Hutchinson())
    with pytest.raises(ValueError, match=r"End the grid before σ = 0"):
        log_likelihood(denoiser, x, [0.1, 1.0])


def test_bits_per_dimension_of_a_discrete_law() -> None:
    """A Gaussian in bins: the bound is above the discrete cost, by O(Δ²), in whatever units."""
    law = gaussian()
    wide = GaussianMixture(law.weights, 0 * law.means, 9 * torch.eye(3, dtype=torch.float64)[None])
    n, width = 4000, 0.5
    x = torch.round(wide.sample(n, Stream(8)) / width) * width
    spread = dequantise(x, width, Stream(9))
    assert float((spread - x).abs().max()) <= width / 2
    bits = bits_per_dimension(wide.log_prob(spread), 3, width)
    cumulative = torch.distributions.Normal(0.0, 3.0).cdf
    exact = -(cumulative(x + width / 2) - cumulative(x - width / 2)).log2().mean(1)
    gap = bits - exact
    # Jensen's gap is Var[log p(x + Δu)]/2 = Δ² x²/(24 σ⁴) per dimension, with E x² = σ²
    expected = width**2 / (24 * 9) / math.log(2)
    assert float(gap.mean()) == pytest.approx(expected, abs=4 * float(gap.std()) / math.sqrt(n))
    scaled = GaussianMixture(law.weights, 0 * law.means, 9e4 * torch.eye(3, dtype=torch.float64)[None])
    again = bits_per_dimension(scaled.log_prob(100 * spread), 3, 100 * width)
    assert again.numpy() == pytest.approx(bits.numpy(), abs=1e-12)


def path_errors(n_steps: int, n: int = 4000) -> dict[str, tuple[Tensor, Tensor]]:
    """Error and stated error of both forms, along the same ancestral paths from σ = 20 to 0.1 in two dimensions."""
    denoiser = MixtureDenoiser(LAWS["mixture"](), EDM())
    times = Karras(n_steps, ratio_max=20.0, ratio_min=0.1)(denoiser.schedule)
    x = denoiser.initial(float(times[0]), n, Stream(1), torch.float64)
    left = ItoDensity(denoiser, x, float(times[0]))
    ratio = ItoDensity(left, x, float(times[0]), form="ratio")

    def record(step: int, time: float, state: Tensor) -> None:
        left.record(step, time, state)
        ratio.record(step, time, state)

    with torch.no_grad():
        end = solve(probability_flow(ratio), x, times, DDIM(eta=1.0), stream=Stream(2), on_step=record)
    exact = denoiser.log_prob(end, float(times[-1]))
    found = {"left": left.result(), "ratio": ratio.result()}
    return {form: (density.value - exact, density.stderr) for form, density in found.items()}


def test_bias_and_spread_of_the_path_density() -> None:
    """Bias falls like 1/N, the standard deviation like N^{−1/2}; the kernel ratio is the less biased form."""
    coarse, fine = path_errors(50), path_errors(200)
    biases = {}
    for form, (of_fine, stated) in fine.items():
        of_coarse, n = coarse[form][0], len(of_fine)
        means, deviations = zip(*((float(e.mean()), float(e.std())) for e in (of_coarse, of_fine)), strict=True)
        stderrs = [deviation / math.sqrt(n) for deviation in deviations]
        relative = [stderr / abs(mean) for stderr, mean in zip(stderrs, means, strict=True)]
        bias_slope, stderr = math.log(means[1] / means[0]) / math.log(4), math.hypot(*relative) / math.log(4)
        assert stderr < 0.1, "the slope is known well enough to be judged"
        assert bias_slope == pytest.approx(-1, abs=0.3)
        # 0.1: the next order at N = 50, measured 0.05; the standard error of the slope is 1/√(4000)/log 4 = 0.01
        assert math.log(deviations[1] / deviations[0]) / math.log(4) == pytest.approx(-0.5, abs=0.1)
        assert float(stated.square().mean().sqrt()) == pytest.approx(deviations[1], rel=0.1)  # measured 2 % off
        biases[form] = abs(means[1]), stderrs[1]
    (of_left, a), (of_ratio, b) = biases["left"], biases["ratio"]
    assert of_left - of_ratio > 4 * math.hypot(a, b)


def test_the_path_density_asks_for_one_more_call() -> None:
    """Where the solver calls the denoiser at a step's start, and it is the recorder; if not, one per step."""
    denoiser = Counted(MixtureDenoiser(LAWS["mixture"](), EDM()))
    times = Karras(6, ratio_max=20.0, ratio_min=0.1)(denoiser.schedule)
    x = denoiser.initial(float(times[0]), 5, Stream(1), torch.float64)
    values = []
    for inside in (True, False):
        denoiser.rows = 0
        recorder = ItoDensity(denoiser, x, float(times[0]))
        flow = reverse_sde(recorder if inside else denoiser)
        solve(flow, x, times, EulerMaruyama(), stream=Stream(2), on_step=recorder.record)
        assert denoiser.rows == 5 * (6 if inside else 12)
        values.append(recorder.result())
        assert denoiser.rows == 5 * (7 if inside else 13)
    assert torch.equal(values[0].value, values[1].value) and torch.equal(values[0].stderr, values[1].stderr)


def test_the_path_density_starts_at_the_base() -> None:
    denoiser, times, x = problem("mixture", VariancePreserving())
    recorder = ItoDensity(denoiser, x, float(times[0]))
    exact = denoiser.log_prob(x, float(times[0])).numpy()
    assert recorder.result().value.numpy() == pytest.approx(exact, rel=1e-12)  # d log α twice
    assert not recorder.result().stderr.any()
