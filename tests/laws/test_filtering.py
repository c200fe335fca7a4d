"""Filters and smoothers of a linear Gaussian chain find what Kalman's formulae give; these find what algebra gives."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sciflow.errors import InputError, NonFiniteError
from sciflow.particles import (
    BootstrapFilter,
    EnsembleKalman,
    GuidedFilter,
    LinearChain,
    LinearMeasurements,
    filtered,
    smc,
)
from sciflow.particles.ensemble_kalman import taper
from sciflow.particles.kalman import Gaussians
from sciflow.random import Stream
from sciflow.solvers import EulerMaruyama, Lorenz63, Lorenz96, RungeKutta4, StateSpace, solve, times
from sciflow.solvers.dynamics import Equation

RATE = torch.tensor([[-0.3, 1.0, 0.0], [-1.0, -0.2, 0.4], [0.1, 0.0, -0.5]], dtype=torch.float64)
MATRIX = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
SIGMA, NOISE = 0.3, 0.4
SPACE = StateSpace(
    Equation(lambda t, x: x @ RATE.T),
    (0.0, 0.25, 0.5, 0.9, 1.3, 1.5),
    torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64),
    1.0,
    NOISE,
    RungeKutta4(),
    n_substeps=2,
)


def seen() -> LinearMeasurements:
    """Measurements of one path, at time 3 none and at time 4 only the second."""
    truth = SPACE.simulate(1, Stream(5))[0]
    y = truth @ MATRIX.T + SIGMA * Stream(6).normal(6, (2,), dtype=torch.float64)
    y[3], y[4, 0] = math.nan, math.nan
    return LinearMeasurements.of(y, MATRIX, SIGMA)


MEASURED = seen()


def matrices() -> list[Tensor]:
    """Φ_k, which is linear here, column by column."""
    return [SPACE.forecast(k, torch.eye(3, dtype=torch.float64), Stream(0)).T for k in range(SPACE.n_steps)]


@functools.cache
def exact() -> tuple[Gaussians, Gaussians]:
    """Filter and smoother of SPACE by dense algebra over the whole path: no recursion."""
    d, n = 3, SPACE.n_steps + 1
    maps = matrices()
    mean, covariance = torch.zeros(n * d, dtype=torch.float64), torch.zeros(n * d, n * d, dtype=torch.float64)
    mean[:d], covariance[:d, :d] = SPACE.mean, torch.eye(d, dtype=torch.float64)
    for k, a in enumerate(maps):
        old, new = slice(k * d, (k + 1) * d), slice((k + 1) * d, (k + 2) * d)
        mean[new] = a @ mean[old]
        covariance[new, : (k + 1) * d] = a @ covariance[old, : (k + 1) * d]
        covariance[: (k + 1) * d, new] = covariance[new, : (k + 1) * d].T
        covariance[new, new] = a @ covariance[old, old] @ a.T + NOISE**2 * torch.eye(d, dtype=torch.float64)
    filters = [conditional(mean, covariance, k + 1) for k in range(n)]
    smoother = conditional(mean, covariance, n)
    cut = [slice(k * d, (k + 1) * d) for k in range(n)]
    return (
        Gaussians(
            torch.stack([f[0][c] for f, c in zip(filters, cut, strict=True)]),
            torch.stack([f[1][c, c] for f, c in zip(filters, cut, strict=True)]),
            smoother[2],
        ),
        Gaussians(
            torch.stack([smoother[0][c] for c in cut]), torch.stack([smoother[1][c, c] for c in cut]), smoother[2]
        ),
    )


def conditional(mean: Tensor, covariance: Tensor, n_times: int) -> tuple[Tensor, Tensor, float]:
    """The whole path given the measurements of the first times, and their log-density."""
    rows, values = [], []
    for k in range(n_times):
        block = torch.zeros(len(MEASURED.values[k]), len(mean), dtype=torch.float64)
        block[:, 3 * k : 3 * k + 3] = MEASURED.matrices[k]
        rows.append(block)
        values.append(MEASURED.values[k])
    h, y = torch.cat(rows), torch.cat(values)
    spread = h @ covariance @ h.T + SIGMA**2 * torch.eye(len(y), dtype=torch.float64)
    gain = torch.linalg.solve(spread, h @ covariance).T
    log_density = float(MultivariateNormal(h @ mean, spread).log_prob(y))
    return mean + gain @ (y - h @ mean), covariance - gain @ h @ covariance, log_density


def even() -> tuple[StateSpace, LinearChain]:
    """The same with equidistant times, so that one transition matrix serves."""
    space = replace(SPACE, grid=tuple(0.25 * k for k in range(6)))
    a = space.forecast(0, torch.eye(3, dtype=torch.float64), Stream(0)).T
    identity = torch.eye(3, dtype=torch.float64)
    return space, LinearChain(a, NOISE**2 * identity, SPACE.mean, identity, MEASURED)


def off(values: Tensor, expected: Tensor | float) -> Tensor:
    """Distance of a mean over independent runs from what it should be, in standard errors."""
    return ((values.mean(0) - expected) / values.std(0) * math.sqrt(len(values))).abs()


FILTERS = pytest.mark.parametrize("kind", [BootstrapFilter, GuidedFilter])


# Exact ----------------------------------------------------------------------------------------------------------


def test_kalman_and_rauch_are_the_conditional_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recursions against dense conditioning of the whole path, missing measurements included."""
    space, chain = even()
    monkeypatch.setattr(f"{__name__}.SPACE", space)
    exact.cache_clear()
    for found, wanted in zip((chain.filtered(), chain.smoothed()), exact(), strict=True):
        assert torch.allclose(found.mean, wanted.mean, atol=1e-10)  # float64, well conditioned
        assert torch.allclose(found.covariance, wanted.covariance, atol=1e-10)
        assert found.log_evidence == pytest.approx(wanted.log_evidence, abs=1e-9)
    exact.cache_clear()
    shifted = replace(chain, shift=torch.tensor([0.5, 0.0, -0.2], dtype=torch.float64)).predict(SPACE.mean, chain.noise)
    wanted_mean = chain.transition @ SPACE.mean + torch.tensor([0.5, 0.0, -0.2], dtype=torch.float64)
    assert torch.allclose(shifted[0], wanted_mean)


# Particle filters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1e-9, 0.5, 1.0], ids=["never", "adaptive", "always"])
@FILTERS
def test_evidence_is_unbiased(kind: type, threshold: float) -> None:
    """E[Ẑ] = Z over 400 islands of 150 particles or more, at uneven times and with missing measurements."""
    islands, widest = (2000, 0.2) if threshold < 0.1 else (400, 0.05)  # weights that are never evened out spread
    run = smc(kind(SPACE, MEASURED), islands * 150, Stream(0), ess_threshold=threshold, islands=islands)
    ratio = (run.island_log_evidence - exact()[0].log_evidence).exp()
    assert float(off(ratio, 1.0)) < 4
    assert float(ratio.std()) / math.sqrt(islands) < widest, "the law would see no bias"
    assert (run.n_resampled == 0) == (threshold < 0.1)


@FILTERS
def test_filtering_laws_of_all_times(kind: type) -> None:
    """Mean and variance at each time over 40 runs of 400 particles, resampled at each of them."""
    runs = [filtered(kind(SPACE, MEASURED), 400, Stream(1, (seed,))) for seed in range(40)]
    forward = exact()[0]
    variance = forward.covariance.diagonal(dim1=1, dim2=2)
    means = torch.stack([run.marginals().mean(0) for run in runs])
    variances = torch.stack([run.marginals().var(0) for run in runs])
    # O(1/n): the first measurement leaves about a tenth of the particles, hence 10/400 of the spread
    for values, expected in (((means - forward.mean) / variance.sqrt(), 0.0), (variances / variance, 1.0)):
        assert bool(((values.mean(0) - expected).abs() < 4 * values.std(0) / math.sqrt(40) + 10 / 400).all())
    weighted = torch.stack([run.particles.mean() for run in runs])
    assert bool(((weighted - means[:, -1]).abs().mean(0) < 0.2 * variance[-1].sqrt()).all()), "the last is the same law"


def test_guided_weights_do_not_depend_on_the_draw() -> None:
    """log p(y_{k+1} | x_k) written out, whatever the move's noise; draws have the law p(x_{k+1} | x_k, y_{k+1})."""
    model, x = GuidedFilter(SPACE, MEASURED), SPACE.initial(8, Stream(3))
    first, second = (model.move(1, x, Stream(seed)) for seed in (0, 1))
    assert torch.equal(first.log_potential, second.log_potential) and not torch.equal(first.x, second.x)
    identity, y = torch.eye(3, dtype=torch.float64), MEASURED.values[2]
    spread = NOISE**2 * MATRIX @ MATRIX.T + SIGMA**2 * torch.eye(2, dtype=torch.float64)
    ahead = x @ matrices()[1].T
    assert torch.allclose(first.log_potential, MultivariateNormal(ahead @ MATRIX.T, spread).log_prob(y), atol=1e-10)
    same = x[:1].expand(100_000, 3)
    move = model.move(1, same, Stream(4))
    assert float(move.log_potential.std()) < 1e-12, "particles at one place weigh the same"
    gain = torch.linalg.solve(spread, NOISE**2 * MATRIX).T
    mean, covariance = ahead[0] + gain @ (y - MATRIX @ ahead[0]), NOISE**2 * (identity - gain @ MATRIX)
    assert bool((off(move.x, mean) < 4).all())
    products = ((move.x - mean)[:, :, None] * (move.x - mean)[:, None]).flatten(1)
    assert bool((off(products, covariance.flatten()) < 4).all())


def test_looking_ahead_pays() -> None:
    """Precise measurements: the guided filter's evidence varies less than the bootstrap filter's."""
    sharp = replace(MEASURED, sigma=0.1)
    spread = {}
    for kind in (BootstrapFilter, GuidedFilter):
        runs = [smc(kind(SPACE, sharp), 200, Stream(seed)).log_evidence for seed in range(30)]
        spread[kind] = float(torch.tensor(runs).std())
    assert spread[GuidedFilter] < 0.6 * spread[BootstrapFilter]  # a ratio of standard errors of 30 runs, each to 13 %


def test_an_equation_with_noise_of_its_own() -> None:
    """Euler–Maruyama as the transition, no further noise: the chain x ← (1 + hA) x + √h g z, by Kalman."""
    g, h, n = 0.6, 0.25, 2
    noisy = Equation(lambda t, x: x @ RATE.T, lambda t, x: g, noise="scalar")
    space = replace(even()[0], dynamics=noisy, solver=EulerMaruyama(), noise=0.0, n_substeps=n)
    identity = torch.eye(3, dtype=torch.float64)
    one = identity + h / n * RATE
    noise = g**2 * h / n * (one @ one.T + identity)
    chain = LinearChain(one @ one, noise, SPACE.mean, identity, MEASURED)
    runs = [smc(BootstrapFilter(space, MEASURED), 200, Stream(seed)) for seed in range(200)]
    wanted = chain.filtered().log_evidence
    ratio = torch.tensor([math.exp(run.log_evidence - wanted) for run in runs], dtype=torch.float64)
    assert float(off(ratio, 1.0)) < 4
    with pytest.raises(InputError, match="an ODE as dynamics"):
        GuidedFilter(replace(space, noise=0.1), MEASURED)


@dataclass(frozen=True)
class Squares:
    """y_k = x_k² + noise: neither linear nor able to tell the sign."""

    y: tuple[float, ...] = (1.0, 1.3, 0.4)
    sigma: float = 0.4

    def log_prob(self, k: int, x: Tensor) -> Tensor:
        return -0.5 * ((self.y[k] - x[:, 0] ** 2) / self.sigma) ** 2 - math.log(self.sigma * math.sqrt(2 * math.pi))


def test_any_likelihood_on_a_grid() -> None:
    """The evidence of a non-linear measurement, by quadrature over 801 points for each time."""
    space = StateSpace(Equation(lambda t, x: -x), (0.0, 0.5, 1.0), torch.tensor([0.3]).double(), 1.0, 0.5)
    points = torch.linspace(-6, 6, 801, dtype=torch.float64)[:, None]
    ahead, width, law = space.forecast(0, points, Stream(0)), 12 / 800, Squares()
    density = (-0.5 * (points[:, 0] - 0.3) ** 2).exp() / math.sqrt(2 * math.pi)
    kernel = (-0.5 * ((points.T - ahead) / 0.5) ** 2).exp() / (0.5 * math.sqrt(2 * math.pi))
    for k in range(3):
        density = law.log_prob(k, points).exp() * (density if k == 0 else width * density @ kernel)
    evidence = float(width * density.sum())
    runs = [smc(BootstrapFilter(space, law), 200, Stream(seed)) for seed in range(150)]
    ratio = torch.tensor([math.exp(run.log_evidence) / evidence for run in runs], dtype=torch.float64)
    assert float(off(ratio, 1.0)) < 4


def test_smoothing_backwards() -> None:
    """Means and variances of all times, and the correlation of neighbours in time, against the exact smoother."""
    runs = [filtered(GuidedFilter(SPACE, MEASURED), 400, Stream(2, (seed,))) for seed in range(30)]
    paths = [run.smoothed(400, Stream(3, (seed,))) for seed, run in enumerate(runs)]
    smoother, forward = exact()[1], exact()[0]
    variance = smoother.covariance.diagonal(dim1=1, dim2=2)
    means = torch.stack([(path.mean(0) - smoother.mean) / variance.sqrt() for path in paths])
    variances = torch.stack([path.var(0) / variance for path in paths])
    for values, expected in ((means, 0.0), (variances, 1.0)):  # 10/400 as in the filter
        assert bool(((values.mean(0) - expected).abs() < 4 * values.std(0) / math.sqrt(30) + 10 / 400).all())
    gain = torch.linalg.solve(  # Cov[x_4, x_5 | y] = G C_5
        matrices()[4] @ forward.covariance[4] @ matrices()[4].T + NOISE**2 * torch.eye(3, dtype=torch.float64),
        matrices()[4] @ forward.covariance[4],
    ).T
    wanted = (gain @ smoother.covariance[5]).flatten()
    crossed = torch.stack(
        [((p[:, 4] - p[:, 4].mean(0)).T @ (p[:, 5] - p[:, 5].mean(0))).flatten() / len(p) for p in paths]
    )
    scale = (variance[4][:, None] * variance[5][None]).sqrt().flatten()
    assert bool(((crossed.mean(0) - wanted).abs() < 4 * crossed.std(0) / math.sqrt(30) + 10 / 400 * scale).all())


# Ensemble Kalman filters -----------------------------------------------------------------------------------------

VARIANTS = pytest.mark.parametrize("variant", ["stochastic", "transform"])


@VARIANTS
def test_large_ensembles_are_kalman(variant: str) -> None:
    """Mean, variance and evidence at each time over 20 runs of 2000 members."""
    runs = [EnsembleKalman(SPACE, MEASURED, variant).run(2000, Stream(4, (seed,))) for seed in range(20)]
    forward = exact()[0]
    variance = forward.covariance.diagonal(dim1=1, dim2=2)
    means = torch.stack([(run.states.mean(0) - forward.mean) / variance.sqrt() for run in runs])
    variances = torch.stack([run.states.var(0) / variance for run in runs])
    evidence = torch.tensor([run.log_evidence - forward.log_evidence for run in runs], dtype=torch.float64)
    # gains from estimated covariances are off by O(1/n): 10/2000
    for values, expected in ((means, 0.0), (variances, 1.0), (evidence[:, None], 0.0)):
        assert bool(((values.mean(0) - expected).abs() < 4 * values.std(0) / math.sqrt(20) + 10 / 2000).all())
    assert float(evidence.std()) < 0.5


def test_the_transform_is_kalman_for_its_own_moments() -> None:
    """Whatever 7 members say, their mean and covariance are updated exactly."""
    x = SPACE.initial(7, Stream(9)) * torch.tensor([1.0, 2.0, 0.5])
    after, log_density = EnsembleKalman(SPACE, MEASURED, "transform").analyse(1, x, Stream(0))
    prior = LinearChain(torch.eye(3), torch.zeros(3, 3), x.mean(0), x.T.cov(), MEASURED)
    mean, covariance, wanted = prior.update(1, x.mean(0), x.T.cov())
    assert torch.allclose(after.mean(0), mean, atol=1e-12) and torch.allclose(after.T.cov(), covariance, atol=1e-12)
    assert log_density == pytest.approx(wanted, abs=1e-10)
    wider = EnsembleKalman(SPACE, MEASURED, "transform", inflation=1.5).analyse(1, x, Stream(0))[0]
    inflated = prior.update(1, x.mean(0), 1.5**2 * x.T.cov())
    assert torch.allclose(wider.T.cov(), inflated[1], atol=1e-12)


@VARIANTS
def test_localisation(variant: str) -> None:
    """A very long length damps nothing; a short one leaves coordinates beyond twice its length as they were."""
    space = StateSpace(Lorenz96(12), (0.0, 0.1), torch.zeros(12, dtype=torch.float64), 1.0, 0.1)
    y = torch.tensor([[2.0], [2.0]], dtype=torch.float64)
    measured = LinearMeasurements.of(y, torch.eye(12, dtype=torch.float64)[3:4], 0.5)
    x = space.initial(10, Stream(1))
    plain, long, short = (
        EnsembleKalman(space, measured, variant, localisation=length).analyse(0, x, Stream(0))[0]
        for length in (None, 1e7, 1.5)
    )
    assert torch.allclose(plain, long, atol=1e-9)
    far = [i for i in range(12) if min(abs(i - 3), 12 - abs(i - 3)) >= 3]
    assert torch.allclose(short[:, far], x[:, far], atol=1e-12) and not torch.allclose(
        plain[:, far], x[:, far], atol=1e-2
    )
    assert torch.allclose(short[:, 3], plain[:, 3], atol=1e-9), "no damping at the measured place itself"
    mixed = LinearMeasurements.of(y, torch.ones(1, 12, dtype=torch.float64), 0.5)
    with pytest.raises(InputError, match="one coordinate each"):
        EnsembleKalman(space, mixed, variant, localisation=2.0).analyse(0, x, Stream(0))


def test_the_taper_is_a_correlation() -> None:
    """1 at 0, 0 from 2 lengths on, two derivatives at the joints, and positive definite on a line."""
    r = torch.linspace(0, 3, 301, dtype=torch.float64)
    values = taper(2.0 * r, 2.0)
    assert float(values[0]) == 1 and bool((values[200:].abs() < 1e-12).all()) and bool((values.diff() <= 1e-12).all())
    for joint in (1.0, 2.0):
        around = taper(joint + 1e-3 * torch.arange(-2, 3, dtype=torch.float64), 1.0)
        second = around[2:] - 2 * around[1:-1] + around[:-2]
        assert float(second.diff().abs().max()) < 1e-8  # third differences of h³ = 1e-9 times a jump of some units
    places = torch.arange(40, dtype=torch.float64)
    spectrum = torch.linalg.eigvalsh(taper((places[:, None] - places).abs(), 5.0))
    assert float(spectrum.min()) > -1e-12


# Chaotic equations -----------------------------------------------------------------------------------------------


def test_the_equations_are_those_of_lorenz() -> None:
    """Fixed points, volume, and the energy that the quadratic part of Lorenz-96 keeps; written out for one place."""
    root = math.sqrt(8 / 3 * 27)
    rest = torch.tensor([[0.0, 0.0, 0.0], [root, root, 27.0], [-root, -root, 27.0]], dtype=torch.float64)
    assert float(Lorenz63().drift(0.0, rest).abs().max()) < 1e-12
    equation, x = Lorenz96(7, 5.0), Stream(0).normal(4, (7,), dtype=torch.float64)
    assert float(equation.drift(0.0, torch.full((1, 7), 5.0)).abs().max()) == 0
    quadratic = equation.drift(0.0, x) + x - 5.0
    assert float((quadratic * x).sum(1).abs().max()) < 1e-12
    assert torch.allclose(quadratic[:, 2], (x[:, 3] - x[:, 0]) * x[:, 1])
    for system, at, divergence in ((Lorenz63(), rest[1] + 1, -(10 + 1 + 8 / 3)), (equation, x[0], -7.0)):
        jacobian = torch.autograd.functional.jacobian(lambda x, s=system: s.drift(0.0, x), at)
        assert float(jacobian.trace()) == pytest.approx(divergence, abs=1e-12)


@pytest.mark.parametrize("equation", [Lorenz63(), Lorenz96(8)])
def test_halving_the_step_certifies_at_fourth_order(equation) -> None:
    """Runge–Kutta 4 on the attractor: errors fall sixteenfold, before the chaos of longer times."""
    space = StateSpace(equation, (0.0, 0.1), equation.centre, equation.width, 0.0, n_substeps=4, spin_up=4.0)
    x = space.initial(20, Stream(0))
    assert float((x - equation.centre).abs().max()) < 6 * equation.width, "it stays bounded"
    ends = [solve(equation, x, times(n, 0.0, 0.1), RungeKutta4()) for n in (4, 8, 16)]
    ratio = float((ends[0] - ends[1]).norm() / (ends[1] - ends[2]).norm())
    assert 11 < ratio < 23  # 16 as the step goes to zero


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(SPACE, grid=(0.0, 0.0)), "times must hold"),
        (lambda: replace(SPACE, noise=-1.0), "noise ≥ 0"),
        (lambda: replace(SPACE, n_substeps=0), "n_substeps ≥ 1"),
        (lambda: Lorenz96(3), "at least 4 places"),
        (lambda: replace(MEASURED, sigma=0.0), "sigma > 0"),
        (lambda: LinearMeasurements((torch.ones(2),), (torch.ones(1, 3),), 1.0), "at time 0"),
        (lambda: GuidedFilter(replace(SPACE, noise=0.0), MEASURED), "additive model noise"),
        (lambda: EnsembleKalman(SPACE, MEASURED, "square"), "variant must be"),
        (lambda: EnsembleKalman(SPACE, MEASURED, inflation=0.9), "inflation ≥ 1"),
        (lambda: EnsembleKalman(SPACE, MEASURED).run(1, Stream(0)), "two members"),
        (
            lambda: filtered(BootstrapFilter(replace(SPACE, noise=0.0), MEASURED), 50, Stream(0)).smoothed(
                5, Stream(0)
            ),
            "model noise > 0",
        ),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_forecast_that_explodes_is_named() -> None:
    steep = replace(SPACE, dynamics=Equation(lambda t, x: x**5 * 1e6))
    with pytest.raises(NonFiniteError, match="forecast of time 1"):
        EnsembleKalman(steep, MEASURED).run(10, Stream(0))
    with pytest.raises(NonFiniteError, match=r"step 1 of 5"):
        smc(BootstrapFilter(steep, MEASURED), 10, Stream(0))
