"""Velocity fields as priors: the same draws as the diffusion model of their law, and tilted transports."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Converted, Denoiser, FromView, velocity
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Cosine, Linear, Schedule
from sciflow.diffusion.times import LogSNR
from sciflow.diffusion.two_sided import MixtureTwoSided, TwoSided
from sciflow.errors import InputError
from sciflow.inverse import POSTERIORS, Dense, GaussianLikelihood
from sciflow.particles import smc
from sciflow.random import Stream
from sciflow.steering.flows import Between, Flow, OneSided, Ramped, TransportModel, of_velocity
from sciflow.steering.marginal import marginal
from sciflow.steering.target import RaisedReward, TargetPath

NEEDS_MORE = {"tempered", "conjugate", "particle_filter", "ensemble_kalman", "rollout"}  # a density, a mixture, …
LIKE = torch.empty(0, dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
LAW = GaussianMixture(
    torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
    torch.tensor([[-3.0, 0.5], [2.0, 2.5], [3.5, -2.0]], dtype=torch.float64),
    torch.stack([0.5 * EYE, 0.8 * EYE, 0.4 * EYE]),
)
BASE = GaussianMixture(
    torch.tensor([0.7, 0.3], dtype=torch.float64),
    torch.tensor([[1.0, -1.0], [-1.0, 0.0]], dtype=torch.float64),
    torch.stack([0.6 * EYE, 0.2 * EYE]),
)
OTHERS = (BASE, GaussianMixture(LAW.weights.flip(0), LAW.means + 0.5, 1.5 * LAW.covariances))  # experts
MATRIX, OBSERVATION, SIGMA = torch.tensor([[0.6, 0.9]]).double(), torch.tensor([1.1]).double(), 0.7
LIKELIHOOD = GaussianLikelihood(OBSERVATION, Dense.of(MATRIX), SIGMA)


@dataclasses.dataclass(frozen=True)
class Given:
    """An expert that is at hand, in place of one in a file."""

    model: Denoiser

    def beside(self, prior: Denoiser, like: Tensor) -> Denoiser:
        return self.model


def flow_of(law: GaussianMixture, under: Schedule | None = None) -> Denoiser:
    """The velocity field of linear flow matching on a law, as a prior."""
    exact = MixtureDenoiser(law, Linear())
    return of_velocity(lambda x, t: velocity(exact, x, t), (2,), under=under)


def of_table(name: str, experts: tuple[Denoiser, ...]) -> Any:
    """A posterior sampler of the public table, with few particles, and with experts beside the prior if it has any."""
    entry = POSTERIORS[name]
    options: dict[str, Any] = {f.name: 48 for f in dataclasses.fields(entry) if f.name == "n_particles"}
    for field in dataclasses.fields(entry):
        if field.name in ("expert", "experts"):
            given = tuple(Given(model) for model in experts)
            options[field.name] = given if field.name == "experts" else given[0] if given else None
    return entry(**options)


CONVERTED = pytest.param(Cosine(), id="converted to cosine", marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [pytest.param(Linear(), id="linear"), CONVERTED])
@pytest.mark.parametrize("name", sorted(set(POSTERIORS) - NEEDS_MORE))
def test_samplers_take_a_velocity_field_for_a_diffusion_prior(name: str, schedule) -> None:
    """The same draws, weights and evidence as with the denoiser of the same law: no sampling error, rounding alone."""
    flow = flow_of(LAW, None if schedule == Linear() else schedule)
    model = FromView(MixtureDenoiser(LAW, schedule), "data", schedule, (2,))
    times = LogSNR(12, ratio_max=50.0, ratio_min=0.02)(schedule)
    flows = tuple(flow_of(law, None if schedule == Linear() else schedule) for law in OTHERS)
    models = tuple(FromView(MixtureDenoiser(law, schedule), "data", schedule, (2,)) for law in OTHERS)
    if isinstance(flow, Converted):  # both start from the white noise of their own schedule
        assert torch.allclose(start(flow, times), start(model, times), rtol=1e-3)  # α = 0.02 of the first level
        for mine, theirs in zip((model, *models), (flow, *flows), strict=True):
            object.__setattr__(mine, "initial", theirs.initial)
    one, other = (
        of_table(name, experts)(prior, LIKELIHOOD, times, 48, Stream(3))
        for prior, experts in ((flow, flows), (model, models))
    )
    # v = (D − x)/(1 − t) and back again, of |x| up to 50, times the length of the chain: 1e-12; resampling cuts nothing
    assert torch.allclose(one.x, other.x, rtol=0, atol=1e-7)
    assert torch.allclose(one.log_weights, other.log_weights, rtol=0, atol=1e-7)
    assert one.log_evidence == pytest.approx(other.log_evidence, abs=1e-7, nan_ok=True)
    if name in {"geometric", "product", "superdiff_or", "superdiff_and"}:
        alone = of_table(name, ())(flow, LIKELIHOOD, times, 48, Stream(3))
        assert not torch.allclose(one.x, alone.x, atol=0.1), "the experts take part"


@pytest.mark.parametrize("weights", ["flow", "kernel_ratio"])
def test_target_paths_take_a_velocity_field(weights: str) -> None:
    """Annealing, a product with a diffusion model and a tilt, marginal weights: again up to rounding."""
    other = FromView(MixtureDenoiser(BASE, Linear()), "data", Linear(), (2,))
    model = FromView(MixtureDenoiser(LAW, Linear()), "data", Linear(), (2,))
    times = LogSNR(12, ratio_max=50.0, ratio_min=0.02)(Linear())

    def path(prior: Denoiser) -> TargetPath:
        return TargetPath((prior, other), (0.9, 0.5), RaisedReward(LIKELIHOOD.log_prob, Linear()))

    runs = [smc(marginal(path(p), times, weights=weights), 48, Stream(2)) for p in (flow_of(LAW), model)]
    assert torch.allclose(runs[0].x, runs[1].x, rtol=0, atol=1e-7)
    assert torch.allclose(runs[0].log_weights, runs[1].log_weights, rtol=0, atol=1e-7)
    assert runs[0].log_evidence == pytest.approx(runs[1].log_evidence, abs=1e-7)


def test_a_path_without_noise_refuses_copies() -> None:
    times = LogSNR(12, ratio_max=50.0, ratio_min=0.02)(Linear())
    model = marginal(TargetPath((flow_of(LAW),), (1.5,)), times, noise=0.0)
    assert smc(model, 48, Stream(0), ess_threshold=1e-9).n_resampled == 0
    with pytest.raises(InputError, match="step 2 of 12: particles have been resampled"):
        smc(model, 48, Stream(0), ess_threshold=1.0)


def start(prior: Denoiser, times: Tensor) -> Tensor:
    return prior.initial(float(times[0]), 8, Stream(0), torch.float64)


# Tilted transports -----------------------------------------------------------------------------------------------


def between() -> tuple[Flow, float]:
    """From one mixture to another, each end exact, so that the grid may reach t = 1."""
    return Between(MixtureTwoSided(TwoSided(), BASE, LAW), lambda n, stream, dtype: BASE.sample(n, stream, dtype)), 1.0


def from_noise() -> tuple[Flow, float]:
    """Flow matching from t = 0, where α = 0, to a last level of noise 0.01."""
    return OneSided(flow_of(LAW)), 0.99


def levels(stop: float, n_steps: int = 25) -> tuple[float, ...]:
    return tuple(torch.linspace(0, stop, n_steps + 1, dtype=torch.float64).tolist())


def off(values: list[Tensor], expected: Tensor, bias: float) -> bool:
    """Whether a mean over runs is more than 4 standard errors and the stated bias from what is expected."""
    stacked = torch.stack(values).double()
    return bool(((stacked.mean(0) - expected).abs() > 4 * stacked.std(0) / math.sqrt(len(values)) + bias).any())


NOISES = [
    pytest.param(0.5, True, id="half", marks=pytest.mark.slow),
    pytest.param(3.0, True, id="three", marks=pytest.mark.slow),
    pytest.param(lambda t: 1 - t**2, True, id="function", marks=pytest.mark.slow),
    pytest.param(3.0, False, id="black box"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "sees"), NOISES)
@pytest.mark.parametrize("kind", [between, from_noise])
def test_tilted_transport_finds_the_posterior(kind, noise, sees: bool) -> None:
    """Mode weights, moments and evidence of the mixture's posterior, 16 runs of 300 particles, any noise.

    A black box gives no gradient; its weights would be wrong if r were taken before the noise.

    25 steps and a last level of 0.01 leave 2 % in the variances and 0.01 in the evidence; weights are O(1/n) biased.
    """
    flow, stop = kind()
    potential = Ramped(LIKELIHOOD.log_prob, has_gradient=sees)
    model = TransportModel(flow, potential, levels(stop), noise, like=LIKE)
    exact, log_evidence = LAW.posterior(MATRIX, OBSERVATION, SIGMA)
    runs = [smc(model, 300, Stream(seed)) for seed in range(16)]
    assert all(run.n_resampled for run in runs)
    spread = exact.covariance().diagonal().sqrt()
    assert not off([run.weights @ exact.components(run.x).softmax(1) for run in runs], exact.weights, 0.005)
    assert not off([run.mean() / spread for run in runs], exact.mean() / spread, 0.01)
    assert not off([run.var() / spread**2 for run in runs], torch.ones(2).double(), 0.03)
    ratio = [torch.tensor(math.exp(run.log_evidence - log_evidence)) for run in runs]
    assert not off(ratio, torch.tensor(1.0).double(), 0.01)


@pytest.mark.parametrize("kind", [between, from_noise])
def test_without_noise_copies_are_refused(kind) -> None:
    """V = 0 is importance sampling of the flow: right while nothing is resampled, refused from then on."""
    flow, stop = kind()
    model = TransportModel(flow, Ramped(LIKELIHOOD.log_prob), levels(stop), 0.0, like=LIKE)
    log_evidence = LAW.posterior(MATRIX, OBSERVATION, SIGMA)[1]
    run = smc(model, 4000, Stream(0), ess_threshold=1e-9)
    assert abs(run.log_evidence - log_evidence) < 4 * run.log_evidence_stderr + 0.01 < 0.2  # of 25 Heun steps
    with pytest.raises(InputError, match="copies of one would move together"):
        smc(model, 100, Stream(0), ess_threshold=1.0)


def test_tiles_do_not_matter() -> None:
    """The same particles by tiles of 64 and all at once: rounding of matrix products, over 25 steps."""
    flow, stop = from_noise()
    whole, cut = (
        smc(TransportModel(flow, Ramped(LIKELIHOOD.log_prob), levels(stop), tile=tile, like=LIKE), 200, Stream(0))
        for tile in (1024, 64)
    )
    assert whole.n_resampled and torch.allclose(whole.x, cut.x, rtol=0, atol=1e-9)
    assert torch.allclose(whole.log_weights, cut.log_weights, rtol=0, atol=1e-9)


def test_what_is_no_flow_grid_is_refused() -> None:
    flow, _ = from_noise()
    for grid in ((0.0,), (0.5, 0.2), (0.0, 1.5)):
        with pytest.raises(InputError, match="increasing levels"):
            TransportModel(flow, Ramped(LIKELIHOOD.log_prob), grid)
    with pytest.raises(InputError, match="≥ 0"):
        TransportModel(flow, Ramped(LIKELIHOOD.log_prob), (0.0, 0.5), -1.0)
