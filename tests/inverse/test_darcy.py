"""Darcy's law: order on a made-up solution, fluxes of layers, a residual that vanishes, gradients, the posterior."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sciflow.diffusion.mixture import GaussianMixture, MixtureDenoiser
from sciflow.diffusion.schedule import Cosine
from sciflow.errors import InputError
from sciflow.inverse import NonlinearGaussianLikelihood, Tempered
from sciflow.inverse.darcy import CosineField, Darcy, conductances, outflow, pressure
from sciflow.random import Stream


def centres(n: int) -> tuple[Tensor, Tensor]:
    line = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return tuple(torch.meshgrid(line, line, indexing="ij"))  # type: ignore[return-value]


def made_up(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """a, f and p = sin(πx) sin(2πy) with −∇·(a ∇p) = f, by automatic differentiation."""
    y, x = (one.requires_grad_() for one in centres(n))
    p, a = (math.pi * x).sin() * (2 * math.pi * y).sin(), (3 * x + 2 * y).sin().exp()
    slopes = torch.autograd.grad(p.sum(), (x, y), create_graph=True)
    pairs = zip(slopes, (x, y), strict=True)
    bends = [torch.autograd.grad((a * slope).sum(), one, retain_graph=True)[0] for slope, one in pairs]
    return a.detach(), -(bends[0] + bends[1]), p.detach()


def test_the_order_is_two() -> None:
    errors = []
    for n in (16, 32, 64):
        a, f, p = made_up(n)
        errors.append(float((pressure(a[None], f)[0] - p).abs().max()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - 2) < 0.15 for slope in slopes), slopes  # 0.15: as for every order law of this package


def test_the_residual_vanishes_on_a_rough_truth() -> None:
    """Log-permeabilities of independent cells with contrasts of 10⁵, and the channels of a binary medium."""
    u = 2 * Stream(0).normal(3, (24, 24), dtype=torch.float64)
    for a in (u.exp(), 3.0 + 9.0 * (u > 0).double()):
        p = pressure(a, 1.0)
        assert (outflow(a, p) - 1).abs().max() < 1e-10  # as the project asks; rounding grows with contrast × n²
        assert (p > 0).all()  # the maximum principle


def test_what_is_pumped_in_flows_out_through_the_walls() -> None:
    a = Stream(0).normal(1, (16, 16), dtype=torch.float64).exp()
    p = pressure(a, 3.0)
    down, right = conductances(a)
    out = (down[:, 0] * p[:, 0]).sum() + (down[:, -1] * p[:, -1]).sum()
    out = out + (right[..., 0] * p[..., 0]).sum() + (right[..., -1] * p[..., -1]).sum()
    assert abs(float(out) - 3.0) < 1e-11  # the sum of the source over the square


def test_layers_in_series_have_the_harmonic_mean() -> None:
    """Between two cells of conductivity a and b the flux is that of resistances 1/2a and 1/2b in series."""
    a = torch.tensor([[1.0, 4.0], [2.0, 8.0]], dtype=torch.float64)
    down, right = conductances(a)
    assert torch.allclose(right[:, 1], 2 / (1 / a[:, 0] + 1 / a[:, 1])) and torch.allclose(right[:, 0], 2 * a[:, 0])
    assert torch.allclose(down[1], 2 / (1 / a[0] + 1 / a[1])) and torch.allclose(down[2], 2 * a[1])


def test_gradients_are_those_of_the_adjoint_equation() -> None:
    """With respect to permeability and source, against finite differences in float64."""
    a = Stream(0).normal(2, (5, 5), dtype=torch.float64).exp().requires_grad_()
    f = Stream(1).normal(2, (5, 5), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(pressure, (a, f))
    operator = Darcy(size=6, stride=3).on((4,))
    assert torch.autograd.gradcheck(operator, Stream(2).normal(2, (4,), dtype=torch.float64).requires_grad_())


def test_the_field_has_the_spread_and_the_covariance_it_promises() -> None:
    field, n = CosineField(amplitude=0.7, smoothness=2.0, rate=3.0), 16
    basis = field.basis(36, n).flatten(1)
    assert abs(float(basis.square().sum(0).mean()) - 0.7**2) < 1e-3  # midpoints of cosines: exact but for aliases
    waves = basis @ basis.T / n**2
    off = waves - torch.diag(waves.diagonal())
    assert off.abs().max() < 1e-14  # cosines are orthogonal at midpoints
    i, j = 0, 1  # the second shortest: (0, 0) and (0, 1)
    ratio = (waves[i, i] / waves[j, j]).sqrt()
    assert abs(float(ratio) - (math.pi**2 + 9) / 9) < 1e-12


@pytest.mark.parametrize("stride", [2, 3])
def test_sensors_read_at_the_middle_of_their_squares(stride: int) -> None:
    operator = Darcy(size=12, stride=stride).on((4,))
    z, fine = Stream(0).normal(1, (4,), dtype=torch.float64), Darcy(size=12 * 5, stride=5 * stride).on((4,))
    assert operator(z).shape == (1, (12 // stride) ** 2) and len(operator.sensors) == (12 // stride) ** 2
    y, x = operator.sensors[5]
    n = 12 // stride
    assert [float(y), float(x)] == [(5 // n + 0.5) / n, (5 % n + 0.5) / n]
    grid = 0.02  # (1/12)² times numbers of order one
    assert (operator(z) - fine(z)).abs().max() < grid * operator(z).abs().max()


def test_numbers_that_are_lost_stay_lost_and_steep_fields_are_cut() -> None:
    operator = Darcy(size=8).on((4,))
    z = torch.tensor([[0.1, 0, 0, 0], [math.nan, 0, 0, 0], [1e6, 0, 0, 0]], dtype=torch.float64)
    found = operator(z)
    assert found[0].isfinite().all() and found[1].isnan().all() and found[2].isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pressure(torch.ones(4, 4)), r"must be \(batch, n, n\)"),
        (lambda: pressure(torch.zeros(1, 4, 4)), "must be positive and finite, got values from 0 to 0"),
        (lambda: Darcy(size=4).on((17,)), "at most size² = 16 coefficients, got 17"),
        (lambda: Darcy(size=16, stride=3).on((4,)), "stride 3 of sensors does not divide the 16 cells"),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_tempering_finds_the_posterior_that_quadrature_finds() -> None:
    """Two coefficients: means, variances and evidence by sums over a fine lattice, which are exact to 1e-6 here."""
    operator = Darcy(size=6, stride=3).on((2,))
    truth, sigma = torch.tensor([[0.4, -0.8]], dtype=torch.float64), 0.15
    y = operator(truth)[0] + sigma * Stream(3).normal(1, (4,), dtype=torch.float64)[0]
    likelihood = NonlinearGaussianLikelihood(y, operator, sigma)
    line = torch.linspace(-5, 5, 81, dtype=torch.float64)
    lattice = torch.cartesian_prod(line, line)
    log = likelihood.log_prob(lattice) - 0.5 * lattice.square().sum(1) - math.log(2 * math.pi)
    weight = log.softmax(0)
    mean = weight @ lattice
    variance = weight @ (lattice - mean).square()
    evidence = float(log.logsumexp(0)) + 2 * math.log(10 / 80)
    law = GaussianMixture(*(one.double() for one in (torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])))
    n = 256
    found = Tempered(n_particles=n, n_moves=2)(MixtureDenoiser(law, Cosine()), likelihood, [0.1, 0.9], n, Stream(0))
    w = found.log_weights.exp()
    drawn = found.x
    error = (variance / found.ess()).sqrt()  # of a weighted mean; √2 times the relative one for a variance
    assert ((w @ drawn - mean).abs() < 4 * error).all()
    spread = w @ (drawn - mean).square()
    assert ((spread / variance - 1).abs() < 4 * math.sqrt(2 / found.ess()) * 1.5).all()  # 1.5: not Gaussian, skewed
    assert abs(found.log_evidence - evidence) < 4 * max(found.log_evidence_stderr, 0.05)
