"""Ensemble rollouts: one-step forecasters, asked again and again from the state that an observation gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.denoiser import Counted, Denoiser
from sciflow.diffusion.flow import probability_flow
from sciflow.diffusion.forecast import Forecasts
from sciflow.diffusion.one_step import DiffusionModel, ForecastModel, RefinerModel, RegressionModel, told
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.likelihood import Likelihood
from sciflow.inverse.moments import linear_gaussian
from sciflow.inverse.shared import Progress
from sciflow.particles.particles import Particles
from sciflow.random import Stream
from sciflow.solvers.exponential import EABM
from sciflow.solvers.solve import Solver, solve
from sciflow.solvers.times import checked

NonNegative = Annotated[float, Field(ge=0)]


def given_fields(prior: Denoiser, likelihood: Likelihood, n_given: int) -> Tensor:
    """The first fields of a trajectory, as the observation gives them, (n_given, *field).

    Raises:
        InputError: the observation is anything but the whole of the first n_given fields or more.
    """
    gaussian = linear_gaussian(likelihood, tuple(prior.shape), "Rollout")
    y, event = gaussian.observation, tuple(prior.shape)
    size = int(torch.tensor(event[1:]).prod())
    n_seen = len(y) // size
    read = gaussian.operator.adjoint(y[None])[0]
    if len(y) != n_seen * size or n_seen < n_given or not torch.equal(read[:n_seen].flatten(), y):
        raise InputError(
            f"a rollout starts from the first {n_given} field(s) of a trajectory as a whole, {n_given * size} numbers, "
            f"got an observation of {len(y)}. Use `operator: {{kind: sensors, stride: 1, channels: {n_given}}}` in "
            "`sample.likelihood`, and data that are observed so."
        )
    return read[:n_seen]


def increment(
    model: DiffusionModel | RefinerModel, past: Tensor, levels: Tensor, solver: Solver, stream: Stream
) -> tuple[Tensor, int]:
    """Draws of u_{t+1} − u_t given the past, (batch, channel, *grid), and the network calls of a row.

    Args:
        model: that draws.
        past: (batch, n_given, channel + n_told, *grid).
        levels: log-SNR of the grid on which a diffusion is solved, (n_steps + 1,).
        solver: of its flow.
        stream: of the noise of these rows.
    """
    if isinstance(model, RefinerModel):
        return model.increment(past, stream), model.n_refinements + 1
    denoiser = Counted(model.denoiser(past))
    grid = model.schedule.time(levels)
    x = denoiser.initial(float(grid[0]), len(past), stream.child("initial"), past.dtype).to(past.device)
    x = solve(probability_flow(denoiser), x, grid, solver, stream=stream.child("solver"))
    if float(denoiser.schedule.sigma(grid[-1])) > 0:
        x = denoiser(x, grid[-1])
    return x, denoiser.rows // len(past)


@dataclass(frozen=True)
class Rollout:
    """Forecast a trajectory field by field, each member with random numbers of its own.

        u_{t+1} = u_t + d,   d ~ the forecaster's law of the increment given the last fields

    A conditional diffusion draws d by its flow, or with noise (solver `eabm` with eta: 1 on a Föllmer schedule is the
    Föllmer process). A regression gives its mean, to which the fitted residual may be added, every step or only once to
    the state it starts from. A refiner noises and refines its prediction. The state is taken as the observation gives
    it: sigma of the likelihood is not looked at.

    Target: the law of trajectories from the given fields, p(u_{t+1}, …, u_H | u_{≤ t}).
    Exactness: as good as the forecaster; for a Markov chain, exact with an exact one.
    Cost: one network call per solver call, step and member; of a refiner, one per level, step and member.
    Bias: errors of one step add up; a regression without noise has no spread at all. Noise costs steps: on a Gaussian
        chain eight steps of the flow give the variance to 2 %, while with eta: 1 it is off by a factor of two, and 24
        steps of order 3 are needed for 1 %.
    Args:
        forecaster: its name in `train.forecasters`; "" is the only one.
        solver: of the flow of a conditional diffusion; the grid is `sample.times`, in noise levels of the increment.
        residual: share of the fitted residual noise that is added to each step of a regression.
        perturbation: standard deviation of a perturbation of the given state, shaped like the fitted residual of a
            regression and in its units.
        limit: a field whose root mean square is so many times that of the training data has blown up.
    Raises:
        InputError: another prior, an observation that is not the first fields, or options that do not fit.
        NonFiniteError: a blow-up; names time and norm.
    Source: Chen et al. (2024), Probabilistic forecasting with stochastic interpolants and Föllmer processes, section 4,
        for repeated one-step draws.
    """

    forecaster: str = ""
    solver: Solver = field(default_factory=lambda: EABM(order=3))
    residual: NonNegative = 0.0
    perturbation: NonNegative = 0.0
    limit: Annotated[float, Field(gt=0)] = 20.0

    def __call__(
        self,
        prior: Denoiser,
        likelihood: Likelihood,
        times: Tensor | Sequence[float],
        n: int,
        stream: Stream,
        on_step: Progress | None = None,
    ) -> Particles:
        forecasts = prior.denoiser if isinstance(prior, Counted) else prior
        if not isinstance(forecasts, Forecasts):
            raise InputError("a rollout needs one-step forecasters. Use `train: {kind: forecast}`.")
        if n < 1:
            raise InputError(f"a posterior needs n ≥ 1 draws, got {n}.")
        model = forecasts.named(self.forecaster)
        self._check(model)
        forecasts = forecasts.given(forecasts.parameters, forecasts.constants)  # refuses where one is missing
        start = given_fields(forecasts, likelihood, model.n_given)
        levels = forecasts.schedule.log_snr(torch.as_tensor(checked(times), dtype=torch.float64))
        members = []
        with torch.no_grad():
            for first in range(0, n, stream.tile):  # whole tiles: a member is the same in any company
                rows = stream.rows_from(first)
                report = on_step if first == 0 else None
                tile = self._tile(model, forecasts, start, levels, rows, prior, min(stream.tile, n - first), report)
                members.append(tile)
        return Particles.equal(torch.cat(members))

    def _check(self, model: ForecastModel) -> None:
        if not isinstance(model, RegressionModel) and (self.residual or self.perturbation):
            raise InputError(
                "`residual` and `perturbation` are for a regression, whose residual was fitted; a conditional "
                "diffusion and a refiner draw their own noise. Set them to 0."
            )

    def _tile(
        self,
        model: ForecastModel,
        forecasts: Forecasts,
        start: Tensor,
        levels: Tensor,
        stream: Stream,
        tally: Denoiser,
        n_wanted: int,
        on_step: Progress | None,
    ) -> Tensor:
        """One tile of members, (n_wanted, *event)."""
        n, n_steps, k = stream.tile, forecasts.event[0] - len(start), model.n_given

        def white(own: Stream, step: int = 0) -> Tensor:
            return own.normal(n, model.shape, step=step, dtype=start.dtype, device=start.device)

        beside = forecasts.beside(n, start)
        path = [field.reshape(model.shape).expand(n, *model.shape) for field in start]
        if isinstance(model, RegressionModel) and self.perturbation:
            path[-1] = path[-1] + self.perturbation * model.residual(white(stream.child("perturbation")))
        for step in range(n_steps):
            past = told(torch.stack(path[-k:], 1), *beside)
            if isinstance(model, RegressionModel):
                path.append(model.mean(past))
                if self.residual:
                    path[-1] = path[-1] + self.residual * model.residual(white(stream.child("residual"), step))
                n_calls = 1
            else:
                drawn, n_calls = increment(model, past, levels, self.solver, stream.child("step", step))
                path.append(path[-1] + drawn)
            if isinstance(tally, Counted):
                tally.rows += n_calls * n_wanted
            self._refuse_blow_up(path[-1][:n_wanted], model, (len(path) - 1) * forecasts.interval)
            if on_step is not None:
                on_step(step + 1, n_steps)
        return torch.stack(path, 1)[:n_wanted].reshape(n_wanted, *forecasts.event)

    def _refuse_blow_up(self, fields: Tensor, model: ForecastModel, time: float) -> None:
        """Stop where a field is not finite, or out of all proportion to the training data."""
        norm = float((fields - model.scale.mean).flatten(1).square().mean(1).sqrt().max())
        if not norm <= self.limit * model.scale.std:
            raise NonFiniteError(
                f"the rollout of {self.forecaster or 'the forecaster'!r} blows up at time {time:g}: a field has root "
                f"mean square {norm:.3g}, the training data {model.scale.std:.3g}. Forecast a shorter time, train "
                "longer, or raise `limit` if such fields are meant."
            )
