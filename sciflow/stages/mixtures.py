"""Gaussian mixtures as priors, of whole events and of pieces of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.diffusion.model import pack
from sciflow.diffusion.patched import PatchedDenoiser
from sciflow.diffusion.schedule import Cosine, Scaled, Schedule
from sciflow.diffusion.subspace import SubspaceDenoiser, SubspaceMixture
from sciflow.errors import InputError
from sciflow.random import Stream
from sciflow.stages.artefact import Job
from sciflow.stages.learned import Learned
from sciflow.stages.rows import moments, rows
from sciflow.training.mixture import fit_mixture

if TYPE_CHECKING:
    import xarray as xr

Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class MixtureTraining:
    """A Gaussian mixture fitted to the training split, whose denoiser is then exact.

        x = U z + c + width (I − U Uᵀ) ε,   z ~ Σ_k w_k N(m_k, C_k),   U the leading principal directions

    Exactness: the denoiser is exact for the fitted law, which is that of the data as far as they are a mixture
    Cost: one eigendecomposition of the covariance, n_iterations passes over the data
    Bias: that of the fit; the validation row of its log-density shows it
    Args:
        n_components: of the mixture.
        n_directions: principal directions with full covariances; outside them all directions are alike.
        n_iterations: most iterations of expectation maximisation.
        symmetries: also learn from the images turned by quarter turns and mirrored; they must be square.
        schedule: noise levels, in standard deviations of the data.
    Source: Zoran and Weiss (2011), From learning models of natural image patches to whole image restoration.
    """

    n_components: Count = 4
    n_directions: Count = 128
    n_iterations: Count = 30
    symmetries: bool = False
    schedule: Schedule = field(default_factory=Cosine)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        train, held_out = rows(data, "train"), rows(data, "validation")
        _, std = moments(train)
        shape = tuple(train.shape[1:])
        if self.symmetries:
            if len(shape) < 2 or shape[-1] != shape[-2]:
                raise InputError(f"train.symmetries needs square images, got events of shape {shape}. Leave it out.")
            train = _turned(train)
        law, sets = _fitted(self, train, job), {"train": train, "validation": held_out}
        return Learned(pack(SubspaceDenoiser(law, Scaled(self.schedule, std), shape)), facts=_densities(law, sets))


@dataclass(frozen=True)
class PatchMixtureTraining:
    """A Gaussian mixture fitted to small pieces of the training images, as a prior of images of any size.

        D(x) = (stride/size)² Σ_i R_iᵀ D_piece(R_i x),   R_i the overlapping pieces of the image

    Exactness: the denoiser of a piece is exact for the fitted law; that of the image is the score of the product of all
        pieces' laws, which is no law of images unless pixels are independent: see `PatchedDenoiser`
    Cost: the fit of `mixture` to n_pieces; each denoiser call one row for every piece
    Bias: what is farther apart than a piece is not correlated: structures of that size are left to the measurement
    Args:
        size: side of a piece [pixels].
        stride: from one piece to the next, a divisor of `size` and of the sides of the images [pixels].
        n_pieces: pieces that are learned from, at random places; as many are held out.
        n_components: of the mixture.
        n_directions: principal directions with full covariances; outside them all directions are alike.
        n_iterations: most iterations of expectation maximisation.
        symmetries: also learn from the pieces turned by quarter turns and mirrored.
        schedule: noise levels, in standard deviations of the data.
    Source: Zoran and Weiss (2011), From learning models of natural image patches to whole image restoration.
    """

    size: Annotated[int, Field(ge=2)] = 8
    stride: Count = 2
    n_pieces: Count = 20_000
    n_components: Count = 8
    n_directions: Count = 32
    n_iterations: Count = 20
    symmetries: bool = False
    schedule: Schedule = field(default_factory=Cosine)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        train, held_out = rows(data, "train"), rows(data, "validation")
        mean, std = moments(train)
        if train.ndim != 4:
            raise InputError(f"train.kind patch_mixture needs images (channel, y, x), got {tuple(train.shape[1:])}.")
        if min(train.shape[2:]) < self.size:
            raise InputError(f"train.size {self.size} is larger than the images, {tuple(train.shape[2:])}. Lower it.")
        stream, schedule = job.stream.child("pieces"), Scaled(self.schedule, std)
        sets = {"train": self._pieces(train, stream.child("train"))}
        sets["validation"] = self._pieces(held_out, stream.child("validation"))
        law = _fitted(self, _turned(sets["train"]) if self.symmetries else sets["train"], job)
        piece = SubspaceDenoiser(law, schedule, tuple(sets["train"].shape[1:]))
        whole = PatchedDenoiser(piece, schedule, tuple(train.shape[1:]), self.stride, mean)
        return Learned(pack(whole), facts=_densities(law, sets))

    def _pieces(self, images: Tensor, stream: Stream) -> Tensor:
        """Pieces at random places of random images, (n_pieces, channel, size, size)."""
        last = torch.tensor([len(images), *(n - self.size + 1 for n in images.shape[2:])])
        which, y, x = (stream.uniform(self.n_pieces, (3,), dtype=torch.float64) * last).long().T
        side = torch.arange(self.size)
        rows_, columns = (y[:, None] + side)[:, :, None], (x[:, None] + side)[:, None, :]
        return images[which[:, None, None], :, rows_, columns].movedim(-1, 1)


def _turned(images: Tensor) -> Tensor:
    """Square images with their quarter turns and mirror images, (8 batch, *shape)."""
    return torch.cat([torch.rot90(x, k, (-2, -1)) for x in (images, images.flip(-1)) for k in range(4)])


def _fitted(recipe: MixtureTraining | PatchMixtureTraining, events: Tensor, job: Job) -> SubspaceMixture:
    """The mixture that a recipe asks for, of events (sample, *event)."""
    seed = job.stream.child("mixture").key()
    with job.ending():  # an iteration keeps nothing
        return fit_mixture(events.flatten(1), recipe.n_components, recipe.n_directions, recipe.n_iterations, seed)


def _densities(law: SubspaceMixture, sets: dict[str, Tensor]) -> dict[str, float]:
    """Mean log density of each set of events: how far the fit holds beyond what it has seen."""
    return {f"log_density_{name}": round(float(law.log_prob(x.flatten(1)).mean()), 3) for name, x in sets.items()}
