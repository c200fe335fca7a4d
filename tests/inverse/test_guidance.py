"""Guidance as denoisers: grad modes, solves, rows that never meet, ends of the schedule, refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import EDM, Cosine, Linear, Scaled
from sciflow.errors import InputError
from sciflow.inverse import DPS, GUIDANCE, Dense, GaussianLikelihood, Identity, MomentMatching, PiGDM
from sciflow.inverse.conjugate_gradient import conjugate_gradient
from sciflow.inverse.moments import pullback
from sciflow.random import Stream

T = 0.6
MATRIX = torch.tensor([[1.0, 0.4], [0.3, -0.8], [0.5, 0.5]], dtype=torch.float64)
LIKELIHOOD = GaussianLikelihood(torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64), Dense.of(MATRIX), 0.5)
every_guidance = pytest.mark.parametrize("kind", GUIDANCE)


def mixture(schedule: object = None) -> MixtureDenoiser:
    means = torch.tensor([[2.0, 0.0], [-1.5, 1.0]], dtype=torch.float64)
    factors = torch.tensor([[[0.5, 0.0], [0.2, 0.4]], [[0.3, 0.0], [-0.1, 0.6]]], dtype=torch.float64)
    law = GaussianMixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, factors @ factors.mT)
    return MixtureDenoiser(law, schedule or Cosine())


@dataclass
class Opaque:
    """The same denoiser without `covariance`, like a network."""

    prior: MixtureDenoiser

    def __post_init__(self) -> None:
        self.schedule, self.shape, self.initial = self.prior.schedule, self.prior.shape, self.prior.initial

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        return self.prior(x, t)


def states(n: int = 6) -> Tensor:
    return mixture().initial(T, n, Stream(0), torch.float64)


def test_the_score_of_each_guidance() -> None:
    """(α D_y − x)/σ² minus the prior's score is the gradient of the stated log-likelihood, its width held fixed."""
    prior, x = mixture(), states().requires_grad_()
    alpha, sigma = float(prior.schedule.alpha(T)), float(prior.schedule.sigma(T))
    data = prior(x, T)
    residual = LIKELIHOOD.residual(data)
    squared = (residual**2).sum(1)
    covariance = prior.covariance(x.detach(), T)
    r2 = 0.8 * sigma**2 / (sigma**2 + 0.8 * alpha**2)
    noise = 0.25 * torch.eye(3, dtype=torch.float64)
    widths = {
        PiGDM(prior, LIKELIHOOD, 0.8): (r2 * MATRIX @ MATRIX.T + noise).expand(6, 3, 3),
        MomentMatching(prior, LIKELIHOOD): MATRIX @ covariance @ MATRIX.T + noise,
    }
    potentials = {
        DPS(prior, LIKELIHOOD, scale=0.7): -0.7 * squared / (2 * 0.25),
        DPS(prior, LIKELIHOOD, scale=0.7, normalised=True): -0.7 * squared.sqrt() / 0.5,
        **{
            guided: -0.5 * torch.einsum("ni,nij,nj->n", residual, torch.linalg.inv(width), residual)
            for guided, width in widths.items()
        },
    }
    for guided, potential in potentials.items():
        gradient = torch.autograd.grad(potential.sum(), x, retain_graph=True)[0]
        added = alpha * (guided(x.detach(), T) - data.detach()) / sigma**2
        # rounding, times σ⁻² ≤ 10 and the condition of the solves
        assert torch.allclose(added, gradient, rtol=1e-9, atol=1e-9), type(guided).__name__


def test_conjugate_gradients_agree_with_the_covariance() -> None:
    x = states()
    direct = MomentMatching(mixture(), LIKELIHOOD).correct(x, T)
    iterative = MomentMatching(mixture(), LIKELIHOOD, 1e-12, closed_form=False).correct(x, T)
    assert direct.iterations == 0 and iterative.iterations <= 4  # A C Aᵀ has rank 2, plus a multiple of the identity
    assert torch.allclose(direct.mean, iterative.mean, rtol=1e-9, atol=1e-9)  # residual 1e-12, condition below 100
    assert iterative.residual.max() < 1e-12
    fixed = MomentMatching(mixture(), LIKELIHOOD, 0.0, 3, closed_form=False).correct(x, T)
    assert fixed.iterations == 3 and torch.allclose(fixed.mean, direct.mean, rtol=1e-9, atol=1e-9)
    one = MomentMatching(mixture(), LIKELIHOOD, 1e-12, 1, closed_form=False).correct(x, T)
    assert one.iterations == 1 and one.residual.max() > 1e-3  # too few, and it says so


@every_guidance
def test_grad_modes(kind: str) -> None:
    """The same answer with autograd off, in inference mode and on; a graph only where the state asks for one."""
    guided, x = GUIDANCE[kind](Opaque(mixture()), LIKELIHOOD), states()
    plain = guided(x, T)
    assert not plain.requires_grad
    with torch.no_grad():
        assert torch.equal(guided(x, T), plain)
        assert not guided(x.requires_grad_(), T).requires_grad
    with torch.inference_mode():
        assert torch.equal(guided(x.detach().clone(), T), plain)
    assert guided(x, T).requires_grad


@every_guidance
def test_gradients_through_guidance(kind: str) -> None:
    """∂D_y/∂x by autograd against central differences."""
    options = {"moment_matching": {"tolerance": 1e-13}}.get(kind, {})
    guided, x = GUIDANCE[kind](Opaque(mixture()), LIKELIHOOD, **options), states(3)
    direction, h = Stream(7).normal(3, (2,), dtype=torch.float64), 1e-5
    variable = x.clone().requires_grad_()
    gradient = torch.autograd.grad((guided(variable, T) ** 2).sum(), variable)[0]
    difference = ((guided(x + h * direction, T) ** 2).sum() - (guided(x - h * direction, T) ** 2).sum()) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6)  # h² and 1e-16/h


@every_guidance
def test_rows_never_meet(kind: str) -> None:
    """A row answers alike beside any other rows, at one time or at a time per row."""
    guided, x = GUIDANCE[kind](Opaque(mixture()), LIKELIHOOD), states()
    extreme = torch.cat([x[:3], 50 * x[3:]])
    # rounding alone: conjugate gradients stop row by row too
    assert torch.allclose(guided(x, T)[:3], guided(extreme, T)[:3], rtol=1e-12, atol=1e-12)
    times = torch.linspace(0.3, 0.9, 6, dtype=torch.float64)
    together = guided(x, times)
    alone = torch.cat([guided(row[None], float(t)) for row, t in zip(x, times, strict=True)])
    assert torch.allclose(together, alone, rtol=1e-9, atol=1e-9)  # rounding, amplified by the solves


@every_guidance
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), EDM()])
def test_the_ends_of_the_schedule(kind: str, schedule: object) -> None:
    """Finite at α = 0 and at σ → 0, where the data are known and the observation adds nothing."""
    prior = Opaque(mixture(schedule))
    guided, x = GUIDANCE[kind](prior, LIKELIHOOD), states()
    assert guided(x, 0.0).isfinite().all()
    t = 1.0 - 1e-9
    sigma = float(schedule.sigma(t))
    # (σ²/α) ∂D/∂x ≤ σ², and the force is bounded by ‖A‖ ‖y − A x‖/σ_y²
    assert torch.allclose(guided(x, t), prior(x, t), atol=40 * sigma**2 + 1e-12)


def test_pigdm_takes_the_variance_of_the_schedule() -> None:
    scaled = mixture(Scaled(EDM(), 3.0))
    x = states()
    assert torch.equal(PiGDM(scaled, LIKELIHOOD)(x, T), PiGDM(scaled, LIKELIHOOD, variance=9.0)(x, T))
    assert not torch.equal(PiGDM(scaled, LIKELIHOOD)(x, T), PiGDM(scaled, LIKELIHOOD, variance=1.0)(x, T))


@every_guidance
def test_is_a_denoiser(kind: str) -> None:
    guided = GUIDANCE[kind](prior=mixture(), likelihood=LIKELIHOOD)
    assert isinstance(guided, Denoiser)
    assert guided.schedule is not None and guided.shape == (2,)
    start = guided.initial(0.1, 5, Stream(0), torch.float64)
    assert start.shape == (5, 2) and start.dtype == torch.float64


def test_a_denoiser_that_hides_its_gradient() -> None:
    @dataclass
    class Hidden(Opaque):
        def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
            return self.prior(x, t).detach()

    with pytest.raises(InputError, match="Hidden cannot be differentiated"):
        PiGDM(Hidden(mixture()), LIKELIHOOD)(states(), T)


def test_pullback_is_the_transposed_jacobian() -> None:
    x = states(2)
    data, pull = pullback(mixture(), x, T)
    v = Stream(3).normal(2, (2,), dtype=torch.float64)
    for row, cotangent, pulled, value in zip(x, v, pull(v), data, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: mixture()(z[None], T)[0], row)
        assert torch.allclose(pulled, jacobian.T @ cotangent)
        assert torch.allclose(value, mixture()(row[None], T)[0])


def test_conjugate_gradients_row_by_row() -> None:
    """Rows of different difficulty, a zero row, and a row whose matrix is not positive definite."""
    diagonals = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 5.0], [1.0, 1.0, 1.0], [1.0, -2.0, 1.0]]).double()
    b = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.1, 5.0, 0.1]]).double()
    solution = conjugate_gradient(lambda v: diagonals * v, b, 1e-12, 20)
    assert torch.allclose(solution.x[:3], (b / diagonals)[:3], rtol=1e-10)
    assert solution.iterations == 3 and (solution.residual[:3] < 1e-12).all()
    assert solution.x[3].isfinite().all() and solution.residual[3] == 1.0  # it could not start, and says so


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPS(mixture(), LIKELIHOOD, scale=-1.0), "scale ≥ 0"),
        (lambda: DPS(mixture(), LIKELIHOOD, scale=math.nan), "scale ≥ 0"),
        (lambda: PiGDM(mixture(), LIKELIHOOD, variance=0.0), "variance > 0"),
        (lambda: MomentMatching(mixture(), LIKELIHOOD, tolerance=-1.0), "tolerance ≥ 0"),
        (lambda: MomentMatching(mixture(), LIKELIHOOD, max_iterations=0), "max_iterations ≥ 1"),
        (lambda: PiGDM(mixture(), GaussianLikelihood(torch.zeros(3), Identity())), "but Identity makes 2"),
        (lambda: PiGDM(mixture(), object()), "PiGDM needs a GaussianLikelihood, got object"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
