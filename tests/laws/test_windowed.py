"""Chains made of windows: where each answer comes from, how wrong it is, and posteriors beside the Kalman smoother."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from probe import moments
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Schedule
from sciflow.diffusion.times import Karras
from sciflow.diffusion.windowed import WindowedDenoiser
from sciflow.errors import InputError
from sciflow.inverse import POSTERIORS, Dense, GaussianLikelihood, Guidance, Guided, MomentMatching, PiGDM
from sciflow.inverse.belief import Differentiated
from sciflow.particles.filtering import LinearMeasurements
from sciflow.particles.kalman import LinearChain
from sciflow.random import Stream
from sciflow.types import Time

N_TIMES, KEPT = 15, 0.9
SEEN, SIGMA = range(0, N_TIMES, 3), 0.3
Y = 1.2 * (1.7 * torch.arange(len(SEEN), dtype=torch.float64)).sin()
EYE = torch.eye(N_TIMES, dtype=torch.float64)


def covariance(n: int) -> Tensor:
    """Of n states of x_{i+1} = KEPT x_i + √(1 − KEPT²) w_i."""
    i = torch.arange(n, dtype=torch.float64)
    return KEPT ** (i[:, None] - i).abs()


def gaussian(n: int, schedule: Schedule | None = None) -> MixtureDenoiser:
    """The exact denoiser of n states of the chain."""
    return GaussianDenoiser(torch.zeros(n, dtype=torch.float64), covariance(n), schedule or Cosine())


def windowed(k: int, n_times: int = N_TIMES) -> WindowedDenoiser:
    return WindowedDenoiser(gaussian(2 * k + 1), n_times, (1,))


def at(ratio: float) -> float:
    """The time at which σ/α is this."""
    return float(Cosine().time(torch.tensor(-math.log(ratio), dtype=torch.float64)))


# Bookkeeping ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marked:
    """Answers x + 1000 (place in the window) + 10⁶ t."""

    shape: tuple[int, ...]
    schedule: Schedule = field(default_factory=EDM)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        places = torch.arange(self.shape[0], dtype=x.dtype).reshape(-1, *[1] * (len(self.shape) - 1))
        when = t.reshape(-1, *[1] * len(self.shape)) if isinstance(t, Tensor) and t.ndim else t
        return x + 1000 * places + 1e6 * when


@pytest.mark.parametrize("state", [(), (3,), (2, 4)])
def test_every_state_is_answered_by_the_window_it_is_in_the_middle_of(state: tuple[int, ...]) -> None:
    """And by the nearest one at the ends, at the time of its own row: integers, exactly."""
    for k, n_times in ((0, 4), (1, 3), (1, 5), (2, 9)):
        chain = WindowedDenoiser(Marked((2 * k + 1, *state)), n_times)
        x = torch.arange(2 * math.prod(chain.shape), dtype=torch.float64).reshape(2, *chain.shape)
        middle = min(max(0, k), n_times - 1 - k)
        centres = [min(max(i, k), n_times - 1 - k) for i in range(n_times)]
        places = torch.tensor([float(i - c + k) for i, c in enumerate(centres)], dtype=torch.float64)
        wanted = x + 1000 * places.reshape(-1, *[1] * len(state))
        assert middle == k and torch.equal(chain(x, 0.25), wanted + 1e6 * 0.25)
        rows = torch.tensor([0.25, 0.5], dtype=torch.float64)
        assert torch.equal(chain(x, rows), wanted + 1e6 * rows.reshape(2, 1, *[1] * len(state)))


def test_one_window_is_the_whole_chain() -> None:
    """Of a mixture, whose states are vectors: denoiser, covariance and start."""
    factors = torch.linspace(-1, 1, 2 * 6 * 6, dtype=torch.float64).reshape(2, 6, 6) + torch.eye(6)
    means = torch.stack([torch.ones(6, dtype=torch.float64), -2 * torch.ones(6, dtype=torch.float64)])
    law = GaussianMixture(torch.tensor([0.4, 0.6], dtype=torch.float64), means, factors @ factors.mT)
    window, t = MixtureDenoiser(law, Cosine()), at(0.7)
    chain = WindowedDenoiser(window, 3, (2,))
    x = chain.initial(t, 8, Stream(0), torch.float64)
    assert x.shape == (8, 3, 2) and chain.reach == 1 and chain.size == 2
    assert torch.equal(x, window.initial(t, 8, Stream(0).child("window", 0), torch.float64).reshape(8, 3, 2))
    assert torch.equal(chain(x, t).flatten(1), window(x.flatten(1), t))
    exact = window.covariance(x.flatten(1), t)
    # the covariance goes by two inverses of numbers of condition below 1e3
    assert torch.allclose(WindowedDenoiser(window, 1, (6,)).covariance(x.reshape(8, 1, 6), t), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_independent_states_are_exact(k: int) -> None:
    """Whatever the width of the windows, and at all noise levels; the covariance too."""
    spread = torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64)

    def denoiser(n: int) -> MixtureDenoiser:
        mean = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(n)
        return GaussianDenoiser(mean, torch.block_diag(*[spread] * n), Cosine())

    chain, exact = WindowedDenoiser(denoiser(2 * k + 1), 7, (2,)), denoiser(7)
    for ratio in (1e-3, 1.0, 30.0):
        x = exact.initial(at(ratio), 4, Stream(1), torch.float64)
        shaped = x.reshape(4, 7, 2)
        # rounding of numbers below 10
        assert torch.allclose(chain(shaped, at(ratio)).flatten(1), exact(x, at(ratio)), rtol=0, atol=1e-12)
        found, wanted = chain.covariance(shaped, at(ratio)), exact.covariance(x, at(ratio))
        assert torch.allclose(found, wanted, rtol=0, atol=1e-9 * float(wanted.max()))  # inverses of blocks


# Bias -----------------------------------------------------------------------------------------------------------------


def excess(k: int, ratio: float) -> float:
    """E‖D_windowed − D‖²/E‖x₁ − D‖², in closed form: both are linear."""
    t, exact = at(ratio), gaussian(N_TIMES)
    alpha, sigma = float(Cosine().alpha(t)), float(Cosine().sigma(t))
    gap = windowed(k)(EYE[..., None], t)[..., 0].T - exact(EYE, t).T
    noisy = alpha**2 * covariance(N_TIMES) + sigma**2 * EYE
    return float((gap @ noisy @ gap.T).trace() / exact.covariance(EYE[:1], t)[0].trace())


def test_the_error_of_windows_is_as_stated() -> None:
    """As the docstring has it, to the digits it gives."""
    stated = {
        0.3: (0.019, 9.3e-4, 4.4e-5), 1.0: (0.28, 0.081, 0.024, 0.007, 0.0018), 3.0: (0.25, 0.14, 0.077, 0.040, 0.018),
    }  # fmt: skip
    for ratio, values in stated.items():
        found = [excess(k, ratio) for k in range(1, len(values) + 1)]
        assert found == pytest.approx(values, rel=0.05), ratio
        assert all(b < 0.7 * a for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("k", [1, 2])
def test_windows_are_exact_where_noise_is_small(k: int) -> None:
    """The error is O(u^{2k+2}), and that of the best denoiser O(u): the share of squares is O(u^{4k+2})."""
    coarse, fine = (excess(k, ratio) for ratio in (0.04, 0.02))
    assert math.log2(coarse / fine) == pytest.approx(4 * k + 2, abs=0.2)  # u²/0.19, the noise of a move: 1 %


# Covariance -----------------------------------------------------------------------------------------------------------


def test_the_covariance_is_exact_where_the_windows_are() -> None:
    """Windows cut out of the exact covariance of a chain of order 1 are joined to it, for k = 1 and more."""
    rotation = 0.8 * torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)  # not reversible in time
    blocks = [[torch.linalg.matrix_power(rotation, abs(i - j)) for j in range(9)] for i in range(9)]
    prior = torch.cat([torch.cat([b if i >= j else b.T for j, b in enumerate(row)], 1) for i, row in enumerate(blocks)])
    exact = torch.linalg.inv(torch.linalg.inv(prior) + torch.eye(18, dtype=torch.float64) / 0.3)
    for k in (1, 2, 3):
        chain = WindowedDenoiser(Marked((2 * k + 1, 2)), 9)
        wide = 2 * chain.width
        windows = torch.stack([exact[2 * j : 2 * j + wide, 2 * j : 2 * j + wide] for j in range(9 - 2 * k)])
        # rounding, times a condition of 100, twice
        assert torch.allclose(chain._joined(windows[None], 1e-14)[0], exact, rtol=0, atol=1e-11)


def test_the_covariance_is_one_whatever_the_windows_say() -> None:
    """Positive definite, for windows that contradict one another and for such that know everything."""
    factors = Stream(2).normal(3, (7, 6, 6), dtype=torch.float64)
    chain = WindowedDenoiser(Marked((3, 2)), 9)
    found = chain._joined(factors @ factors.mT, 1e-14)
    assert float(torch.linalg.eigvalsh(found).min()) > 0 and torch.equal(found, found.mT)
    widest = (factors @ factors.mT).diagonal(dim1=2, dim2=3).amax(1).amax()
    assert float(found.diagonal(dim1=1, dim2=2).max()) <= float(widest)  # no state is wider than in a window
    known = chain._joined(torch.zeros(1, 7, 6, 6, dtype=torch.float64), 1e-14)
    assert bool(known.isfinite().all()) and float(known.abs().max()) < 1e-100


def test_the_covariance_of_a_network_is_that_of_its_jacobian() -> None:
    """Windows without a covariance of their own hide that of the chain, until they are differentiated."""

    @dataclass(frozen=True)
    class Opaque:
        denoiser: Denoiser

        def __post_init__(self) -> None:
            for name in ("schedule", "shape", "initial"):
                object.__setattr__(self, name, getattr(self.denoiser, name))

        def __call__(self, x: Tensor, t: Time) -> Tensor:
            return self.denoiser(x, t)

    hidden = Opaque(gaussian(5))
    x, t = windowed(2).initial(at(1.0), 3, Stream(4), torch.float64), at(1.0)
    assert not hasattr(WindowedDenoiser(hidden, N_TIMES, (1,)), "covariance")
    found = WindowedDenoiser(Differentiated(hidden), N_TIMES, (1,)).covariance(x, t)
    assert torch.allclose(found, windowed(2).covariance(x, t), rtol=0, atol=1e-12)  # rounding of numbers below 1


# Posteriors -----------------------------------------------------------------------------------------------------------


def likelihood(shape: tuple[int, ...] = (N_TIMES, 1)) -> GaussianLikelihood:
    """Every third state is measured."""
    return GaussianLikelihood(Y, Dense.of(EYE[list(SEEN)], shape), SIGMA)


def smoothed(y: Tensor = Y) -> tuple[Tensor, Tensor]:
    """Mean and variance of each state given all measurements, by Kalman's recursion forwards and back."""
    nothing = torch.zeros(0, 1, dtype=torch.float64)
    values = tuple(y[[SEEN.index(i)]] if i in SEEN else y[:0] for i in range(N_TIMES))
    matrices = tuple(torch.ones(1, 1, dtype=torch.float64) if i in SEEN else nothing for i in range(N_TIMES))
    one = torch.ones(1, 1, dtype=torch.float64)
    chain = LinearChain(
        KEPT * one, (1 - KEPT**2) * one, torch.zeros(1, dtype=torch.float64), one,
        LinearMeasurements(values, matrices, SIGMA),
    )  # fmt: skip
    found = chain.smoothed()
    return found.mean[:, 0], found.covariance[:, 0, 0]


def off(prior: Denoiser, guidance: Guidance = MomentMatching, n_steps: int = 64) -> tuple[float, Tensor]:
    """Error of the mean, in standard deviations, root mean square, and each variance over the right one.

    Of the law that the code draws from, without a Monte Carlo error.
    """
    times = Karras(n_steps)(prior.schedule)
    given = likelihood(tuple(prior.shape))
    mean, found, departure = moments(lambda stream, n: Guided(guidance)(prior, given, times, n, stream).x)
    assert departure < 1e-11  # the sampler is affine: rounding
    exact, variance = smoothed()
    return float(((mean - exact).square() / variance).mean().sqrt()), found.diagonal() / variance


@pytest.mark.parametrize("prior", [windowed(7), gaussian(N_TIMES)], ids=["one window", "chain"])
def test_the_exact_chain_guided_by_moments_is_the_smoother(prior: Denoiser) -> None:
    """What is left is the solver's error, and falls at its order: 2e-3 of a variance at 32 steps, 1e-4 at 64."""
    for n_steps, tolerance in ((32, 3e-3), (64, 2e-4)):
        error, ratios = off(prior, n_steps=n_steps)
        assert error < tolerance and float((ratios - 1).abs().max()) < tolerance


def test_windows_guided_by_moments_tend_to_the_smoother() -> None:
    """Their bias, measured: as the page has it, to a twentieth."""
    errors, widths = [], []
    for k in range(1, 7):
        error, ratios = off(windowed(k))
        errors.append(error)
        widths.append(float((ratios - 1).abs().max()))
    assert errors == pytest.approx([0.179, 0.116, 0.055, 0.0257, 0.0068, 0.0022], rel=0.05)
    assert widths == pytest.approx([0.77, 0.143, 0.078, 0.021, 0.0039, 0.0040], rel=0.05)


def test_states_of_several_numbers_tend_to_the_smoother_too() -> None:
    """A rotation with noise, whose chain runs differently backwards; one coordinate is measured, every second time."""
    turn, n_times = 0.9 * torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64), 9
    powers = [torch.linalg.matrix_power(turn, k) for k in range(n_times)]

    def law(n: int) -> MixtureDenoiser:
        rows = [[powers[i - j] if i >= j else powers[j - i].T for j in range(n)] for i in range(n)]
        return GaussianDenoiser(
            torch.zeros(2 * n, dtype=torch.float64), torch.cat([torch.cat(row, 1) for row in rows]), Cosine()
        )

    y = torch.tensor([[1.0], [-0.5], [0.8], [-1.2], [0.3]], dtype=torch.float64)
    unit = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    values = tuple(y[i // 2] if i % 2 == 0 else y[0, :0] for i in range(n_times))
    seen = LinearMeasurements(values, tuple(unit[: len(value)] for value in values), SIGMA)
    eye = torch.eye(2, dtype=torch.float64)
    exact = LinearChain(turn, eye - turn @ turn.T, torch.zeros(2, dtype=torch.float64), eye, seen).smoothed()
    operator = Dense.of(torch.eye(2 * n_times, dtype=torch.float64)[::4], (n_times, 2))
    given, errors, gaps = GaussianLikelihood(y[:, 0], operator, SIGMA), [], []
    sampler, times = Guided(MomentMatching), Karras(64)(Cosine())
    for k in range(1, 5):
        prior = WindowedDenoiser(law(2 * k + 1), n_times, (2,))
        mean, found, _ = moments(lambda stream, n, prior=prior: sampler(prior, given, times, n, stream).x)
        blocks = torch.stack([found[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] for i in range(n_times)])
        variances = exact.covariance.diagonal(dim1=1, dim2=2)
        errors.append(float(((mean.reshape(n_times, 2) - exact.mean).square() / variances).mean().sqrt()))
        gaps.append(float((blocks - exact.covariance).abs().max()))
    assert errors[:3] == pytest.approx([0.144, 0.064, 0.0156], rel=0.05)
    assert gaps[:3] == pytest.approx([0.353, 0.057, 0.0083], rel=0.05)
    assert max(errors[3], gaps[3]) < 2e-4  # one window is the chain: the solver's error, as above


def test_isotropic_guidance_stays_wrong_however_wide_the_window() -> None:
    """What is published for windows takes the spread of x₁ as isotropic: half a standard deviation off, chain exact."""
    errors = [off(prior, PiGDM)[0] for prior in (windowed(1), windowed(3), windowed(7))]
    assert errors == pytest.approx([0.20, 0.28, 0.48], rel=0.05)


def test_the_example_of_the_page_finds_the_smoother() -> None:
    """4 standard errors of its draws, besides the bias at k = 4: 0.06 standard deviations, and 3 % of a variance."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "pde.md").read_text(encoding="utf-8")
    (example,) = [text for text in re.findall(r"```python\n(.+?)```", page, re.DOTALL) if "WindowedDenoiser" in text]
    names: dict[str, Any] = {}
    exec(compile(example, "docs/pde.md", "exec"), names)
    mean, variance = smoothed(names["y"])
    drawn, n = names["draws"], len(names["draws"])
    assert ((drawn.mean(0) - mean).abs() < (4 / math.sqrt(n) + 0.06) * variance.sqrt()).all()
    assert ((drawn.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / n) + 0.03).all()


ELSEWHERE = {
    "particle_filter": "follows an equation", "ensemble_kalman": "follows an equation", "rollout": "asks a forecaster",
    "conjugate": "conditions a mixture in closed form", "simulated": "needs a density", "tempered": "needs a density",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(set(POSTERIORS) - set(ELSEWHERE)))
def test_every_posterior_sampler_takes_windows(kind: str) -> None:
    """Two-dimensional states, so that nothing fits by chance; draws are finite and have the shape of the chain."""
    spread = torch.kron(covariance(3), torch.tensor([[1.0, 0.5], [0.5, 2.0]], dtype=torch.float64))
    window = GaussianDenoiser(torch.zeros(6, dtype=torch.float64), spread, Cosine())
    prior = WindowedDenoiser(window, 5, (2,))
    matrix = torch.eye(10, dtype=torch.float64)[[0, 8]]
    given = GaussianLikelihood(torch.tensor([1.0, -1.0], dtype=torch.float64), Dense.of(matrix, (5, 2)), 0.5)
    small = {"n_particles": 16} if "n_particles" in POSTERIORS[kind].__dataclass_fields__ else {}
    found = POSTERIORS[kind](**small)(prior, given, Karras(6)(prior.schedule), 4, Stream(3)).x
    assert found.shape[1:] == (5, 2) and bool(found.isfinite().all())


@pytest.mark.parametrize(
    ("shape", "n_times", "state", "message"),
    [
        ((4, 3), 9, None, r"an odd number of states, got windows of shape \(4, 3\) and states of shape \(3,\)"),
        ((9,), 9, (2,), "and the shape of one as `state` if it is flattened"),
        ((5, 3), 4, None, "a chain of 4 states is shorter than its windows of 5"),
    ],
)
def test_what_does_not_fit_is_refused(
    shape: tuple[int, ...], n_times: int, state: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        WindowedDenoiser(Marked(shape), n_times, state)
