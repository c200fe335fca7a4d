"""Composed laws: the mixture of experts, by closed form and along the path; densities that are kept equal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Converted, FromView, velocity
from sciflow.diffusion.mixture import GaussianDenoiser, GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear, Schedule
from sciflow.diffusion.times import Karras
from sciflow.errors import InputError
from sciflow.particles import smc
from sciflow.particles.feynman_kac import FeynmanKac, State
from sciflow.random import Stream
from sciflow.steering.agreement import AndModel
from sciflow.steering.compose import MixtureOf, OrModel, but_not
from sciflow.steering.marginal import marginal

LIKE = torch.empty(0, dtype=torch.float64)
OMEGA = (0.25, 0.75)


def gaussians(weights: list[float], means: list[list[float]], covariances: list) -> GaussianMixture:
    return GaussianMixture(*(torch.tensor(v, dtype=torch.float64) for v in (weights, means, covariances)))


FIRST = gaussians([0.6, 0.4], [[-2.0, 0.0], [1.0, 1.0]], [[[0.5, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]]])
SECOND = gaussians([1.0], [[1.5, -1.0]], [[[2.0, 0.5], [0.5, 1.0]]])
THIRD = gaussians([1.0], [[-0.5, 1.5]], [[[0.6, -0.2], [-0.2, 0.9]]])
BOTH = GaussianMixture(
    torch.cat([OMEGA[0] * FIRST.weights, OMEGA[1] * SECOND.weights]),
    torch.cat([FIRST.means, SECOND.means]),
    torch.cat([FIRST.covariances, SECOND.covariances]),
)


def experts(schedule: Schedule, *laws: GaussianMixture) -> tuple[MixtureDenoiser, ...]:
    return tuple(MixtureDenoiser(law, schedule) for law in laws or (FIRST, SECOND))


def levels(n_steps: int, schedule: Schedule, rho: float = 7.0) -> tuple[float, ...]:
    return tuple(Karras(n_steps, 40.0, 0.02, rho)(schedule).tolist())


def path(model: FeynmanKac, n: int, seed: int = 0) -> list[State]:
    """The states at every level, as `smc` moves them when all weights are equal."""
    stream, states = Stream(seed), []
    state, _ = model.initial(n, stream.child("initial"))
    for k in range(model.n_steps):
        states.append(state)
        state, potential = model.step(k, state, stream.child("step", k))
        assert torch.equal(potential, torch.zeros_like(potential))
    return [*states, state]


# Any of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [EDM(), Cosine(), Linear()], ids=lambda schedule: type(schedule).__name__)
def test_mixture_of_experts_is_the_mixture(schedule: Schedule) -> None:
    ours, exact = MixtureOf(experts(schedule), OMEGA), MixtureDenoiser(BOTH, schedule)
    for t in (0.2, 0.6, 0.95):
        x = exact.initial(t, 50, Stream(1), torch.float64)
        for value in ("log_prob", "__call__", "covariance"):
            # float64, some hundred operations on numbers up to 80²
            assert torch.allclose(getattr(ours, value)(x, t), getattr(exact, value)(x, t), rtol=1e-9, atol=1e-9)
    drawn = ours.initial(0.6, 20_000, Stream(2), torch.float64)
    assert not (drawn.mean(0) - ours.schedule.alpha(0.6) * BOTH.mean()).abs().gt(4 * drawn.std(0) / 20_000**0.5).any()


def kappa_error(n_steps: int) -> float:
    """Largest root mean square over the path of κ by the recorder less the true posterior of the first expert."""
    schedule = EDM(sigma_max=40.0)
    model, exact = (
        OrModel(experts(schedule), levels(n_steps, schedule), OMEGA, like=LIKE),
        MixtureOf(experts(schedule), OMEGA),
    )
    pairs = zip(path(model, 1500), model.levels, strict=False)
    errors = [(model.kappa(state) - exact.kappa(state["x"], t))[:, 0] for state, t in pairs]
    return max(float(error.square().mean().sqrt()) for error in errors)


def test_recorded_weights_are_the_posterior_of_the_experts() -> None:
    """Measured 0.044, 0.016: between N^{−1/2}, which would halve it, and 1/N."""
    coarse, fine = kappa_error(40), kappa_error(160)
    assert fine < 0.5 * coarse < 0.05


@pytest.mark.slow
def test_any_of_the_experts_follows_the_exact_mixture() -> None:
    """Weights of the modes and moments over 8000 draws, at weights 1 : 3, within 4 standard errors.

    200 steps leave a bias below 0.002 in the weights and 3 % in the variances.
    """
    schedule, n = EDM(sigma_max=40.0), 8000
    x = smc(OrModel(experts(schedule), levels(200, schedule), OMEGA, like=LIKE), n, Stream(3)).x
    shares = BOTH.components(x).softmax(1)
    assert ((shares.mean(0) - BOTH.weights).abs() < 4 * shares.std(0) / math.sqrt(n)).all()
    assert ((x.mean(0) - BOTH.mean()).abs() < 4 * x.std(0) / math.sqrt(n)).all()
    spread = BOTH.covariance().diagonal()
    assert ((x.var(0) / spread - 1).abs() < 4 * math.sqrt(2 / n) + 0.03).all()


def test_experts_without_a_density_and_under_another_schedule() -> None:
    """A velocity field under the linear schedule and a diffusion model of the same law are one expert: κ = ω."""
    flow = FromView(lambda x, t: velocity(MixtureDenoiser(FIRST, Linear()), x, t), "velocity", Linear(), (2,))
    pair = (Converted(flow, Cosine()), FromView(MixtureDenoiser(FIRST, Cosine()), "data", Cosine(), (2,)))
    model = OrModel(pair, levels(20, Cosine()), OMEGA, like=LIKE)
    for state in path(model, 20):
        assert torch.allclose(model.kappa(state), torch.tensor(OMEGA).double().expand(20, 2), atol=1e-6)  # of time()


def test_what_cannot_be_composed_is_refused() -> None:
    pair = experts(EDM())
    with pytest.raises(InputError, match="as many positive weights"):
        MixtureOf(pair, (0.5, -0.5))
    with pytest.raises(InputError, match="Converted"):
        OrModel((pair[0], *experts(Cosine(), SECOND)), levels(4, EDM()))
    with pytest.raises(InputError, match="log_prob"):
        MixtureOf((pair[0], FromView(pair[1], "data", EDM(), (2,))))
    with pytest.raises(InputError, match="α > 0 and σ > 0"):
        OrModel(experts(Linear()), (0.0, 0.5))
    with pytest.raises(InputError, match="at least one expert"):
        AndModel((), levels(4, EDM()))


# All of them -----------------------------------------------------------------------------------------------------


def drift_apart(model: AndModel, n: int) -> Tensor:
    """Change of the true log q_1 − log q_i between the first level and the last, (n, experts − 1)."""
    states = path(model, n)
    ends = [(states[0]["x"], model.levels[0]), (states[-2]["x"], model.levels[-1])]
    first, last = ([expert.log_prob(x, t) for expert in model.experts] for x, t in ends)
    gap = [torch.stack([log_q[0] - other for other in log_q[1:]], 1) for log_q in (first, last)]
    return gap[1] - gap[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("laws", "rate"), [((FIRST, SECOND), 0.5), ((FIRST, SECOND, THIRD), 0.25)], ids=["two", "three"]
)
def test_densities_stay_equal_along_the_path(laws: tuple[GaussianMixture, ...], rate: float) -> None:
    """Root mean square change of the true differences, with four times the steps.

    Measured for two experts 0.158 and 0.073, as N^{−1/2}, and 0.195 for the published step. Three experts in the plane
    leave no direction for noise: 0.043 and 0.011, as 1/N. The error of these numbers, of 400 paths, is 5 %.
    """
    schedule = EDM(sigma_max=40.0)

    def change(n_steps: int, curvature: bool) -> float:
        model = AndModel(experts(schedule, *laws), levels(n_steps, schedule, 3.0), curvature, like=LIKE)
        return float(drift_apart(model, 400).square().mean().sqrt())

    coarse, fine = change(75, True), change(300, True)
    assert fine < 1.2 * rate * coarse < 0.1
    assert change(300, False) > 2 * fine


@pytest.mark.slow
def test_the_published_step_drifts_by_a_known_amount() -> None:
    """For N(m_i, v_i I) the drift of log q_1 − log q_2 is ½ log (v_1 + U²)(v_2 + u²)/(v_2 + U²)(v_1 + u²), here 0.947.

    Both forms share the error of 300 steps, −0.05; it cancels in their difference.
    """
    schedule, n, variances, identity = EDM(sigma_max=40.0), 2000, (0.3, 2.0), torch.eye(2)
    means = ([1.0, 0.0], [-1.0, 0.5])
    laws = [gaussians([1.0], [m], (v * identity)[None].tolist()) for m, v in zip(means, variances, strict=True)]
    grid = levels(300, schedule, 3.0)
    first, second = (math.log((v + float(schedule.sigma(grid[0])) ** 2) / (v + 0.02**2)) for v in variances)
    published, corrected = (
        drift_apart(AndModel(experts(schedule, *laws), grid, curvature, like=LIKE), n) for curvature in (False, True)
    )
    error = math.sqrt(float(published.var() + corrected.var()) / n)
    assert abs(float(published.mean() - corrected.mean()) - 0.5 * (first - second)) < 4 * error < 0.02
    assert abs(float(corrected.mean())) < 0.1 < 0.8 < float(published.mean())


def test_recorded_densities_are_what_agrees() -> None:
    """The recorder's differences do not move at all: 300 steps of rounding, relative to log-densities of order 10."""
    schedule = EDM(sigma_max=40.0)
    states = path(AndModel(experts(schedule, FIRST, SECOND), levels(300, schedule, 3.0), like=LIKE), 50)
    gap = torch.stack([state["log_q"][:, 0] - state["log_q"][:, 1] for state in states[:-1]])
    assert torch.allclose(gap, gap[:1].expand_as(gap), rtol=0, atol=1e-8)


# But not -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_negation_finds_its_law_and_is_refused_where_there_is_none() -> None:
    """N(m₁, P₁⁻¹)/N(m₂, P₂⁻¹)^w = N((P₁m₁ − w P₂m₂)/P, P⁻¹)/Z, P = P₁ − w P₂: mean, variance and Z over 12 runs.

    4 standard errors, and 2 % for 60 steps that end at u = 0.02.
    """
    schedule, w, (v1, v2) = EDM(sigma_max=40.0), 0.4, (0.5, 1.5)
    first, second = torch.tensor([1.0, -0.5]).double(), torch.tensor([-0.5, 0.5]).double()
    eye = torch.eye(2).double()
    one, two = GaussianDenoiser(first, v1 * eye, schedule), GaussianDenoiser(second, v2 * eye, schedule)
    precision = 1 / v1 - w / v2
    mean = (first / v1 - w * second / v2) / precision
    squares = float(first @ first / v1 - w * second @ second / v2 - precision * mean @ mean)
    log_z = w * math.log(2 * math.pi * v2) - math.log(v1 * precision) - 0.5 * squares
    runs = [smc(marginal(but_not(one, two, w), levels(60, schedule)), 400, Stream(seed)) for seed in range(12)]
    for values, expected in (
        ([run.mean() for run in runs], mean),
        ([run.var() * precision for run in runs], torch.ones(2).double()),
        ([torch.tensor(math.exp(run.log_evidence - log_z)) for run in runs], torch.tensor(1.0)),
    ):
        found = torch.stack(values).double()
        assert ((found.mean(0) - expected).abs() < 4 * found.std(0) / math.sqrt(12) + 0.02).all()
    with pytest.raises(InputError, match="no normalising constant"):
        marginal(but_not(two, one, 0.6), levels(20, schedule))  # the one that is taken away is the narrower one
    with pytest.raises(InputError, match="0 < power < 1"):
        but_not(one, two, 1.2)
