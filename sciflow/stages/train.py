"""train: what learns it? Writes model.pt: a denoiser, its normalisation and the history of its loss."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sciflow.data.arrays import from_xarray
from sciflow.data.schema import DATA, check
from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.loss import Denoising, Loss
from sciflow.diffusion.model import load, pack
from sciflow.diffusion.network import NetworkDenoiser
from sciflow.diffusion.schedule import Cosine, Scaled, Schedule
from sciflow.domains.protocol import question
from sciflow.errors import InputError
from sciflow.networks.mlp import Network
from sciflow.networks.unet import UNet
from sciflow.random import Stream
from sciflow.stages.artefact import Job, device
from sciflow.training.checkpoint import Checkpoint, save
from sciflow.training.checkpoint import load as read_checkpoint
from sciflow.training.launch import rank_environment, ranks
from sciflow.training.loop import fit
from sciflow.training.optimisation import Optimisation

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Learned:
    """A denoiser in the form in which it is stored, with what is worth telling of its making."""

    model: dict[str, Any]
    history: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Training(Protocol):
    """An entry of TRAININGS: how the prior comes to be."""

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        """The prior of this data set."""
        ...


def rows(data: xr.Dataset, split: str) -> Tensor:
    """The events of one split, float32, (sample, *event).

    Raises:
        InputError: the split is empty.
    """
    chosen = data["data"][data["split"].to_numpy() == split]
    if chosen.shape[0] == 0:
        raise InputError(f"data.nc has no sample in the split {split!r}. Raise its share in `dataset`.")
    return from_xarray(chosen, dtype=torch.float32)


def moments(train: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all numbers of the training set: the normalisation of the model.

    Raises:
        InputError: the data are constant.
    """
    mean, std = float(train.double().mean()), float(train.double().std())
    if not math.isfinite(std) or std == 0:
        raise InputError(f"the training data have standard deviation {std}. Give data that vary.")
    return mean, std


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
    Source: Karras et al. (2022), section 5.
    """

    network: Network = field(default_factory=UNet)
    schedule: Schedule = field(default_factory=Cosine)
    loss: Loss = field(default_factory=Denoising)
    optimisation: Optimisation = field(default_factory=Optimisation)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        train, validation = rows(data, "train"), rows(data, "validation")
        mean, std = moments(train)
        shape = tuple(train.shape[1:])
        device(job.device)
        with ranks(job.device) as place, torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.stream.child("weights").key())  # modules draw from the default generator
            untrained = NetworkDenoiser(self.network.build(shape).to(place), Scaled(self.schedule, std), shape, mean)

            def loss(module: nn.Module, batch: Tensor, stream: Stream, step: int, first: int = 0) -> Tensor:
                return self.loss(replace(untrained, module=module), batch, stream, step, first)

            keep = Checkpoint(checkpoint) if checkpoint else None
            fitted = fit(
                untrained.module, loss, train, validation, self.optimisation, job.stream,
                checkpoint=keep, deadline=job.deadline,
            )  # fmt: skip
        denoiser = replace(untrained, module=fitted.module.cpu())
        parameters = sum(p.numel() for p in fitted.module.parameters())
        facts = {"steps": len(fitted.history.loss), "stopped": fitted.stopped, "training_seconds": fitted.seconds}
        return Learned(pack(denoiser, self.network), asdict(fitted.history), {"parameters": parameters, **facts})


@dataclass(frozen=True)
class ClosedForm:
    """No training: the exact denoiser of the data's law, where the domain knows one.

    Exactness: exact for the analytic domain; the empirical law of the training images for the imaging domain
    Cost: none
    Bias: none for the analytic domain; an empirical prior can only return training images
    Args:
        schedule: noise levels, in standard deviations of the data.
    Source: sciflow.diffusion.mixture.
    """

    schedule: Schedule = field(default_factory=Cosine)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        _, std = moments(rows(data, "train"))
        return Learned(pack(question(job.domain, "train").closed_form(data, Scaled(self.schedule, std))))


@dataclass(frozen=True)
class FromFile:
    """Your own trained prior, a model.pt of another run.

    Exactness: that of the model
    Cost: none
    Bias: none is added; its event shape must be that of the data
    Args:
        path: the model.pt.
    Source: definition.
    """

    path: str = ""

    def denoiser(self) -> Denoiser:
        """The prior in the file. Raises InputError where there is none."""
        read_checkpoint(Path(self.path), "model")
        return load(self.path)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        denoiser = self.denoiser()
        shape = tuple(data["data"].shape[1:])
        if tuple(denoiser.shape) != shape:
            raise InputError(
                f"train.path {self.path} is a model of events of shape {tuple(denoiser.shape)}, but the data have "
                f"{shape}. Use a model of such events, or other data."
            )
        stored = read_checkpoint(Path(self.path), "model")
        model = {key: value for key, value in stored.items() if key not in ("history", "header")}
        return Learned(model, stored.get("history", {}))


def run(job: Job, training: Training) -> None:
    """Train the prior of a run; continue from the last checkpoint, if there is one.

    Raises:
        InputError: bad data or model file.
        NonFiniteError: the loss diverged; the last good checkpoint is kept.
        OutOfTime: the deadline is near; the state is saved.
    """
    data = job.open_data()
    check(data, DATA, str(job.inputs["data"]))
    state = job.open_state()
    checkpoint = state.directory / state.key / "checkpoint.pt" if state else None
    if int(rank_environment(os.environ).get("RANK", 0)) > 0:
        training.learn(job, data, checkpoint)  # the first rank alone holds the lock and writes
        return
    with state or contextlib.nullcontext(), job.named():
        learned = training.learn(job, data, checkpoint)
        content: Mapping[str, Any] = {**learned.model, "history": learned.history, "header": job.header().attributes()}
        save(job.out, content, "model")
        job.sign(**learned.facts)
        if state:
            state.clear()
