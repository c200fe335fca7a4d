"""train without training: closed forms, equations that are known, and models that came from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sciflow.diffusion.centred import event_shape
from sciflow.diffusion.denoiser import Denoiser
from sciflow.diffusion.model import load, pack
from sciflow.diffusion.own import OwnDenoiser, Predicts, Told
from sciflow.diffusion.schedule import EDM, Cosine, Scaled, Schedule
from sciflow.domains.protocol import Dataset, question
from sciflow.errors import InputError
from sciflow.networks.mlp import Network
from sciflow.networks.unet import UNet
from sciflow.random import Stream
from sciflow.solvers.state_space import HiddenChain
from sciflow.stages.artefact import Job
from sciflow.stages.learned import Learned
from sciflow.stages.rows import moments, rows
from sciflow.training import own
from sciflow.training.checkpoint import load as read_checkpoint

if TYPE_CHECKING:
    import xarray as xr


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
class KnownEquation:
    """No training: the equation that made the data, for filters that follow it in time.

    Of paths of Lorenz' equations, and of fields of the data set `kicked` that are measured in time. What is assumed may
    differ from what is true, so that a wrong model can be tested.

    Exactness: exact, as far as the solver is and the assumptions are true
    Cost: none
    Bias: that of wrong assumptions
    Args:
        n_substeps: steps of the solver between two times; null: as many as the data were made with.
        model_noise: assumed standard deviation of the noise of one move [data units]; null: that of the data.
    Source: sciflow.solvers.state_space.
    """

    n_substeps: Annotated[int, Field(gt=0)] | None = None
    model_noise: Annotated[float, Field(ge=0)] | None = None

    def chain(self, dataset: Dataset) -> HiddenChain | None:
        """The chain that a data set offers, as far as it is known before the data are made; None where it offers none.

        Raises:
            InputError: what is assumed does not fit it, or it has none with these options.
        """
        space = getattr(dataset, "space", None)
        if not isinstance(space, HiddenChain):
            return None
        return space.assuming(self.n_substeps, self.model_noise)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        known = getattr(question(job.domain, "train"), "dynamics", None)
        if known is None:
            raise InputError(f"domain {job.domain!r} knows no equation of its data. Use another kind of training.")
        return Learned(pack(known(data, self.n_substeps, self.model_noise)))


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
        if event_shape(denoiser) != shape:
            raise InputError(
                f"train.path {self.path} is a model of events of shape {event_shape(denoiser)}, but the data have "
                f"{shape}. Use a model of such events, or other data."
            )
        stored = read_checkpoint(Path(self.path), "model")
        model = {key: value for key, value in stored.items() if key not in ("history", "header")}
        return Learned(model, stored.get("history", {}))


@dataclass(frozen=True)
class OwnNetwork:
    """Your own denoiser: a network of a plugin that was trained elsewhere, in its own conventions.

    Held-out images at five noise levels try it first; what it leaves of them goes into model.pt as `denoising`.

    Exactness: that of the network
    Cost: some 70 network calls of 64 rows
    Bias: that of the network, and of training images that were others than these
    Args:
        network: an entry of NETWORKS, most likely of a plugin; `build(shape)` gives a module (x, c) -> like x.
        path: its weights, as `torch.save(network.state_dict(), path)` writes them; null where `build` gives all.
        schedule: noise levels that it was trained with, in its own units.
        predicts: what it answers; `v` is α x₀ − σ x₁, `velocity` the rate of x_t in the time that it is told.
        told: c, one number for each row: σ/α, its logarithm, t (1 at the data) or s = 1 − t.
        offset: what it takes for 0 [data units].
        scale: what it takes for 1 [data units].
    Raises:
        InputError: weights of another network, or one that does not denoise the held-out images.
    Source: sciflow.diffusion.own.
    """

    network: Network = field(default_factory=UNet)
    path: str | None = None
    schedule: Schedule = field(default_factory=EDM)
    predicts: Predicts = "data"
    told: Told = "sigma"
    offset: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0

    def tried(self, data: xr.Dataset, stream: Stream) -> tuple[OwnDenoiser, dict[str, float]]:
        """The denoiser, and what it leaves of held-out images; InputError if that is too much."""
        (mean, std), held_out = moments(rows(data, "train")), rows(data, "validation")
        shape = tuple(held_out.shape[1:])
        conventions = (mean, self.offset, self.scale, self.predicts, self.told)
        module = own.built(self.network, shape, self.path)
        denoiser = OwnDenoiser(module, Scaled(self.schedule, std), shape, *conventions)
        return denoiser, own.examined(denoiser, held_out, stream)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        with job.ending():
            denoiser, ratios = self.tried(data, job.stream.child("examination"))
        return Learned(pack(denoiser, self.network), facts={"denoising": ratios})
