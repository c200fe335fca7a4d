"""Particles whose centre stays at 0: a basis of what is left, and diffusion there that never leaves it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sciflow.diffusion import EDM
from sciflow.diffusion.centred import (
    CentredModule,
    event_shape,
    events,
    free,
    free_coordinates,
    helmert,
    is_centred,
    positions,
)
from sciflow.diffusion.density import log_likelihood
from sciflow.diffusion.flow import probability_flow, reverse_sde
from sciflow.diffusion.model import pack, unpack
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import Scaled
from sciflow.diffusion.times import Karras
from sciflow.errors import InputError
from sciflow.networks.egnn import EGNN
from sciflow.particles.feynman_kac import smc
from sciflow.random import Stream
from sciflow.solvers import EulerMaruyama, Heun, solve
from sciflow.steering import annealed, marginal

ROUNDING = 1e-12  # of sums of thirteen terms of order one in float64
N, AXES, STD = 13, 3, 0.7


class Silent(torch.nn.Module):
    """F = 0: the denoiser is that of a normal law."""

    def forward(self, x: Tensor, noise_level: Tensor | None = None) -> Tensor:
        return 0 * x


def normal_prior() -> NetworkDenoiser:
    """The exact denoiser of thirteen particles of N(0, STD² (1 − 11ᵀ/n))."""
    return NetworkDenoiser(CentredModule(Silent()), Scaled(EDM(), STD), (N - 1, AXES), 0.0)


def network_prior(dtype: torch.dtype = torch.float64) -> NetworkDenoiser:
    """A network as after some training, for the same particles."""
    torch.manual_seed(0)
    module = EGNN(width=8, depth=2).build((N, AXES)).to(dtype).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return NetworkDenoiser(CentredModule(module), Scaled(EDM(), STD), (N - 1, AXES), 0.0)


@pytest.mark.parametrize("n", [2, 5, 13])
def test_the_projection_is_one(n):
    basis = helmert(n)
    projection = basis @ basis.T
    assert torch.allclose(basis.T @ basis, torch.eye(n - 1, dtype=torch.float64), rtol=0, atol=ROUNDING)
    assert torch.allclose(projection @ projection, projection, rtol=0, atol=ROUNDING)
    assert torch.allclose(projection, torch.eye(n, dtype=torch.float64) - 1 / n, rtol=0, atol=ROUNDING)


def test_positions_and_free_coordinates_are_inverse_and_keep_lengths():
    z = Stream(0).normal(8, (N - 1, AXES), dtype=torch.float64)
    x = positions(z)
    assert float(x.mean(1).abs().max()) < ROUNDING
    assert torch.allclose(free(x + 5.0), z, rtol=0, atol=10 * ROUNDING)  # the shift costs a digit
    assert torch.allclose(x.square().sum((1, 2)), z.square().sum((1, 2)), rtol=ROUNDING, atol=0)


def test_gaussian_on_the_subspace_has_its_moments():
    """Covariance of x over particles: STD² (1 − 11ᵀ/n), from 4000 draws."""
    denoiser, n = normal_prior(), 4000
    times = Karras(150, 60.0, 0.01)(denoiser.schedule)
    start = denoiser.initial(float(times[0]), n, Stream(1), torch.float64)
    with torch.no_grad():
        x = events(denoiser, solve(probability_flow(denoiser), start, times, Heun()))
    found = torch.einsum("sia,sja->aij", x, x) / n
    exact = STD**2 * (torch.eye(N, dtype=torch.float64) - 1 / N)
    stderr = ((exact.diagonal()[:, None] * exact.diagonal() + exact**2) / n).sqrt()
    # 3 × 91 entries: the largest of as many normal numbers is above 4 with probability 0.017, above 5 with 1.6e-4.
    # Heun's 150 steps, and the noise of the last level, add a relative 3e-3: a tenth of a standard error.
    assert float(((found - exact).abs() / stderr).max()) < 5
    trace = x.square().sum((1, 2))
    wanted, spread = STD**2 * (N - 1) * AXES, STD**2 * math.sqrt(2 * (N - 1) * AXES / n)
    assert abs(float(trace.mean()) - wanted) < 4 * spread + 1e-3 * wanted


@pytest.mark.parametrize("kind", ["flow", "sde", "annealed"])
def test_a_solve_never_leaves_the_subspace(kind):
    denoiser = network_prior()
    times, stream = Karras(8, 20.0, 0.05)(denoiser.schedule), Stream(2)
    start = denoiser.initial(float(times[0]), 16, stream.child("start"), torch.float64)
    with torch.no_grad():
        if kind == "flow":
            end = solve(probability_flow(denoiser), start, times, Heun())
        elif kind == "sde":
            end = solve(reverse_sde(denoiser), start, times, EulerMaruyama(), stream=stream)
        else:
            end = smc(marginal(annealed(denoiser, 4 / 3), times), 16, stream).x
    x = events(denoiser, end)
    assert x.shape == (16, N, AXES) and float(x.std()) > 0.1
    assert float(x.mean(1).abs().max()) < ROUNDING


def test_densities_are_those_of_the_subspace():
    """log p of a Gaussian in (n − 1)·d dimensions, along the flow, with exact divergence."""
    denoiser, size = normal_prior(), (N - 1) * AXES
    z, times = STD * Stream(3).normal(2, (N - 1, AXES), dtype=torch.float64), Karras(24, 20.0, 0.005)(denoiser.schedule)

    def normal(t: float) -> Callable[[Tensor], Tensor]:
        schedule = denoiser.schedule
        variance = (float(schedule.alpha(t)) * STD) ** 2 + float(schedule.sigma(t)) ** 2
        return lambda x: -0.5 * x.flatten(1).square().sum(1) / variance - 0.5 * size * math.log(2 * math.pi * variance)

    found = log_likelihood(denoiser, z, times[:-1], base=normal(float(times[0])))
    exact = normal(float(times[-2]))(z)
    assert float((found.value - exact).abs().max()) < 4 * float(found.discretisation.max()) + 1e-8  # its own error


def test_annealing_a_gaussian_cools_it():
    """p^β of N(0, s²) is N(0, s²/β) with log Z = log ∫ p^β, in (n − 1)·d dimensions."""
    denoiser, power, n = normal_prior(), 4 / 3, 2000
    times = Karras(60, 60.0, 0.01)(denoiser.schedule)
    with torch.no_grad():
        found = smc(marginal(annealed(denoiser, power), times), n, Stream(4))
    size = (N - 1) * AXES
    weights = found.log_weights.softmax(0)
    squared = float((weights * found.x.square().sum((1, 2))).sum()) / (STD**2 / power * size)
    # relative standard error √(2/size/n) = 0.005; 2 % in four of them
    assert abs(squared - 1) < 4 * math.sqrt(2 / size / found.ess())
    exact = 0.5 * size * ((1 - power) * math.log(2 * math.pi * STD**2) - math.log(power))
    assert abs(float(found.log_evidence) - exact) < 4 * max(float(found.log_evidence_stderr), 0.0) + 0.05


def test_a_centred_model_is_stored_and_refuses_other_events():
    denoiser = network_prior(torch.float32)
    z = Stream(5).normal(4, (N - 1, AXES))
    again = unpack(pack(denoiser, EGNN(width=8, depth=2)))
    assert is_centred(again) and event_shape(again) == (N, AXES) and again.shape == (N - 1, AXES)
    assert torch.equal(again(z, 0.5), denoiser(z, 0.5))
    with pytest.raises(InputError, match=r"\(particle, axis\).*Leave it out"):
        free_coordinates(torch.zeros(2, 1, 8), ("sample", "channel", "x"))
