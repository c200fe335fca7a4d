"""The Fokker–Planck residual vanishes on laws that diffuse and on no others; a density network is a gradient."""

from __future__ import annotations

import math

import pytest
import torch
from problems import mixture
from torch import Tensor

from sciflow.diffusion import FokkerPlanck, GaussianMixture, NetworkDenoiser, Scaled
from sciflow.diffusion.fokker_planck import density_network, exact_residual, residuals, squared_residual
from sciflow.diffusion.loss import Denoising
from sciflow.diffusion.schedule import Cosine
from sciflow.errors import InputError
from sciflow.networks import MLP, EnergyMLP
from sciflow.random import Stream

ROUNDING = 1e-12  # float64, some hundred operations on numbers of order one
LAWS = {
    "gaussian": GaussianMixture(torch.ones(1), torch.full((1, 2), 0.7), torch.tensor([[[0.5, 0.2], [0.2, 1.5]]])),
    "mixture": mixture(),
    "five dimensions": GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.stack([torch.ones(5), -torch.ones(5)]), 0.5 * torch.eye(5).repeat(2, 1, 1)
    ),
}


class Diffusing(torch.nn.Module):
    """log q of a known law that is blurred as it should be, or with the wrong strength."""

    def __init__(self, law: GaussianMixture, power: float = 1.0) -> None:
        super().__init__()
        self.law, self.power = law, power

    def log_density(self, z: Tensor, level: Tensor) -> Tensor:
        variance, d = (2 * level).exp(), z.shape[1]
        y = z * (1 + variance).sqrt()[:, None]
        blurred = self.law.covariances.to(z) + (variance**self.power)[:, None, None, None] * torch.eye(d, dtype=z.dtype)
        gap = y[:, None] - self.law.means.to(z)
        squared = (gap * torch.linalg.solve(blurred, gap)).sum(2)
        log_components = -0.5 * (squared + torch.linalg.slogdet(blurred)[1] + d * math.log(2 * math.pi))
        return (self.law.weights.to(z).log() + log_components).logsumexp(1) + 0.5 * d * (1 + variance).log()


def places(d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return Stream(0).normal(32, (d,), dtype=dtype), torch.linspace(-3, 2, 32, dtype=dtype)


@pytest.mark.parametrize("name", LAWS)
def test_the_residual_of_a_diffusing_law_is_zero(name: str) -> None:
    law = LAWS[name]
    d = law.means.shape[1]
    z, level = places(d)
    directions = math.sqrt(d) * torch.eye(d, dtype=torch.float64)[:, None].expand(d, 32, d)
    exact = residuals(Diffusing(law), z, level, directions).mean(0)
    assert float(exact.abs().max()) < 1e4 * ROUNDING  # second derivatives of a logsumexp, in units of narrow modes
    single = residuals(Diffusing(law), z.float(), level.float(), directions.float()).mean(0)
    assert float(single.abs().max()) < 1e-3  # float32 rounds by 6e-8, times curvatures up to some hundred
    wrong = residuals(Diffusing(law, power=1.2), z, level, directions).mean(0)
    assert float(wrong.abs().mean()) > 0.05


def test_the_residual_of_a_wrong_blur_is_the_one_computed_by_hand() -> None:
    """N(0, 1 + ρ^{2p}) in place of N(0, 1 + ρ²), in one dimension: log q = −r² z²/2v − ½ log(v/r²)."""
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    z, level = places(1)
    p, rho2 = 1.3, (2 * level).exp()
    v, r2 = 1 + rho2**p, 1 + rho2
    rate = 2 * p * rho2**p / v  # d log v/dl
    slow = 2 * rho2 / r2  # d log r²/dl
    by_hand = (0.5 * r2 * z[:, 0] ** 2 / v - 0.5) * (rate - slow)
    ratio = r2 / v
    by_hand = by_hand - rho2 / r2 * (-ratio + (ratio * z[:, 0]) ** 2 - ratio * z[:, 0] ** 2 + 1)
    found = residuals(Diffusing(law, p), z, level, torch.ones(1, 32, 1, dtype=torch.float64))[0]
    assert torch.allclose(found, by_hand, rtol=0, atol=1e3 * ROUNDING)


def test_beyond_three_dimensions_the_square_is_unbiased() -> None:
    law, n = LAWS["five dimensions"], 20_000
    z, level = (part[5:6] for part in places(5))
    network = Diffusing(law, 1.3)
    directions = math.sqrt(5) * torch.eye(5, dtype=torch.float64)[:, None]
    exact = float(residuals(network, z, level, directions).mean(0)) ** 2
    many = squared_residual(network, z.expand(n, 5), level.expand(n), Stream(1), dtype=torch.float64)
    assert float(many.std()) > 0  # the directions matter
    assert abs(float(many.mean()) - exact) < 4 * float(many.std()) / math.sqrt(n)


def filled(shape: tuple[int, ...] = (2,)) -> torch.nn.Module:
    torch.manual_seed(0)
    module = EnergyMLP(16, 2).build(shape).double()
    torch.nn.init.normal_(module.last.weight, std=0.3)
    return module


def test_the_answer_of_a_density_network_is_the_gradient_of_its_log_density() -> None:
    """The score in z is −z + F/ρ, and also ∇ log q."""
    module, (z, level) = filled(), places(2)
    score = -z + module(z, level) / level.exp()[:, None]
    h = 1e-5
    for i in range(2):
        e = h * torch.eye(2, dtype=torch.float64)[i]
        slope = (module.log_density(z + e, level) - module.log_density(z - e, level)) / (2 * h)
        assert torch.allclose(slope, score[:, i], rtol=0, atol=1e-8)  # h² and 1e-16/h
    jacobian = torch.autograd.functional.jacobian(lambda x: module(x[None], level[:1])[0], z[0])
    assert torch.allclose(jacobian, jacobian.T, rtol=0, atol=ROUNDING)  # no curl


@pytest.mark.parametrize("d", [1, 2, 3])
def test_derivatives_in_one_pass_are_those_of_nested_differentiation(d: int) -> None:
    module, (z, level) = filled((d,)), places(d)
    known = module.derivatives(z, level)
    along = torch.func.grad(lambda x, rho: module.log_density(x, rho).sum(), argnums=(0, 1))
    slope, rate = along(z, level)
    hessian = torch.func.vmap(torch.func.hessian(lambda x, rho: module.log_density(x[None], rho[None])[0]))(z, level)
    assert torch.allclose(known.slope, slope, rtol=0, atol=ROUNDING)
    assert torch.allclose(known.rate, rate, rtol=0, atol=ROUNDING)
    assert torch.allclose(known.laplacian, hessian.diagonal(dim1=1, dim2=2).sum(1), rtol=0, atol=10 * ROUNDING)
    directions = math.sqrt(d) * torch.eye(d, dtype=torch.float64)[:, None].expand(d, 32, d)
    nested = residuals(module, z, level, directions).mean(0)
    assert torch.allclose(exact_residual(known, z, level), nested, rtol=0, atol=10 * ROUNDING)


def test_dropout_drops_the_same_units_of_a_value_and_of_its_derivatives() -> None:
    torch.manual_seed(0)
    module = EnergyMLP(16, 2, dropout=0.5).build((2,)).double().train()
    torch.nn.init.normal_(module.last.weight, std=0.3)
    z, level = places(2)
    found = []
    for ask in (lambda: module.derivatives(z, level).slope, lambda: -z + module(z, level) / level.exp()[:, None]):
        torch.manual_seed(1)
        found.append(ask())
    assert torch.allclose(*found, rtol=0, atol=10 * ROUNDING)  # of numbers of order ten at the least noise
    assert not torch.allclose(found[0], module.eval().derivatives(z, level).slope)


NOISES = ("drawn", "paired", "integrated")


@pytest.mark.parametrize("noise", NOISES)
def test_gradients_of_the_loss_are_finite_differences_in_every_parameter(noise: str) -> None:
    module, loss, stream = filled(), FokkerPlanck(weight=0.5, noise=noise, likelihood=noise == "integrated"), Stream(2)
    denoiser = NetworkDenoiser(module, Scaled(Cosine(), 0.7), (2,), 0.3)
    x1 = 0.3 + 0.7 * Stream(0).normal(6, (2,), dtype=torch.float64)
    loss(denoiser, x1, stream, 0).mean().backward()
    h = 1e-6
    for name, parameter in module.named_parameters():
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.flatten()[0] += sign * h
                values.append(float(loss(denoiser, x1, stream, 0).mean()))
                parameter.flatten()[0] -= sign * h
        slope = (values[0] - values[1]) / (2 * h)
        assert slope == pytest.approx(float(parameter.grad.flatten()[0]), abs=1e-7, rel=1e-5), name  # 1e-16/h


def gradients(loss: FokkerPlanck, module: torch.nn.Module, n: int) -> Tensor:
    """Of one weight, from batches of 64 of n rows of N(0, 1) data."""
    denoiser = NetworkDenoiser(module, Scaled(Cosine(), 1.0), (2,), 0.0)
    batches = Stream(0).normal(n, (2,), dtype=torch.float64).split(64)
    weight, found = module.first.weight, []
    for step, batch in enumerate(batches):
        value = loss(denoiser, batch, Stream(4), step).mean()
        found.append(torch.autograd.grad(value, weight)[0][0, 0])
    return torch.stack(found)


@pytest.mark.parametrize("noise", NOISES[1:])
def test_noise_in_pairs_or_integrated_has_the_same_mean_and_at_low_noise_far_less_variance(noise: str) -> None:
    """At ρ = 0.02, beside noise that is drawn: 4096 rows each."""
    module, level = filled(), {"mean": math.log(0.02), "spread": 1e-6}
    slopes = [gradients(FokkerPlanck(0.1, **level, noise=kind), module, 4096) for kind in ("drawn", noise)]
    means, errors = ([s(v) for v in slopes] for s in (torch.mean, lambda v: v.std() / math.sqrt(len(v))))
    assert abs(float(means[0] - means[1])) < 4 * math.hypot(*map(float, errors))
    assert float(errors[1]) < 0.2 * float(errors[0])  # 1/ρ = 50 for the part of noise alone; other parts remain


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_integrated_noise_has_the_same_mean_at_every_level(level: float) -> None:
    """The difference of the two gradients is of the same rows: its mean is 0 within 4 standard errors of itself."""
    module, options = filled(), {"mean": level, "spread": 1e-6}
    drawn, known = (gradients(FokkerPlanck(0.0, **options, noise=kind), module, 4096) for kind in NOISES[::2])
    gap = known - drawn
    assert float(gap.std()) > 0  # they are not the same numbers
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(gap))


def test_levels_weigh_as_in_the_likelihood_and_the_residual_as_before() -> None:
    """With all rows at one level the regression is divided by 1 + ρ²."""
    module, level = filled(), 0.4
    denoiser, x1 = NetworkDenoiser(module, Scaled(Cosine(), 0.7), (2,), 0.3), Stream(0).normal(8, (2,)).double()

    def losses(weight: float, likelihood: bool) -> Tensor:
        loss = FokkerPlanck(weight, level, 1e-9, "integrated", likelihood)
        return loss(denoiser, x1, Stream(3), 4).detach()

    share = 1 / (1 + math.exp(2 * level))
    assert torch.allclose(losses(0.0, True), share * losses(0.0, False), rtol=1e-8, atol=0)  # the spread of the level
    residual = [losses(0.5, likelihood) - losses(0.0, likelihood) for likelihood in (True, False)]
    assert torch.allclose(*residual, rtol=0, atol=100 * ROUNDING) and float(residual[0].min()) > 0


def test_without_weight_it_is_denoising_and_needs_a_density_in_any_case() -> None:
    module, stream = filled(), Stream(3)
    denoiser = NetworkDenoiser(module, Scaled(Cosine(), 0.7), (2,), 0.3)
    x1 = Stream(0).normal(8, (2,), dtype=torch.float64)
    plain = Denoising(-1.0, 1.6)(denoiser, x1, stream, 4)
    assert torch.equal(FokkerPlanck(0.0)(denoiser, x1, stream, 4), plain)
    assert bool((FokkerPlanck(0.1)(denoiser, x1, stream, 4) > plain).all())
    assert density_network(module) is module
    with pytest.raises(InputError, match="energy_mlp"):
        other = NetworkDenoiser(MLP(8, 1).build((2,)), Scaled(Cosine(), 0.7), (2,), 0.3)
        FokkerPlanck()(other, x1.float(), stream, 0)


def test_noise_is_not_integrated_where_the_laplacian_is_an_estimate() -> None:
    denoiser = NetworkDenoiser(filled((4,)), Scaled(Cosine(), 0.7), (4,), 0.3)
    with pytest.raises(InputError, match="up to 3 dimensions, got EnergyModule in 4"):
        FokkerPlanck(noise="integrated")(denoiser, torch.zeros(2, 4, dtype=torch.float64), Stream(3), 0)


def test_a_sharp_network_starts_with_the_same_units_steeper() -> None:
    """Its first layer at z is the plain one at z times the factor, shift and all; no other parameter differs."""
    modules = []
    for factor in (1.0, 3.0):
        torch.manual_seed(0)
        modules.append(EnergyMLP(16, 2, sharpness=factor).build((2,)))
    z = places(2, torch.float32)[0]
    assert torch.allclose(modules[1].first(z), 3 * modules[0].first(z), rtol=1e-5, atol=1e-6)  # float32
    parts = zip(modules[0].named_parameters(), modules[1].parameters(), strict=True)
    assert [name for (name, a), b in parts if not torch.equal(a, b)] == ["first.weight", "first.bias"]
