"""One step of a trajectory, as it was learned: the mean of the next field, its law, or a prediction that is refined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sciflow.diffusion.loss import Denoising, Loss
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import Scaled, Schedule
from sciflow.errors import InputError
from sciflow.random import Stream


@dataclass(frozen=True)
class Scale:
    """Normalisation that travels with a forecaster [data units].

    Args:
        mean: of the fields.
        std: of the fields.
        step: root mean square increment from one field to the next.
        parameters: name → mean and standard deviation over trajectories, of the numbers that a forecaster is told of
            each [their own units]. One that never differed, of standard deviation 0, tells nothing and is not shown.
        constants: name → mean and standard deviation over trajectories and places, of the fields that do not change and
            that a forecaster is told of [their own units]. One that never differed is not shown either.
        bounded: axes of the grid, counted from 0, that do not join their ends, and along which a forecaster is told
            its place.
    """

    mean: float = 0.0
    std: float = 1.0
    step: float = 1.0
    parameters: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    constants: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bounded: tuple[int, ...] = ()

    @property
    def shown(self) -> list[str]:
        """The parameters that enter as channels, in their order."""
        return [name for name, (_, std) in self.parameters.items() if std > 0]

    @property
    def mapped(self) -> list[str]:
        """The constants that enter as channels, in their order."""
        return [name for name, (_, std) in self.constants.items() if std > 0]

    @property
    def n_told(self) -> int:
        """Channels behind the fields of a past: parameters, then constants."""
        return len(self.shown) + len(self.mapped)

    @property
    def n_beside(self) -> int:
        """Channels that a network sees beside the fields: what is told, then the places along bounded axes."""
        return self.n_told + len(self.bounded)

    def channels(self, values: Mapping[str, float | Tensor]) -> Tensor | None:
        """The shown parameters (…) as numbers of unit variance, (…, n_shown), float64; None where none is shown."""
        found = [(torch.as_tensor(values[n], dtype=torch.float64) - self.parameters[n][0]) for n in self.shown]
        stds = [self.parameters[name][1] for name in self.shown]
        return torch.stack([value / std for value, std in zip(found, stds, strict=True)], -1) if found else None

    def maps(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The shown constants (batch, *grid) as fields of unit variance, (batch, n_mapped, *grid), float64, or None."""
        found = [(values[n].double() - self.constants[n][0]) / self.constants[n][1] for n in self.mapped]
        return torch.stack(found, 1) if found else None

    def fields(self, past: Tensor) -> Tensor:
        """A past (batch, time, channel + n_told, *grid) without what is told beside it."""
        return past[:, :, : past.shape[2] - self.n_told]


def told(past: Tensor, parameters: Tensor | None, constants: Tensor | None = None) -> Tensor:
    """Fields with what is told of their trajectory as channels behind them, (batch, time, channel + n_told, *grid).

    Args:
        past: (batch, time, channel, *grid).
        parameters: numbers (batch, n_shown), the same everywhere; None for none.
        constants: fields (batch, n_mapped, *grid), the same at all times; None for none.
    """
    n_times, grid, parts = past.shape[1], past.shape[3:], [past]
    if parameters is not None:
        parts.append(parameters.to(past)[:, None, :, *[None] * len(grid)].expand(-1, n_times, -1, *grid))
    if constants is not None:
        parts.append(constants.to(past)[:, None].expand(-1, n_times, *[-1] * (constants.ndim - 1)))
    return torch.cat(parts, 2) if len(parts) > 1 else past


def places(grid: Sequence[int], axes: Sequence[int], like: Tensor) -> Tensor:
    """Where each point lies along some axes, from −1 at the first point to 1 at the last, (axis, *grid).

    Args:
        grid: points along each axis.
        axes: which, counted from 0.
        like: a tensor of the dtype and device of the result.
    """
    found = []
    for axis in axes:
        line = torch.linspace(-1, 1, grid[axis], dtype=like.dtype, device=like.device)
        found.append(line.reshape([-1 if k == axis else 1 for k in range(len(grid))]).expand(*grid))
    return torch.stack(found)


class Given(nn.Module):
    """A network that sees a condition as further channels, as one that does not.

        F(x) = N([x, c])_{first channels}

    Args:
        module: N, as many channels out as in.
        condition: c, (batch, channel, *grid).
    """

    def __init__(self, module: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.module, self.condition = module, condition

    def forward(self, x: Tensor, noise_level: Tensor | None = None) -> Tensor:
        return self.module(torch.cat([x, self.condition], 1), noise_level)[:, : x.shape[1]]


def normalised(past: Tensor, scale: Scale) -> Tensor:
    """The past (batch, n_given, channel + n_told, *grid) as channels of unit variance, and places along bounded axes.

    (batch, n_given · channel + n_beside, *grid); what is told has unit variance already, and is shown once
    """
    fields = scale.fields(past)
    parts = [((fields - scale.mean) / scale.std).flatten(1, 2), past[:, -1, fields.shape[2] :]]
    if scale.bounded:
        where = places(past.shape[3:], scale.bounded, past)
        parts.append(where.expand(len(past), *where.shape))
    return torch.cat(parts, 1)


def last_increment(windows: Tensor, scale: Scale) -> Tensor:
    """From the last field but one to the last, (batch, channel, *grid) [data units]."""
    fields = scale.fields(windows)
    return fields[:, -1] - fields[:, -2]


@dataclass(frozen=True)
class RegressionModel:
    """The mean of the next field, and the spectrum of what it leaves over.

        û_{t+1} = u_t + step · N(c),   residual noise: stationary and Gaussian, with the spectrum of u_{t+1} − û_{t+1}

    Args:
        module: N, from n_given fields to as many channels, of which the first field's count.
        shape: of a field, (channel, *grid).
        n_given: fields that it looks back on.
        scale: normalisation.
        spectrum: root mean square of the residual's modes over that of white noise, (channel, *modes); None before
            it is fitted [data units].
    """

    module: nn.Module
    shape: tuple[int, ...]
    n_given: int
    scale: Scale
    spectrum: Tensor | None = None

    def increment(self, past: Tensor) -> Tensor:
        """The expected increment over its scale, (batch, channel, *grid)."""
        return self.module(normalised(past, self.scale), None)[:, : self.shape[0]]

    def mean(self, past: Tensor) -> Tensor:
        """The expected next field, (batch, channel, *grid)."""
        return self.scale.fields(past)[:, -1] + self.scale.step * self.increment(past)

    def loss(self, windows: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        """Mean square error of the increment over its scale."""
        wanted = last_increment(windows, self.scale) / self.scale.step
        return (self.increment(windows[:, :-1]) - wanted).square().flatten(1).mean(1)

    def finished(self, windows: Tensor) -> RegressionModel:
        grid = tuple(range(-len(self.shape) + 1, 0))
        with torch.no_grad():
            left = torch.cat([self._left(part) for part in windows.split(256)]).double()
        power = torch.fft.rfftn(left, dim=grid).abs().square().mean(0)
        return replace(self, spectrum=(power / left[0, 0].numel()).sqrt())

    def _left(self, windows: Tensor) -> Tensor:
        return self.scale.fields(windows)[:, -1] - self.mean(windows[:, :-1])

    def residual(self, white: Tensor) -> Tensor:
        """Draws of the fitted residual from white noise (batch, channel, *grid).

        Raises:
            InputError: nothing was fitted.
        """
        if self.spectrum is None:
            raise InputError(
                "this forecaster has no fitted residual. Train it with `sciflow train`, or call finished()."
            )
        grid = tuple(range(-len(self.shape) + 1, 0))
        modes = torch.fft.rfftn(white, dim=grid) * self.spectrum.to(white)
        return torch.fft.irfftn(modes, s=self.shape[1:], dim=grid)


@dataclass(frozen=True)
class DiffusionModel:
    """The law of the next field given the past, as a denoiser of the increment.

    Args:
        module: a network that sees the noisy increment and the past, and answers like `NetworkDenoiser`.
        shape: of a field, (channel, *grid).
        n_given: fields that it looks back on.
        scale: normalisation.
        schedule: noise levels, in standard deviations of the increment.
        objective: what was minimised.
    """

    module: nn.Module
    shape: tuple[int, ...]
    n_given: int
    scale: Scale
    schedule: Schedule
    objective: Loss = field(default_factory=Denoising)

    def denoiser(self, past: Tensor) -> NetworkDenoiser:
        """The denoiser of the increments of these pasts, row by row (batch, n_given, channel, *grid)."""
        module = Given(self.module, normalised(past, self.scale))
        return NetworkDenoiser(module, Scaled(self.schedule, self.scale.step), self.shape, 0.0)

    def loss(self, windows: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        wanted = last_increment(windows, self.scale)
        return self.objective(self.denoiser(windows[:, :-1]), wanted, stream, step, first)

    def finished(self, windows: Tensor) -> DiffusionModel:
        return self


@dataclass(frozen=True)
class RefinerModel:
    """A prediction of the increment a (over its scale), and its refinement at falling noise levels.

        σ_k = min_noise^{k/K},  α_k = √(1 − σ_k²),   F(α_k a + σ_k ε, c, log(σ_k/α_k)) ≈ σ_k a − α_k ε,   k = 0 … K
        â₀ = F(0, c, ∞),   x_k = α_k â_{k−1} + σ_k ε_k,   â_k = α_k x_k + σ_k F(x_k, c, log(σ_k/α_k))

    At level 0 there is nothing but noise, σ = 1: the network sees zeros in its place and answers with a itself, as a
    regression does. F is −v of the v-prediction.

    Args:
        module: F, a network that sees the noisy increment and the past.
        shape: of a field, (channel, *grid).
        n_given: fields that it looks back on.
        scale: normalisation.
        n_refinements: K; 0 is a regression.
        min_noise: σ_K, in standard deviations of the increment.
    """

    module: nn.Module
    shape: tuple[int, ...]
    n_given: int
    scale: Scale
    n_refinements: int = 3
    min_noise: float = 1e-3

    @property
    def noises(self) -> Tensor:
        """σ_0 = 1 … σ_K, (K + 1,), float64."""
        k = torch.arange(self.n_refinements + 1, dtype=torch.float64)
        return self.min_noise ** (k / max(self.n_refinements, 1))

    def mixing(self, levels: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """α_k and σ_k of rows at levels k (batch,), (batch, 1, …), float64."""
        sigma = self.noises.to(like.device)[levels].reshape(-1, *[1] * (like.ndim - 1))
        return (1 - sigma**2).sqrt(), sigma

    def answer(self, past: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        """F of noisy increments over their scale, (batch, channel, *grid), row by row at levels k (batch,)."""
        alpha, sigma = self.mixing(levels, x)
        return Given(self.module, normalised(past, self.scale))(x, (sigma / alpha).log().flatten().to(x.dtype))

    def loss(self, windows: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        """Mean square error of F, each row at a level k ~ U{0, …, K} of its own."""
        options: dict[str, Any] = {"step": step, "first": first, "dtype": windows.dtype, "device": windows.device}
        levels = (stream.child("level").uniform(len(windows), **options) * (self.n_refinements + 1)).long()
        return self.loss_at(levels, windows, stream.child("noise").normal(len(windows), self.shape, **options))

    def loss_at(self, levels: Tensor, windows: Tensor, noise: Tensor) -> Tensor:
        """The loss of rows at given levels k (batch,), with given noise (batch, channel, *grid)."""
        wanted = last_increment(windows, self.scale) / self.scale.step
        alpha, sigma = (part.to(wanted.dtype) for part in self.mixing(levels, wanted))
        x = torch.where(alpha > 0, alpha * wanted + sigma * noise, 0.0)
        target = sigma * wanted - alpha * noise
        return (self.answer(windows[:, :-1], x, levels) - target).square().flatten(1).mean(1)

    def increment(self, past: Tensor, stream: Stream) -> Tensor:
        """Refined predictions of u_{t+1} − u_t, (batch, channel, *grid) [data units].

        Args:
            past: (batch, n_given, channel, *grid).
            stream: of the noise of these rows.
        """
        n = len(past)
        options: dict[str, Any] = {"dtype": past.dtype, "device": past.device}
        levels = torch.zeros(n, dtype=torch.long, device=past.device)
        guess = self.answer(past, past.new_zeros(n, *self.shape), levels)
        for k in range(1, self.n_refinements + 1):
            alpha, sigma = (part.to(past.dtype) for part in self.mixing(levels + k, guess))
            x = alpha * guess + sigma * stream.normal(n, self.shape, step=k, **options)
            guess = alpha * x + sigma * self.answer(past, x, levels + k)
        return self.scale.step * guess

    def finished(self, windows: Tensor) -> RefinerModel:
        return self


ForecastModel = RegressionModel | DiffusionModel | RefinerModel
"""A trained one-step forecaster."""
