"""The Fokker–Planck residual of a density network: whether its densities at all noise levels are one diffusing law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.loss import regression_error, regression_pair
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.errors import InputError
from sciflow.networks.laplacian import Derivatives
from sciflow.random import Stream

MOST_EXACT = 3  # dimensions up to which the Laplacian is taken coordinate by coordinate


@runtime_checkable
class DensityNetwork(Protocol):
    """A network that knows the log-density of noisy data of unit variance: `energy_mlp`."""

    def log_density(self, z: Tensor, noise_level: Tensor) -> Tensor:
        """log q of each row at log noise levels l, (batch,)."""
        ...


@runtime_checkable
class Differentiable(DensityNetwork, Protocol):
    """A network that knows the derivatives of its log-density: one pass for what would be many."""

    def derivatives(self, z: Tensor, noise_level: Tensor) -> Derivatives:
        """Slope, Laplacian and rate of log q at each row."""
        ...


def density_network(module: object) -> DensityNetwork:
    """The network, if it has a density.

    Raises:
        InputError: it has none.
    """
    if not isinstance(module, DensityNetwork):
        raise InputError(
            f"{type(module).__name__} has no density: its answer is not the gradient of a scalar. "
            "Take `network: {kind: energy_mlp}`."
        )
    return module


def residuals(network: DensityNetwork, z: Tensor, noise_level: Tensor, directions: Tensor) -> Tensor:
    """Estimates of the Fokker–Planck residual, (estimate, batch).

        R = ∂_l φ − κ (Δφ + ‖∇φ‖² + z·∇φ + d),   φ = log q(z, l),   κ = ρ²/(1 + ρ²),   ρ = e^l

    R = 0 where q(·, l) is the law of (a + ρ ε)/√(1 + ρ²) at every l: the heat equation ∂_l log p = ρ² (Δ log p +
    ‖∇ log p‖²) of a + ρ ε, seen in z. The Laplacian is d times the mean of vᵀ ∇²φ v over one direction v of each
    estimate, by one forward-mode derivative of the gradient.

    Args:
        network: φ.
        z: (batch, *shape).
        noise_level: l, (batch,).
        directions: v with E[v vᵀ] = 1, (estimate, batch, *shape).
    Source: Plainer et al. (2025), Consistent sampling and simulation, eq. 9, in these variables and with exact
        derivatives.
    """
    n, d = len(directions), z[0].numel()
    points, levels = z.repeat(n, *[1] * (z.ndim - 1)), noise_level.repeat(n)

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        along = torch.func.grad(lambda x, level: network.log_density(x, level).sum(), argnums=(0, 1))
        slope, rate = along(x, levels)
        return slope, rate

    (slope, rate), (bent, _) = torch.func.jvp(slopes, (points,), (directions.flatten(0, 1),))[:2]
    slope, bent, v, x = (part.reshape(n, len(z), d) for part in (slope, bent, directions, points))
    inner = (v * bent).sum(2) + (slope * (slope + x)).sum(2) + d
    return rate.reshape(n, -1) - torch.sigmoid(2 * noise_level) * inner


def exact_residual(known: Derivatives, z: Tensor, noise_level: Tensor) -> Tensor:
    """The residual R of each row from known derivatives, (batch,)."""
    slope, x = known.slope.flatten(1), z.flatten(1)
    inner = known.laplacian + (slope * (slope + x)).sum(1) + x.shape[1]
    return known.rate - torch.sigmoid(2 * noise_level) * inner


def squared_residual(network: DensityNetwork, z: Tensor, noise_level: Tensor, stream: Stream, **options: Any) -> Tensor:
    """R² of each row: exact in up to three dimensions, beyond the product of two independent estimates of R."""
    d = z[0].numel()
    if d <= MOST_EXACT:
        unit = math.sqrt(d) * torch.eye(d, dtype=z.dtype, device=z.device).reshape(d, 1, *z.shape[1:])
        return residuals(network, z, noise_level, unit.expand(d, *z.shape)).mean(0).square()
    signs = stream.child("directions").normal(len(z), (2, *z.shape[1:]), **options).sign().transpose(0, 1)
    first, second = residuals(network, z, noise_level, signs)
    return first * second


def integration_error(known: Derivatives, z: Tensor, noise: Tensor, noise_level: Tensor) -> Tensor:
    """What a row gains where its noise is integrated: a control variate, of mean zero over the noise, (batch,).

        (κ (Δφ + d) − √κ ε·(∇φ + z))/(1 + ρ²),   z = (a + ρ ε)/√(1 + ρ²),   κ = ρ²/(1 + ρ²)

    By parts, E ε·f(ε) = E ∇·f, here of f = √κ (∇φ + z). The factor in front is free; this one takes the mean where
    there is little noise and the drawn noise where there is much, of which either has the smaller variance.

    Source: Stein (1981), lemma 2; the mean alone is the score matching of Hyvärinen (2005), theorem 1.
    """
    share, pull = torch.sigmoid(2 * noise_level), (noise * (known.slope + z)).flatten(1).sum(1)
    return (1 - share) * (share * (known.laplacian + z[0].numel()) - share.sqrt() * pull)


@dataclass(frozen=True)
class FokkerPlanck:
    """Denoising score matching, and that the densities of all noise levels are one diffusing law.

        E w ‖F − F*‖²/d + weight E R²/d²,   R the Fokker–Planck residual of log q,   log(u/s) ~ N(mean, spread²)

    At low noise the score has less signal than noise, and a simulation with it drifts away; the residual carries what
    was learned at higher noise down to it. Both expectations see the same noisy data.

    The noise ε of F* = (ρ a − ε)/√(1 + ρ²) is noise of the gradient, which falls with ρ more slowly than its signal.
    Drawn, it stays. Paired, each row is the mean over ε and −ε, whose answers F* differ while the two F hardly do.
    Integrated, its product with F gives way to the mean of that, which the Laplacian of log q knows, the more the less
    noise there is.

    Likelihood: w = 1/(1 + ρ²) in place of 1. For levels that are uniform in log ρ this is the bound on the likelihood
    of the data; the high levels, which have most of the noise and least to tell, then weigh less.

    Exactness: its minimiser is the law of the data at every level: R = 0 there
    Cost: in up to three dimensions 2.5 times `denoising` with a network that knows its `derivatives`, else about seven,
        and up to three, else two, rows for one in memory; twice all that if paired
    Bias: none of the minimiser; R² is exact in up to three dimensions, beyond an unbiased product of two estimates
    Args:
        weight: of the residual; 0 is `denoising` with a density network.
        mean: mean of log(u/s).
        spread: standard deviation of log(u/s).
        noise: how each row sees its noise; "integrated" in up to three dimensions, with a network that knows its
            derivatives.
        likelihood: whether levels weigh as in the likelihood.
    Raises:
        InputError: a network without a density, or without derivatives where the noise is integrated.
    Source: Plainer et al. (2025), Consistent sampling and simulation: molecular dynamics with energy-based diffusion
        models, section 4; for pairs, antithetic variates, Hammersley and Morton (1956); for the likelihood Song et al.
        (2021), Maximum likelihood training of score-based diffusion models, theorem 1.
    """

    weight: Annotated[float, Field(ge=0)] = 0.1
    mean: float = -1.0
    spread: Annotated[float, Field(gt=0)] = 1.6
    noise: Literal["drawn", "paired", "integrated"] = "drawn"
    likelihood: bool = False

    def __call__(self, denoiser: NetworkDenoiser, x1: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        network = density_network(denoiser.module)
        options: dict[str, Any] = {"step": step, "first": first, "dtype": x1.dtype, "device": x1.device}
        level = self.mean + self.spread * stream.child("level").normal(len(x1), **options)
        noise = stream.child("noise").normal(len(x1), x1.shape[1:], **options)
        losses = self._errors(denoiser, network, x1, level, noise, stream, options)
        if self.noise != "paired":
            return losses
        return 0.5 * (losses + self._errors(denoiser, network, x1, level, -noise, stream, options))

    def _errors(
        self,
        denoiser: NetworkDenoiser,
        network: DensityNetwork,
        x1: Tensor,
        level: Tensor,
        noise: Tensor,
        stream: Stream,
        options: dict[str, Any],
    ) -> Tensor:
        """The loss of each row with this noise."""
        ratio, d = level.exp(), x1[0].numel()
        share = torch.sigmoid(-2 * level) if self.likelihood else 1.0
        is_integrated, is_known = self.noise == "integrated", isinstance(network, Differentiable) and d <= MOST_EXACT
        if is_integrated and not is_known:
            raise InputError(
                f"noise: integrated needs the derivatives of a density in up to {MOST_EXACT} dimensions, got "
                f"{type(network).__name__} in {d}. Take `network: {{kind: energy_mlp}}` there, or noise: paired."
            )
        if self.weight == 0 and not is_integrated:
            return share * regression_error(denoiser, x1, ratio, noise)
        z, target = regression_pair(denoiser, x1, ratio, noise)
        if isinstance(network, Differentiable) and is_known:  # F = ρ (∇ log q + z): the slope serves both
            known = network.derivatives(z, level)
            answer = ratio.reshape(-1, *[1] * (x1.ndim - 1)) * (known.slope + z)
            squared = exact_residual(known, z, level).square()
            gained = 2 / d * integration_error(known, z, noise, level) if is_integrated else 0.0
        else:
            answer, gained = denoiser.module(z, level), 0.0
            squared = squared_residual(network, z, level, stream, **options)
        return share * (((answer - target) ** 2).flatten(1).mean(1) + gained) + self.weight / d**2 * squared
