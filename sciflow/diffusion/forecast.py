"""One-step forecasters: from the last fields of a trajectory to the next one, as a mean or as draws of its law.

With the past c = (u_{t−k+1}, …, u_t) and the increment d = u_{t+1} − u_t, a regression learns E[d | c], and a diffusion
the denoiser D(x, τ; c) = E[d | x_τ, c] of the law of d given c: it is a denoiser like any other, whose network sees the
past as further channels. Every schedule, loss and solver of the package therefore makes a forecaster:

    schedule edm, loss denoising                    conditional EDM
    schedule linear, loss velocity                  conditional flow matching
    schedule follmer, loss velocity                 the interpolant α_s u_t + β_s u_{t+1} + √s σ_s z; see `Follmer`
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from sciflow.diffusion.loss import Denoising, Loss
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import EDM, Scaled, Schedule
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.types import Time


@dataclass(frozen=True)
class Scale:
    """Normalisation that travels with a forecaster [data units].

    Args:
        mean: of the fields.
        std: of the fields.
        step: root mean square increment from one field to the next.
    """

    mean: float = 0.0
    std: float = 1.0
    step: float = 1.0


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
    """The past (batch, n_given, channel, *grid) as channels of unit variance, (batch, n_given · channel, *grid)."""
    return ((past - scale.mean) / scale.std).flatten(1, 2)


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
        return past[:, -1] + self.scale.step * self.increment(past)

    def loss(self, windows: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
        """Mean square error of the increment over its scale."""
        wanted = (windows[:, -1] - windows[:, -2]) / self.scale.step
        return (self.increment(windows[:, :-1]) - wanted).square().flatten(1).mean(1)

    def finished(self, windows: Tensor) -> RegressionModel:
        grid = tuple(range(-len(self.shape) + 1, 0))
        with torch.no_grad():
            left = torch.cat([part[:, -1] - self.mean(part[:, :-1]) for part in windows.split(256)]).double()
        power = torch.fft.rfftn(left, dim=grid).abs().square().mean(0)
        return replace(self, spectrum=(power / left[0, 0].numel()).sqrt())

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
        increment = windows[:, -1] - windows[:, -2]
        return self.objective(self.denoiser(windows[:, :-1]), increment, stream, step, first)

    def finished(self, windows: Tensor) -> DiffusionModel:
        return self


ForecastModel = RegressionModel | DiffusionModel
"""A trained one-step forecaster."""


@runtime_checkable
class Forecaster(Protocol):
    """An entry of FORECASTERS: how one step of a trajectory is learned."""

    @property
    def n_steps(self) -> int | None: ...

    def fields(self, n_given: int) -> int:
        """How many fields the network sees at once."""
        ...

    def model(self, module: nn.Module, shape: tuple[int, ...], n_given: int, scale: Scale) -> ForecastModel:
        """The forecaster with this network, still untrained."""
        ...


@dataclass(frozen=True)
class Regression:
    """The mean of the next field: a deterministic surrogate.

        minimise E ‖N(c) − d/step‖²;   afterwards the spectrum of the residual is fitted on the validation split

    Exactness: its minimiser is the conditional mean; no single field looks like a mean of many.
    Cost: 1 network call per step.
    Bias: rolled out, means of means: too smooth, and without spread.
    Args:
        n_steps: optimiser steps; null takes those of `train.optimisation`.
    Source: definition.
    """

    n_steps: Annotated[int, Field(gt=0)] | None = None

    def fields(self, n_given: int) -> int:
        return n_given

    def model(self, module: nn.Module, shape: tuple[int, ...], n_given: int, scale: Scale) -> RegressionModel:
        return RegressionModel(module, shape, n_given, scale)


@dataclass(frozen=True)
class ConditionalDiffusion:
    """The law of the next field: a denoiser of the increment that sees the past.

    Exactness: its minimiser is the exact conditional denoiser; draws are as good as training and solver.
    Cost: 1 network call per training row; sampling, 1 per solver call and step.
    Bias: that of the network.
    Args:
        schedule: noise levels, in standard deviations of the increment: edm, linear, follmer, …
        loss: what is minimised: denoising or velocity.
        n_steps: optimiser steps; null takes those of `train.optimisation`.
    Source: Karras et al. (2022) for edm; Lipman et al. (2023) for linear; Chen et al. (2024), Probabilistic forecasting
        with stochastic interpolants and Föllmer processes, for follmer.
    """

    schedule: Schedule = field(default_factory=EDM)
    loss: Loss = field(default_factory=Denoising)
    n_steps: Annotated[int, Field(gt=0)] | None = None

    def fields(self, n_given: int) -> int:
        return n_given + 1

    def model(self, module: nn.Module, shape: tuple[int, ...], n_given: int, scale: Scale) -> DiffusionModel:
        return DiffusionModel(module, shape, n_given, scale, self.schedule, self.loss)


FORECASTERS: dict[str, type] = {"regression": Regression, "conditional_diffusion": ConditionalDiffusion}


@dataclass(frozen=True)
class Forecasts:
    """Named one-step forecasters of one data set, in place of a prior over whole trajectories.

    A rollout asks them one after another; E[x₁ | x_t] of a whole trajectory they do not know.

    Args:
        models: name → forecaster.
        event: shape of a trajectory, (time, *field).
        interval: from one field to the next [time].
    """

    models: dict[str, ForecastModel]
    event: tuple[int, ...]
    interval: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.event

    @property
    def schedule(self) -> Schedule:
        """That of the first generative forecaster: time grids are made for it, and mean its noise levels."""
        known = (model.schedule for model in self.models.values() if isinstance(model, DiffusionModel))
        return next(known, EDM())

    def to(self, dtype: torch.dtype) -> None:
        """Cast the networks."""
        for model in self.models.values():
            model.module.to(dtype)

    def named(self, name: str) -> ForecastModel:
        """The forecaster of this name; "" is the only one.

        Raises:
            InputError: there is none, or more than one and no name.
        """
        if not name and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise InputError(
                f"the model holds the forecasters {sorted(self.models)}, not {name!r}. Name one of them, as in "
                "`train.forecasters`."
            )
        return self.models[name]

    def initial(self, t: float, n: int, stream: Stream, dtype: torch.dtype = torch.float32) -> Tensor:
        """Refuses, as calling does."""
        return self(torch.empty(n, *self.event), t)

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """Refuses.

        Raises:
            InputError: always.
        """
        raise InputError(
            "this prior is a set of one-step forecasters, of whose trajectories no denoiser is known. Use `rollout`, "
            "or train with `kind: network` on whole trajectories."
        )
