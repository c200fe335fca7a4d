"""train: what learns it? Writes model.pt: a denoiser, its normalisation and the history of its loss."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sciflow.data.layouts.simulations import grid_of
from sciflow.data.schema import BOX, DATA, check
from sciflow.diffusion.centred import CentredModule, free_coordinates
from sciflow.diffusion.forecast import ConditionalDiffusion, Forecaster, Forecasts, Regression
from sciflow.diffusion.loss import Denoising, Loss
from sciflow.diffusion.model import pack
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.one_step import ForecastModel, Scale
from sciflow.diffusion.schedule import Cosine, Scaled, Schedule
from sciflow.errors import InputError
from sciflow.networks.mlp import Network
from sciflow.networks.unet import UNet
from sciflow.random import Stream
from sciflow.stages.artefact import Job, device
from sciflow.stages.costs import of_ranks
from sciflow.stages.given import ClosedForm
from sciflow.stages.learned import Learned, Training
from sciflow.stages.rows import (
    bounded,
    check_grid,
    constants,
    interval,
    moments,
    parameters,
    rows,
    scored,
    trajectories,
)
from sciflow.training.checkpoint import Checkpoint, save
from sciflow.training.launch import rank_environment, ranks
from sciflow.training.loop import Fitted, fit
from sciflow.training.optimisation import Optimisation
from sciflow.training.windows import Windows

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class NetworkTraining:
    """Train a network to denoise the training split.

        minimise E ‖D(x_t, t) − x₁‖² over levels, with exponentially averaged weights

    Exactness: as the loss and the network allow; the validation loss and the calibration of samples show it
    Cost: n_steps × batch_size network calls, forward and backward
    Bias: that of the network, and of finite data
    Args:
        network: architecture.
        schedule: noise levels, in standard deviations of the data.
        loss: what is minimised.
        optimisation: how.
        centred: diffuse particles about their centre, which stays at 0, in (particles − 1) × axes free coordinates; the
            network sees positions. Not with the loss `fokker_planck`.
    Raises:
        InputError: data that cannot be learned so.
    Source: Karras et al. (2022), section 5; for the centre Hoogeboom et al. (2022), Equivariant diffusion for molecule
        generation in 3D, section 3.
    """

    network: Network = field(default_factory=UNet)
    schedule: Schedule = field(default_factory=Cosine)
    loss: Loss = field(default_factory=Denoising)
    optimisation: Optimisation = field(default_factory=Optimisation)
    centred: bool = False

    def look(self, where: str, data: xr.Dataset) -> None:
        """Raise InputError where the network does not fit the grid of the data."""
        check_grid(where, data, self.network)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        self.look(str(job.inputs.get("data", "data.nc")), data)
        train, validation = rows(data, "train"), rows(data, "validation")
        shape, build = tuple(train.shape[1:]), self.network.build
        if self.centred:
            train, validation = (free_coordinates(x, data["data"].dims) for x in (train, validation))
            mean, std = 0.0, float(train.double().square().mean().sqrt())
        else:
            mean, std = moments(train)
        device(job.device)
        with ranks(job.device) as place, torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.stream.child("weights").key())  # modules draw from the default generator
            module = CentredModule(build(shape)) if self.centred else build(shape)
            untrained = NetworkDenoiser(module.to(place), Scaled(self.schedule, std), tuple(train.shape[1:]), mean)
            bound = scored(self.loss, job.domain, data, torch.cat([train, validation]), std, self.centred)

            def loss(module: nn.Module, batch: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
                return bound(replace(untrained, module=module), batch, stream, step, first)

            keep = Checkpoint(checkpoint, job.scratch) if checkpoint else None
            fitted = fit(
                untrained.module, loss, train, validation, self.optimisation, job.stream,
                checkpoint=keep, deadline=job.deadline,
            )  # fmt: skip
            cost = of_ranks()
        denoiser = replace(untrained, module=fitted.module.cpu())
        facts = _facts(fitted, self.optimisation)
        return Learned(pack(denoiser, self.network), asdict(fitted.history), {**facts, **cost})


def _facts(fitted: Fitted, optimisation: Optimisation) -> dict[str, Any]:
    """What is told of a training; `network_rows` are those of all batches, each forward and backward."""
    n_parameters, n_steps = sum(p.numel() for p in fitted.module.parameters()), len(fitted.history.loss)
    told = {"steps": n_steps, "stopped": fitted.stopped, "training_seconds": fitted.seconds}
    return {"parameters": n_parameters, **told, "network_rows": n_steps * optimisation.batch_size}


def _default_forecasters() -> dict[str, Forecaster]:
    return {"mean": Regression(), "EDM": ConditionalDiffusion()}


@dataclass(frozen=True)
class ForecastTraining:
    """Train one-step forecasters, each on its own, on successive fields of the training trajectories.

        (u_{t−k+1}, …, u_t) → u_{t+1},   k = n_given

    Exactness: as each forecaster and the network allow; ensemble scores against lead time show it
    Cost: n_steps × batch_size network calls, forward and backward, for each forecaster
    Bias: that of the network; errors of one step add up in a rollout
    Args:
        network: architecture of all of them; fields enter as channels.
        forecasters: name → what is learned.
        n_given: fields that they look back on.
        optimisation: how; a forecaster may have an n_steps of its own.
        parameters: numbers of each trajectory (a viscosity, say) that the networks are told, by their names in the
            data; normalised over the training split, as constant channels. One that never differs changes nothing.
        constants: fields on the grid that do not change (a permeability, a mask, a topography), likewise, as channels.
        boundary: also tell where each point lies along the axes that the data say are a wall or open, from −1 to 1, so
            that networks that treat all points alike know the ends.
    Source: sciflow.diffusion.forecast.
    """

    network: Network = field(default_factory=UNet)
    forecasters: dict[str, Forecaster] = field(default_factory=_default_forecasters)
    n_given: Annotated[int, Field(gt=0)] = 1
    optimisation: Optimisation = field(default_factory=Optimisation)
    parameters: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    boundary: bool = False

    def look(self, where: str, data: xr.Dataset) -> None:
        """Raise InputError where the data are no trajectories of equal steps that the network fits, and long enough."""
        check_grid(where, data, self.network, self.boundary)
        self._windows(data)
        interval(data)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        check_grid(str(job.inputs.get("data", "data.nc")), data, self.network, self.boundary)
        train, validation, scale = self._windows(data)
        every, models, histories, facts = interval(data), {}, {}, {}
        device(job.device)
        with ranks(job.device) as place:
            for name, forecaster in self.forecasters.items():
                keep = checkpoint and checkpoint.with_stem(hashlib.sha256(name.encode()).hexdigest()[:16])
                fitted = self._fit(job, name, forecaster, scale, train, validation, keep, place)
                model = self._model(forecaster, fitted.module.cpu(), train, scale)
                models[name] = model.finished(validation[torch.arange(len(validation))])
                histories[name] = asdict(fitted.history)
                facts[name] = _facts(fitted, self.optimisation)
            cost = {"network_rows": sum(one["network_rows"] for one in facts.values()), **of_ranks()}
        forecasts = Forecasts(models, tuple(data["data"].shape[1:]), every)
        return Learned(pack(forecasts, self.network), {"forecasters": histories}, {"forecasters": facts, **cost})

    def _windows(self, data: xr.Dataset) -> tuple[Windows, Windows, Scale]:
        """Pieces to train on and to validate with, and their normalisation."""
        numbers, known = parameters(data, self.parameters)
        fixed, known_fixed = constants(data, self.constants)
        ends = bounded(json.loads(data.attrs.get("boundary", "{}")), grid_of(data)) if self.boundary else ()
        fields = {name: trajectories(data, name) for name in ("train", "validation")}
        step = float(fields["train"].diff(dim=1).square().mean().sqrt())
        scale = Scale(*moments(fields["train"]), step, known, known_fixed, ends)
        shown, labels = (scale.channels(numbers), scale.maps(fixed)), data["split"].to_numpy()

        def windows(name: str) -> Windows:
            own = (None if told is None else told[torch.as_tensor(labels == name)].float() for told in shown)
            return Windows(fields[name], self.n_given + 1, *own)

        train, validation = windows("train"), windows("validation")
        return train, validation, scale

    def _model(self, forecaster: Forecaster, module: nn.Module, train: Windows, scale: Scale) -> ForecastModel:
        return forecaster.model(module, tuple(train.trajectories.shape[2:]), self.n_given, scale)

    def _fit(
        self,
        job: Job,
        name: str,
        forecaster: Forecaster,
        scale: Scale,
        train: Windows,
        validation: Windows,
        checkpoint: Path | None,
        place: torch.device,
    ) -> Fitted:
        channels, *grid = train.trajectories.shape[2:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.stream.child("weights", name).key())  # modules draw from the default generator
            n_channels = forecaster.fields(self.n_given) * channels + scale.n_beside
            module = self.network.build((n_channels, *grid)).to(place)

        def loss(module: nn.Module, batch: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
            return self._model(forecaster, module, train, scale).loss(batch, stream, step, first)

        options = replace(self.optimisation, n_steps=forecaster.n_steps or self.optimisation.n_steps)
        keep = Checkpoint(checkpoint, job.scratch) if checkpoint else None
        return fit(
            module, loss, train, validation, options, job.stream.child(name), checkpoint=keep, deadline=job.deadline
        )


def check_images(training: Training, are_there: bool) -> None:
    """Refuse to learn where atoms are that have images in a periodic box.

    Raises:
        InputError: they have, and the training is not that in closed form, which draws frames alone.
    """
    if are_there and not isinstance(training, ClosedForm):
        raise InputError(
            "train: the data are of a periodic box, in which an atom is the same in every cell, but a network would "
            "take its images for other places. Use `train: {kind: closed_form}`, or a molecule without a box."
        )


def run(job: Job, training: Training) -> None:
    """Train the prior of a run; continue from the last checkpoint, if there is one.

    Raises:
        InputError: bad data or model file.
        NonFiniteError: the loss diverged; the last good checkpoint is kept.
        OutOfTime: the deadline is near; the state is saved.
    """
    data = job.open_data()
    check(data, DATA, str(job.inputs["data"]))
    check_images(training, BOX in data.attrs)
    state = job.open_state()
    checkpoint = state.directory / state.key / "checkpoint.pt" if state else None
    if int(rank_environment(os.environ).get("RANK", 0)) > 0:
        training.learn(job, data, checkpoint)  # the first rank alone holds the lock and writes
        return
    with state or contextlib.nullcontext(), job.named():
        if job.put_back(state):
            return
        learned = training.learn(job, data, checkpoint)
        content: Mapping[str, Any] = {**learned.model, "history": learned.history, "header": job.header().attributes()}
        save(job.out, content, "model")
        job.sign(**learned.facts)
        job.finish(state)
