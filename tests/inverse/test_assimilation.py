"""Filters behind the seam of posteriors: what they take, what they refuse, and that they are the filters they name."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sciflow.diffusion.known import KnownDynamics
from sciflow.diffusion.mixture import GaussianDenoiser
from sciflow.diffusion.model import pack, unpack
from sciflow.diffusion.schedule import EDM
from sciflow.errors import InputError
from sciflow.inverse import Dense, EnsembleKalmanFilter, GaussianLikelihood, Inpainting, ParticleFilter
from sciflow.inverse.assimilation import measurements
from sciflow.inverse.posterior import Posterior
from sciflow.particles.kalman import LinearChain
from sciflow.random import Stream
from sciflow.solvers import Lorenz96, StateSpace
from sciflow.solvers.dynamics import Equation

RATE = torch.tensor([[-0.2, 1.0], [-1.0, -0.4]], dtype=torch.float64)
SPACE = StateSpace(
    Equation(lambda t, x: x @ RATE.T.to(x)),
    (0.0, 0.3, 0.6, 0.9),
    torch.tensor([1.0, -0.5], dtype=torch.float64),
    1.0,
    0.5,
)
PRIOR = KnownDynamics(SPACE)
MASK = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=torch.uint8)
LIKELIHOOD = GaussianLikelihood(
    torch.tensor([0.3, -1.0, 0.4, -0.2], dtype=torch.float64), Inpainting().bind({"mask": MASK}, (4, 2)), 0.4
)
SAMPLERS = {
    "bootstrap": ParticleFilter(300),
    "guided": ParticleFilter(300, "guided"),
    "smoothing": ParticleFilter(300, "guided", "smoothing"),
    "islands": ParticleFilter(300, islands=4, tile=64),
    "stochastic": EnsembleKalmanFilter(300),
    "transform": EnsembleKalmanFilter(300, "transform"),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


@every_sampler
def test_the_seam(name: str) -> None:
    sampler, steps = SAMPLERS[name], []
    assert isinstance(sampler, Posterior)
    drawn = sampler(PRIOR, LIKELIHOOD, [0.0, 1.0], 20, Stream(0), on_step=lambda k, n: steps.append((k, n)))
    assert drawn.x.shape == (20 if name == "smoothing" else 300, 4, 2) and drawn.x.dtype == torch.float64
    assert steps[-1] == (3, 3) and steps == sorted(steps)
    assert math.isfinite(drawn.log_evidence) and drawn.ess() == pytest.approx(len(drawn))
    assert (1 <= drawn.ess_min < 300) if isinstance(sampler, ParticleFilter) else math.isnan(drawn.ess_min)
    assert torch.equal(drawn.x, sampler(PRIOR, LIKELIHOOD, [0.0, 1.0], 20, Stream(0)).x)
    single = replace(LIKELIHOOD, observation=LIKELIHOOD.observation.float())
    assert sampler(PRIOR, single, [0.0, 1.0], 3, Stream(0)).x.dtype == torch.float32


@every_sampler
def test_a_path_of_measurements_is_filtered_as_kalman_does(name: str) -> None:
    """Means of each time and evidence over 40 runs against the exact filter, or smoother, of the same mask."""
    a = SPACE.forecast(0, torch.eye(2, dtype=torch.float64), Stream(0)).T
    identity = torch.eye(2, dtype=torch.float64)
    chain = LinearChain(a, 0.25 * identity, SPACE.mean, identity, measurements(LIKELIHOOD, 4, 2))
    exact = chain.smoothed() if name == "smoothing" else chain.filtered()
    runs = [SAMPLERS[name](PRIOR, LIKELIHOOD, [0.0, 1.0], 300, Stream(seed)) for seed in range(40)]
    means = torch.stack([run.mean() for run in runs])
    spread = exact.covariance.diagonal(dim1=1, dim2=2).sqrt()
    # 4 standard errors over the runs, and O(1/n): below 4/300 of the spread, and 4/75 for islands of 75
    bias = 4 / 75 if name == "islands" else 4 / 300
    assert bool(((means.mean(0) - exact.mean).abs() < 4 * means.std(0) / math.sqrt(40) + bias * spread).all())
    ratio = torch.tensor([math.exp(run.log_evidence - exact.log_evidence) for run in runs], dtype=torch.float64)
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(40) + 4 / 300


def test_measurements_find_their_times() -> None:
    found = measurements(LIKELIHOOD, 4, 2)
    assert [len(y) for y in found.values] == [1, 0, 2, 1] and found.sigma == 0.4
    assert torch.equal(torch.cat(found.values), LIKELIHOOD.observation)
    assert found.matrices[0].tolist() == [[1, 0]] and found.matrices[3].tolist() == [[0, 1]]
    several = GaussianLikelihood(LIKELIHOOD.observation, Dense(4).draw((4, 2), Stream(0)), 0.4)
    with pytest.raises(InputError, match="of one time each"):
        measurements(several, 4, 2)


def test_a_prior_that_is_an_equation_is_stored_and_can_be_drawn() -> None:
    equation = Lorenz96(5, 7.0)
    prior = KnownDynamics(StateSpace(equation, (0.0, 0.1, 0.3), equation.centre, 2.0, 0.2, n_substeps=3, spin_up=0.5))
    again = unpack(pack(prior))
    assert isinstance(again, KnownDynamics) and again.shape == (3, 5)
    assert again.space.dynamics == equation and again.space.grid == prior.space.grid and again.space.spin_up == 0.5
    assert torch.equal(again.space.simulate(4, Stream(0)), prior.space.simulate(4, Stream(0)))
    drawn = prior.initial(1.0, 4, Stream(0), torch.float64)  # at σ = 0: paths themselves
    assert torch.equal(drawn, prior.space.simulate(4, Stream(0).child("data")))
    with pytest.raises(InputError, match=r"of whose paths no denoiser is known"):
        prior(drawn, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParticleFilter(1), "n_particles ≥ 2"),
        (lambda: ParticleFilter(300, islands=7), "no multiple of 7 islands"),
        (lambda: ParticleFilter(proposal="optimal"), "proposal"),
        (lambda: ParticleFilter(law="prediction"), "law must be"),
        (lambda: ParticleFilter()(PRIOR, LIKELIHOOD, [0.0, 1.0], 0, Stream(0)), "n ≥ 1"),
        (lambda: EnsembleKalmanFilter(1)(PRIOR, LIKELIHOOD, [0.0, 1.0], 5, Stream(0)), "two members"),
        (
            lambda: ParticleFilter()(
                GaussianDenoiser(torch.zeros(2), torch.eye(2), EDM()), LIKELIHOOD, [0.0, 1.0], 5, Stream(0)
            ),
            "this prior has none. Use `train: {kind: dynamics}`",
        ),
        (lambda: ParticleFilter()(PRIOR, object(), [0.0, 1.0], 5, Stream(0)), "GaussianLikelihood"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
