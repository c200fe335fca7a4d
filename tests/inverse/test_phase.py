"""Phase retrieval of two pixels: samplers that take an operator that is not linear, against quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sciflow.diffusion import EDM, Cosine, GaussianMixture
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.diffusion.times import LogSNR
from sciflow.errors import InputError
from sciflow.inverse import (
    DAPS,
    DAS,
    SVDD,
    Dense,
    FKSteering,
    GaussianLikelihood,
    NonlinearGaussianLikelihood,
    PhaseRetrieval,
    PnPDM,
    Tempered,
)
from sciflow.inverse.conditioned import conditioned_moves
from sciflow.particles.kernels import HMC, MALA, ULA, Kernel
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.types import Time

SHAPE, SIGMA = (1, 1, 2), 0.4
WHITE = GaussianMixture(*(one.double() for one in (torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])))


@dataclass(frozen=True)
class White(SubspaceDenoiser):
    """Two pixels N(0, 1), whose density is known too."""

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        assert float(self.schedule.sigma(t)) == 0  # tempering asks for the data alone
        return WHITE.log_prob(x.flatten(1))


PRIOR = White(SubspaceMixture.whole(WHITE), Cosine(), SHAPE)
TRUTH = torch.tensor([[[[1.3, 1.0]]]], dtype=torch.float64)
CLEAN = PhaseRetrieval()(TRUTH)[0]
MEASURED = CLEAN + SIGMA * Stream(3).normal(1, CLEAN.shape, dtype=torch.float64)[0]
LIKELIHOOD = NonlinearGaussianLikelihood(MEASURED, PhaseRetrieval(), SIGMA)
MIXED = {"spread": 1.0}  # the chain of a white prior is then exact at any number of levels, but for the last one
CASES = {
    "tempered": Tempered(512),
    "fk_steering": FKSteering(512, **MIXED),
    "svdd": SVDD(512, **MIXED),
    "das": DAS(512, **MIXED),
}


def features(x: Tensor) -> Tensor:
    """First moments, second moments, whether an image is bright or dark, whether it is between the two."""
    a, b = x.flatten(1).T
    return torch.stack([a, b, a * a, a * b, b * b, 0.5 + 0.5 * (a + b).sign(), ((a + b).abs() < 0.4).double()], 1)


def quadrature(rho: float = 0.0) -> tuple[Tensor, float]:
    """Exact expectations of the features, and log-evidence: sums over cells of 0.02 in [−6, 6]².

    With rho of the law p(x) ∫ p(y | z) N(z; x, ρ² I) dz, which two products with the kernel of a cell make.
    """
    cell = 0.02
    line = cell * (torch.arange(600, dtype=torch.float64) - 299.5)
    lattice = torch.cartesian_prod(line, line)
    seen = LIKELIHOOD.log_prob(lattice.reshape(-1, *SHAPE))
    if rho:
        kernel = cell * torch.distributions.Normal(0.0, rho).log_prob(line[:, None] - line).exp()
        seen = (kernel @ seen.exp().reshape(600, 600) @ kernel).flatten().log()
    log = seen + WHITE.log_prob(lattice)
    return log.softmax(0) @ features(lattice), float(log.logsumexp(0)) + 2 * math.log(cell)


@pytest.mark.parametrize("name", CASES)
def test_both_signs_are_found_with_equal_weight(name: str) -> None:
    """24 runs: expectations within 4 standard errors of their mean, and E[Ẑ]/Z = 1.

    `doit` and `tds` with its twist "denoised" are left out: weights with such tails that no standard error holds here
    (of Ẑ 0.1 to 0.4 from twice the particles). `daps` and `pnp_dm` have no weights and stand below; guidance and the
    other samplers that go down the levels refuse the operator.
    """
    exact, log_evidence = quadrature()
    assert exact[:2].abs().max() < 1e-9 and abs(exact[5] - 0.5) < 1e-9  # ±x give the same data: rounding of sums
    assert exact[3] > 0.5 and exact[6] < 0.05  # two modes, and little between them
    times = LogSNR(16, ratio_max=40.0, ratio_min=0.02)(PRIOR.schedule)  # 0.02² of a unit variance is left out
    runs = [CASES[name](PRIOR, LIKELIHOOD, times, 1, Stream(seed)) for seed in range(24)]

    def told(run: Particles) -> Tensor:
        ratio = math.exp(run.log_evidence - log_evidence)
        return torch.cat([run.weights @ features(run.x), torch.tensor([ratio], dtype=torch.float64)])

    found, wanted = torch.stack([told(run) for run in runs]), torch.cat([exact, torch.ones(1).double()])
    stderr = found.std(0) / math.sqrt(len(runs))
    assert ((found.mean(0) - wanted).abs() < 4 * stderr).all(), (found.mean(0) - wanted) / stderr
    assert stderr[5] < 0.05 and stderr[7] < 0.2  # one mode alone would be off by 10 of them; Ẑ/Z is no matter of luck


def against(found: Tensor, wanted: Tensor) -> Tensor:
    """How many standard errors the means of independent draws are off, feature by feature."""
    told = features(found)
    return (told.mean(0) - wanted) / (told.std(0) / math.sqrt(len(told)))


@pytest.mark.parametrize("kernel", [MALA(), HMC(n_leapfrog=2)], ids=["mala", "hmc"])
def test_daps_finds_the_posterior_of_a_white_prior(kernel: Kernel) -> None:
    """p(x₁ | x_t) is the ball that it takes, so that the moves alone are left: 4 standard errors of 4096 draws."""
    exact, _ = quadrature()
    times, stream = LogSNR(12, ratio_max=40.0, ratio_min=0.02)(PRIOR.schedule), Stream(11, tile=4096)
    drawn = DAPS(kernel=kernel, n_moves=24)(PRIOR, LIKELIHOOD, times, 4096, stream)
    # the start, which does not know y, leaves 1/40² = 6e-4 of a standard deviation: 0.04 standard errors
    assert against(drawn.x, exact).abs().max() < 4, against(drawn.x, exact)
    prior = Stream(12).normal(4096, SHAPE, dtype=torch.float64)
    assert against(prior, exact)[3] < -20, "draws that had not seen y"


def test_pnp_dm_at_one_distance_has_the_law_of_its_joint_density() -> None:
    """After many sweeps at ρ = 0.5, as for linear operators in tests/laws/test_affine.py; 2048 draws."""
    rho, schedule = 0.5, EDM()
    prior = White(SubspaceMixture.whole(WHITE), schedule, SHAPE)
    times = torch.tensor([float(schedule.time(-math.log(u))) for u in (rho, 2e-3)], dtype=torch.float64)
    sampler = PnPDM(n_sweeps=12, n_inner=20, n_moves=16)  # sweeps forget by 1/(1 + ρ²) = 0.8 each where y says nothing
    found = sampler(prior, LIKELIHOOD, times, 2048, Stream(13, tile=2048)).x
    wanted, _ = quadrature(rho)
    # the reverse SDE in steps of 0.28 in λ, of second order, is off by 0.03 in a (co)variance (test_affine): 0.03/√2 of
    # a second moment's own deviation of √2, which is 1 standard error of 2048 draws
    assert against(found, wanted).abs().max() < 5, against(found, wanted)
    assert against(found, quadrature()[0]).abs().max() > 8, "that is not the posterior"


@pytest.mark.parametrize(
    "sampler", [DAPS(n_moves=30), PnPDM(n_sweeps=2, n_inner=6, n_moves=30)], ids=["daps", "pnp_dm"]
)
def test_moves_have_the_law_of_the_exact_draw(sampler: DAPS | PnPDM) -> None:
    """A linear operator told as one that need not be: two sets of 4096 draws differ by less than 4 standard errors."""
    operator = Dense.of(torch.tensor([[2.0, 0.7]], dtype=torch.float64), SHAPE)
    y, times = torch.tensor([1.4], dtype=torch.float64), LogSNR(8, ratio_max=40.0, ratio_min=0.05)(PRIOR.schedule)
    drawn = [
        features(sampler(PRIOR, likelihood, times, 4096, Stream(seed, tile=4096)).x)
        for seed, likelihood in enumerate(
            [GaussianLikelihood(y, operator, 0.2), NonlinearGaussianLikelihood(y, operator, 0.2)]
        )
    ]
    stderr = sum(one.var(0) for one in drawn).sqrt() / 64
    gap = (drawn[0].mean(0) - drawn[1].mean(0)) / stderr
    assert gap.abs().max() < 4, gap


@pytest.mark.parametrize("sampler", [DAPS(n_moves=4), PnPDM(n_inner=2, n_moves=4)], ids=["daps", "pnp_dm"])
def test_a_draw_is_the_same_whatever_is_drawn_beside_it(sampler: DAPS | PnPDM) -> None:
    times = LogSNR(4, ratio_max=40.0, ratio_min=0.05)(PRIOR.schedule)
    few, many = (sampler(PRIOR, LIKELIHOOD, times, n, Stream(3, tile=4)).x for n in (3, 10))
    assert torch.equal(few, many[:3]) and not torch.equal(many[:4], many[4:8])


def test_a_step_that_fits_no_row_is_mended() -> None:
    """A ball of width 40 and data to 0.4: from a step a hundred times too long to accepted moves, for every row."""
    centre = torch.zeros(64, *SHAPE, dtype=torch.float64)
    start = 40 * Stream(5).normal(64, SHAPE, dtype=torch.float64)
    found = conditioned_moves(LIKELIHOOD.on(SHAPE), centre, 40.0**2, start, MALA(), 60, Stream(6))
    residual = LIKELIHOOD.on(SHAPE).residual(found).square().mean(1).sqrt()
    assert float(residual.max()) < 5 * SIGMA and float(residual.median()) < 1.5 * SIGMA
    with pytest.raises(InputError, match="DAPS needs a kernel with a test of its moves, got ULA"):
        DAPS(kernel=ULA())
    with pytest.raises(InputError, match="PnPDM needs n_moves ≥ 2"):
        PnPDM(n_moves=1)
