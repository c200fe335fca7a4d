"""The posterior samplers behind their one seam: shapes, streams, progress, failures. Their laws are in tests/laws."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Counted
from sciflow.diffusion.mixture import GaussianDenoiser, MixtureDenoiser
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear, Scaled
from sciflow.diffusion.times import Karras, LogSNR
from sciflow.errors import InputError, NonFiniteError, OutOfTime
from sciflow.inverse import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    POSTERIORS,
    DiffPIR,
    GaussianLikelihood,
    Guided,
    Inpainting,
    PiGDM,
    PnPDM,
    REDDiff,
    Tempered,
    TwistedSMC,
)
from sciflow.inverse.descent import Descent
from sciflow.inverse.posterior import Posterior
from sciflow.inverse.steered import SteeredPosterior
from sciflow.networks import NETWORKS
from sciflow.random import Stream
from sciflow.search.gaussian import Teleport
from sciflow.solvers import Euler

WITHOUT_EVIDENCE = {"guided", "unguided", "greedy_svdd", "superdiff_or", "superdiff_and", "rollover_budget_forcing"}
WITHOUT_EVIDENCE |= {"denoising_mcmc", "simulated", "restoration"}
WITHOUT_EVIDENCE |= {kind for kind, entry in POSTERIORS.items() if issubclass(entry, Descent)}
FREE = {"unguided", "superdiff_or", "superdiff_and", "rollover_budget_forcing", "annealed", "geometric", "product"}
FREE |= {"tilted", "afdps", "denoising_mcmc", "simulated", "pnp_dm"}  # FREE: of y, wholly or in few steps
ELSEWHERE = {"particle_filter", "ensemble_kalman", "rollout"}  # of equations and forecasters: they have no such prior
every_posterior = pytest.mark.parametrize("kind", [kind for kind in POSTERIORS if kind not in ELSEWHERE])
UNFIT = {
    "tempered": "needs the density of the prior.*Use `twisted_smc`",
    "conjugate": "needs a prior that is a Gaussian",
}


def gaussian(schedule: object = None) -> MixtureDenoiser:
    covariance = torch.tensor([[1.0, 0.5], [0.5, 0.6]], dtype=torch.float64)
    return GaussianDenoiser(torch.tensor([0.5, -1.0], dtype=torch.float64), covariance, schedule or EDM())


LIKELIHOOD = GaussianLikelihood(torch.tensor([0.3, 0.1], dtype=torch.float64), sigma=0.5)
TIMES = Karras(12)(EDM())


@every_posterior
def test_the_seam(kind: str) -> None:
    sampler = POSTERIORS[kind]()
    assert isinstance(sampler, Posterior)
    steps: list[tuple[int, int]] = []
    drawn = sampler(gaussian(), LIKELIHOOD, TIMES, 10, Stream(0), on_step=lambda k, n: steps.append((k, n)))
    assert len(drawn) >= 10 and drawn.x.shape[1:] == (2,) and drawn.x.dtype == torch.float64
    assert steps[-1][0] == steps[-1][1] and [k for k, _ in steps] == sorted(k for k, _ in steps)
    assert math.isnan(drawn.log_evidence) == (kind in WITHOUT_EVIDENCE)
    assert not drawn.x.requires_grad
    again = sampler(gaussian(), LIKELIHOOD, TIMES.tolist(), 10, Stream(0))
    assert torch.equal(drawn.x, again.x)
    single = GaussianLikelihood(torch.tensor([0.3, 0.1]), sigma=0.5)
    assert sampler(gaussian(), single, TIMES, 3, Stream(0)).x.dtype == torch.float32


@every_posterior
def test_a_network_on_images(kind: str) -> None:
    """Image-shaped events, a prior without covariance, missing pixels, float32."""
    torch.manual_seed(0)
    module = NETWORKS["unet"](channels=(8,)).build((1, 8, 8)).eval().requires_grad_(False)
    prior = NetworkDenoiser(module, Scaled(EDM(), 0.5), (1, 8, 8), 0.1)
    operator = Inpainting(0.9).draw((1, 8, 8), Stream(1))
    likelihood = GaussianLikelihood(torch.full((6,), 0.4), operator, 0.05)
    sampler = TwistedSMC(16) if kind == "twisted_smc" else POSTERIORS[kind]()
    if kind in UNFIT:  # it needs a density, and a network has none
        with pytest.raises(InputError, match=UNFIT[kind]):
            sampler(prior, likelihood, Karras(4)(prior.schedule), 5, Stream(0))
        return
    drawn = sampler(prior, likelihood, Karras(4)(prior.schedule), 5, Stream(0))
    assert drawn.x.shape[1:] == (1, 8, 8) and drawn.x.isfinite().all()
    # draws of the prior are not tied to y; chains that keep to the prior's moves are not, in 4 steps
    if kind in FREE or issubclass(POSTERIORS[kind], SteeredPosterior):
        return
    # an untrained network is the denoiser of N(0.1, 0.25 I) up to its own output: observed pixels must follow y
    assert likelihood.residual(drawn.resample(5, Stream(2)).x).abs().mean() < 0.4 * 0.3


@pytest.mark.parametrize("twist", ["moment_matching", "pigdm"])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_grids_that_reach_the_data(twist: str, schedule: object) -> None:
    """A last time with σ = 0, and a first one with α = 0, are what they stand for."""
    times = torch.linspace(0, 1, 30, dtype=torch.float64)
    run = TwistedSMC(500, twist)(gaussian(schedule), LIKELIHOOD, times, 1, Stream(0))
    exact, log_evidence = gaussian().mixture.posterior(torch.eye(2, dtype=torch.float64), LIKELIHOOD.observation, 0.5)
    assert abs(run.log_evidence - log_evidence) < 4 * run.log_evidence_stderr + 0.05  # O(step) of the narrow chain
    assert ((run.mean() - exact.means[0]).abs() < 0.2).all()  # 4/√500, and some for lost weights


def test_final_denoising_removes_the_last_noise() -> None:
    times = LogSNR(20, ratio_max=50.0, ratio_min=0.3)(EDM())
    kept, removed = (Guided(final=final)(gaussian(), LIKELIHOOD, times, 2000, Stream(0)) for final in (False, True))
    assert not torch.equal(kept.x, removed.x)
    assert kept.var().sum() > removed.var().sum() + 0.3**2  # in two dimensions at least σ² once


def test_calls_are_counted() -> None:
    counted = Counted(gaussian())
    Guided(PiGDM)(counted, LIKELIHOOD, TIMES, 64, Stream(0))
    assert counted.rows == 64 * (12 + 3)  # 12 steps; the start asks prior and guidance; one last denoising
    counted = Counted(gaussian())
    TwistedSMC(100, "pigdm")(counted, LIKELIHOOD, TIMES, 1, Stream(0))
    assert counted.rows == 100 * 13  # once per level


def test_the_first_steps_of_a_gaussian_posterior_are_left_out() -> None:
    """There the guided model is Gaussian, and all steps but the last have a closed form."""
    times = LogSNR(40, 80.0, 0.05)(EDM())
    counted = Counted(gaussian())
    draws = Guided(teleport=Teleport())(counted, LIKELIHOOD, times, 200, Stream(0)).x
    fine = Guided()(gaussian(), LIKELIHOOD, LogSNR(600, 80.0, 0.05)(EDM()), 200, Stream(0)).x
    # one step of order 1, of length 0.18 in λ at u = 0.06, where D hardly moves: measured 4e-4
    assert torch.allclose(draws, fine, rtol=0, atol=2e-3)
    # a start asks prior and guidance; one step, one last denoising; moments from 68 draws, departures at 40 times
    assert counted.rows == 200 * (2 + 1 + 1) + 68 * (2 + 1) + 32 * 40 < 0.3 * 200 * 43
    few = Guided(teleport=Teleport())(gaussian(), LIKELIHOOD, times, 64, Stream(0)).x
    assert torch.equal(few, draws[:64])


def test_particles_are_as_many_as_was_said_whatever_the_draws() -> None:
    few = TwistedSMC(16)(gaussian(), LIKELIHOOD, TIMES, 50, Stream(0))
    assert len(few) == 16
    assert len(few.resample(50, Stream(1))) == 50
    assert len(TwistedSMC(60)(gaussian(), LIKELIHOOD, TIMES, 50, Stream(0))) == 60


def test_tiles_bound_the_batch() -> None:
    @dataclass
    class Watched:
        prior: MixtureDenoiser
        largest: int = 0

        def __post_init__(self) -> None:
            self.schedule, self.shape, self.initial = self.prior.schedule, self.prior.shape, self.prior.initial

        def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
            self.largest = max(self.largest, len(x))
            return self.prior(x, t)

    watched = Watched(gaussian())
    TwistedSMC(100, "pigdm", tile=32)(watched, LIKELIHOOD, TIMES, 1, Stream(0))
    assert watched.largest == 32
    watched = Watched(gaussian())
    Guided(PiGDM)(watched, LIKELIHOOD, TIMES, 100, Stream(0, tile=16))
    assert watched.largest == 16


@every_posterior
def test_stopping(kind: str) -> None:
    def stop(k: int, n: int) -> None:
        if k >= min(3, n):
            raise OutOfTime("over")

    with pytest.raises(OutOfTime):
        POSTERIORS[kind]()(gaussian(), LIKELIHOOD, TIMES, 5, Stream(0), on_step=stop)


@dataclass
class Breaking:
    """NaN once the noise is small."""

    prior: MixtureDenoiser

    def __post_init__(self) -> None:
        self.schedule, self.shape, self.initial = self.prior.schedule, self.prior.shape, self.prior.initial

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.prior(x, t) * (1.0 if float(t) < 0.7 else math.nan)


def test_a_denoiser_that_breaks_is_named_with_its_time() -> None:
    times = torch.linspace(0.1, 0.95, 18, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match=r"PiGDM: 5 of 5 draws are not finite, from t = 0\.7 on"):
        Guided(PiGDM, Euler())(Breaking(gaussian()), LIKELIHOOD, times, 5, Stream(0))
    with pytest.raises(NonFiniteError, match=r"step 12 of 18: .* NaN"):
        TwistedSMC(8, "pigdm")(Breaking(gaussian()), LIKELIHOOD, times, 5, Stream(0))


def test_a_denoiser_that_breaks_on_the_way_down_is_named_with_its_time() -> None:
    times = torch.linspace(0.1, 0.95, 18, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match=r"DiffPIR: 5 of 5 draws are .* from t = 0\.7 on, step 13 of 18"):
        DiffPIR()(Breaking(gaussian()), LIKELIHOOD, times, 5, Stream(0))


def test_stiff_guidance_fails_loudly() -> None:
    """DPS at σ_y = 10⁻³ of the data's width overflows in a few explicit steps; nothing is clipped."""
    sharp = GaussianLikelihood(torch.tensor([0.3, 0.1]), sigma=1e-3)
    with pytest.raises(NonFiniteError, match="more steps"):
        Guided(functools.partial(DPS, scale=1.0))(gaussian(), sharp, Karras(30)(EDM()), 4, Stream(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guided()(gaussian(), LIKELIHOOD, TIMES, 0, Stream(0)), "n ≥ 1"),
        (lambda: TwistedSMC()(gaussian(), LIKELIHOOD, TIMES, -1, Stream(0)), "n ≥ 1"),
        (lambda: TwistedSMC()(gaussian(), object(), TIMES, 1, Stream(0)), "TwistedSMC needs a GaussianLikelihood"),
        (lambda: TwistedSMC(0), "n_particles ≥ 1"),
        (lambda: TwistedSMC(tile=0), "tile ≥ 1"),
        (lambda: TwistedSMC(variance=-1.0), "variance > 0"),
        (lambda: TwistedSMC(twist="exact"), "twist must be"),
        (lambda: Tempered(0), "n_particles ≥ 1"),
        (lambda: Tempered(ess_threshold=1.5), "ess_threshold ≤ 1"),
        (lambda: Tempered()(gaussian(), LIKELIHOOD, TIMES, 0, Stream(0)), "n ≥ 1"),
        (lambda: DDRM(eta=1.5), "eta in \\[0, 1\\]"),
        (lambda: DDNM(n_repeats=0), "n_repeats ≥ 1"),
        (lambda: DiffPIR(strength=0.0), "strength > 0"),
        (lambda: DiffPIR(variance=-1.0), "variance > 0"),
        (lambda: DAPS(n_flow_steps=-1), "n_flow_steps ≥ 0"),
        (lambda: PnPDM(n_inner=0), "n_inner ≥ 1"),
        (lambda: REDDiff(weight="cubic"), "weight must be one of"),
        (lambda: REDDiff(learning_rate=0.0), "learning_rate and variance > 0"),
        (lambda: DDRM()(gaussian(), LIKELIHOOD, TIMES, 0, Stream(0)), "n ≥ 1"),
        (lambda: DAPS()(gaussian(), object(), TIMES, 1, Stream(0)), "DAPS needs a GaussianLikelihood"),
        (lambda: DDNM()(gaussian(Linear()), LIKELIHOOD, [0.0, 0.5], 1, Stream(0)), "cannot start at t = 0"),
        (lambda: TwistedSMC(ess_threshold=0.0)(gaussian(), LIKELIHOOD, TIMES, 1, Stream(0)), "ess_threshold"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
