"""One-step forecasters: from the last fields of a trajectory to the next one, as a mean or as draws of its law.

With the past c = (u_{t−k+1}, …, u_t) and the increment d = u_{t+1} − u_t, a regression learns E[d | c], and a diffusion
the denoiser D(x, τ; c) = E[d | x_τ, c] of the law of d given c: it is a denoiser like any other, whose network sees the
past as further channels. Every schedule, loss and solver of the package therefore makes a forecaster:

    schedule edm, loss denoising                    conditional EDM
    schedule linear, loss velocity                  conditional flow matching
    schedule follmer, loss velocity                 the interpolant α_s u_t + β_s u_{t+1} + √s σ_s z; see `Follmer`

Parameters of a trajectory, a viscosity say, are told to the network in the same way, as channels that are the same
everywhere, and fields that do not change, a topography say, as channels of their own. Along axes that do not join their
ends a network may be told where each point lies.

A refiner stands between both: a regression, whose answer is noised and denoised a few times at falling levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from sciflow.diffusion.loss import Denoising, Loss
from sciflow.diffusion.one_step import DiffusionModel, ForecastModel, RefinerModel, RegressionModel, Scale, told
from sciflow.diffusion.schedule import EDM, Schedule
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.types import Time

SAME = 1e-6  # relative: a parameter that went through float32 on its way to a file


@runtime_checkable
class Forecaster(Protocol):
    """An entry of FORECASTERS: how one step of a trajectory is learned."""

    @property
    def n_steps(self) -> int | None: ...

    def fields(self, n_given: int) -> int:
        """How many fields the network sees at once, what it is told beside them not counted."""
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


@dataclass(frozen=True)
class PDERefiner:
    """A prediction as a regression makes it, refined at smaller and smaller noise, where weak small scales count.

        σ_k = min_noise^{k/n_refinements};   k = 0: E[d | c];   k ≥ 1: add noise σ_k to the prediction, and denoise it

    Exactness: its first prediction is the conditional mean, and so is the mean of the refined ones where the law is
        Gaussian. It is no sampler of that law: per direction of variance s² (in units of the increment's) the exact
        refiner draws with V_k = g_k² (V_{k−1} + ρ_k²), g_k = s²/(s² + ρ_k²), ρ_k = σ_k/√(1 − σ_k²), always below s²/2.
    Cost: 1 network call per training row; sampling, 1 + n_refinements per step.
    Bias: that of the network, which serves all levels: an error of level k that is larger than σ_{k+1} is out of what
        level k + 1 was trained on, so the loss of level k must fall below (σ_{k+1}/σ_k)².
    Args:
        n_refinements: K; 0 is a regression.
        min_noise: σ_K, in standard deviations of the increment; 6·10⁻⁴ in the authors' code, which states its square.
        n_steps: optimiser steps; null takes those of `train.optimisation`.
    Source: Lippe, Veeling, Perdikaris, Turner and Brandstetter (2023), PDE-Refiner, section 3.1, with the v-prediction
        of Salimans and Ho (2022), appendix D; the variances follow from x_k and the denoiser of a Gaussian.
    """

    n_refinements: Annotated[int, Field(ge=0)] = 3
    min_noise: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    n_steps: Annotated[int, Field(gt=0)] | None = None

    def fields(self, n_given: int) -> int:
        return n_given + 1

    def model(self, module: nn.Module, shape: tuple[int, ...], n_given: int, scale: Scale) -> RefinerModel:
        return RefinerModel(module, shape, n_given, scale, self.n_refinements, self.min_noise)


FORECASTERS: dict[str, type] = {
    "regression": Regression,
    "conditional_diffusion": ConditionalDiffusion,
    "pde_refiner": PDERefiner,
}


@dataclass(frozen=True)
class Forecasts:
    """Named one-step forecasters of one data set, in place of a prior over whole trajectories.

    A rollout asks them one after another; E[x₁ | x_t] of a whole trajectory they do not know.

    Args:
        models: name → forecaster.
        event: shape of a trajectory, (time, *field).
        interval: from one field to the next [time].
        parameters: name → number, what these trajectories are told of; empty before `given`.
        constants: name → field that does not change (*grid), likewise.
    """

    models: dict[str, ForecastModel]
    event: tuple[int, ...]
    interval: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def scale(self) -> Scale:
        """The normalisation, which all forecasters share."""
        return next(iter(self.models.values())).scale

    def given(self, parameters: Mapping[str, float], constants: Mapping[str, Tensor] | None = None) -> Forecasts:
        """The forecasts of trajectories with these parameters and constant fields (*grid); others are left out.

        Raises:
            InputError: one is missing, not finite or on another grid, or differs from the only value that training saw.
        """
        return replace(self, parameters=self._numbers(parameters), constants=self._maps(constants or {}))

    def _numbers(self, parameters: Mapping[str, float]) -> dict[str, float]:
        """The parameters that are asked for."""
        asked, found = self.scale.parameters, {}
        for name, (mean, std) in asked.items():
            value = parameters.get(name)
            if value is None or not math.isfinite(value):
                raise InputError(
                    f"the forecasters are told of {sorted(asked)}, but for this state {name!r} is "
                    f"{'missing' if value is None else value}; known are {sorted(parameters)}. Give a number for it: "
                    f"`parameter_{name}` in a file of your own."
                )
            if std == 0 and not math.isclose(value, mean, rel_tol=SAME):
                raise InputError(
                    f"the forecasters were trained at {name} = {mean:g} alone, and cannot tell of {value:g}. "
                    f"Train on trajectories in which {name} differs."
                )
            found[name] = float(value)
        return found

    def _maps(self, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The constant fields that are asked for."""
        asked, grid, found = self.scale.constants, tuple(next(iter(self.models.values())).shape[1:]), {}
        for name, (mean, std) in asked.items():
            value = constants.get(name)
            if value is None or tuple(value.shape) != grid or not bool(value.isfinite().all()):
                wrong = "missing" if value is None else f"of shape {tuple(value.shape)}"
                if value is not None and tuple(value.shape) == grid:
                    wrong = "not finite everywhere"
                raise InputError(
                    f"the forecasters are told of the constant fields {sorted(asked)}, but for this state {name!r} is "
                    f"{wrong}; known are {sorted(constants)}. Give finite numbers of shape {grid}: "
                    f"`constant_{name}` in a file of your own."
                )
            if std == 0 and not bool(((value.double() - mean).abs() <= SAME * abs(mean)).all()):
                raise InputError(
                    f"the forecasters were trained with {name} = {mean:g} everywhere, and cannot tell of other values. "
                    f"Train on trajectories in which {name} differs."
                )
            found[name] = value
        return found

    def beside(self, n: int, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What n rows of these trajectories are `told`: numbers (n, n_shown) and fields (n, n_mapped, *grid), or None.

        Args:
            n: rows.
            like: a tensor of their dtype and device.
        """
        numbers = self.scale.channels(self.parameters)
        maps = self.scale.maps({name: value[None] for name, value in self.constants.items()})
        return (
            None if numbers is None else numbers.to(like).expand(n, -1),
            None if maps is None else maps.to(like).expand(n, *maps.shape[1:]),
        )

    def flow(self, name: str = "") -> Callable[[Tensor], Tensor]:
        """One step of a regression as a map of states, each the last fields one after another.

            (u_{t−k+1}, …, u_t) ↦ (u_{t−k+2}, …, û_{t+1}),   k = n_given

        `lyapunov_spectrum` says how fast its trajectories part.

        Args:
            name: of the forecaster; "" is the only one.

        Returns:
            (rows, k · channel · points) → the same, each row for itself.

        Raises:
            InputError: a forecaster that draws, or one that was not told what it asks for.
        """
        model, told_of = self.named(name), self.given(self.parameters, self.constants)
        if not isinstance(model, RegressionModel):
            raise InputError(
                "this forecaster draws its next field, and two of its trajectories part by chance. Name a regression."
            )

        def step(states: Tensor) -> Tensor:
            past = states.reshape(-1, model.n_given, *model.shape)
            following = model.mean(told(past, *told_of.beside(len(past), past)))
            return torch.cat([past[:, 1:], following[:, None]], 1).reshape(states.shape)

        return step

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
