"""One whole slice of a head by magnetic resonance to measure, and photographs of other things to learn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sciflow.domains.imaging.patches import HEAD_SIDE, head, texture
from sciflow.domains.imaging.recording import Count, assembled
from sciflow.errors import InputError
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

PHOTOGRAPHS = {"train": ("astronaut", "camera", "chelsea", "coffee", "coins"), "validation": ("moon",)}


@dataclass(frozen=True)
class HeadSlice:
    """A sagittal slice of a head, 256 × 256, measured whole; what is learned from are photographs of other things.

    Five photographs train, a sixth validates. The slice is one, so that nothing of it can be kept from itself: a prior
    that learned from heads would need others.
    Photographs, reduced and cropped to the size of the slice and in grey levels from 0 to 1 like it, share with it
    how smooth pieces of an image are and how edges look, and nothing of what a head is.

    Exactness: a real slice, in magnitude; values are multiples of 1/255
    Cost: no download, a second
    Bias: the prior is of another kind of image; and one slice says nothing of others: the error bars over observations
        are those of lines and noise
    Args:
        reduction: pixels of slice and photographs, along each axis, whose mean is a pixel; a divisor of 256.
        n_observations: measurements of the slice, each with noise, and what else is drawn, of its own.
        observation: how it is observed.
    Source: Hunter (2007), Matplotlib, sample file s1045.ima, for the head; van der Walt et al. (2014), scikit-image.
    """

    reduction: Count = 1
    n_observations: Count = 1
    observation: Observation = field(default_factory=Observation)

    def __post_init__(self) -> None:
        if HEAD_SIDE % self.reduction:
            raise InputError(f"dataset.reduction must divide {HEAD_SIDE}, got {self.reduction}. Take a power of two.")

    def simulate(self, stream: Stream) -> xr.Dataset:
        images, labels = [], []
        for split, names in PHOTOGRAPHS.items():
            images += [_cropped(texture(name)) for name in names]
            labels += [split] * len(names)
        whole = _reduced(np.stack([*images, head()]), self.reduction).astype(np.float32)[:, None]
        splits = np.array([*labels, "test"])
        chosen = np.full(self.n_observations, len(images))
        return assembled(whole, np.arange(len(whole)), "1", splits, chosen, self.observation, stream)


def _cropped(picture: np.ndarray) -> np.ndarray:
    """The middle of a picture (y, x) in the size of the slice, after as many means over squares as leave it that."""
    step = min(picture.shape) // HEAD_SIDE
    y, x = (n // step * step for n in picture.shape)
    picture = _reduced(picture[None, :y, :x], step)[0]
    top, left = ((n - HEAD_SIDE) // 2 for n in picture.shape)
    return picture[top : top + HEAD_SIDE, left : left + HEAD_SIDE]


def _reduced(images: np.ndarray, step: int) -> np.ndarray:
    """Means over squares of step × step pixels, (n, y, x)."""
    n, y, x = images.shape
    return images.reshape(n, y // step, step, x // step, step).mean((2, 4))
