"""Square pieces of a real photograph or scan, cut so that no pixel stands in two splits."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from sciflow.data.split import shares
from sciflow.domains.imaging.recording import Count, Share, observed
from sciflow.errors import InputError
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

BANDS = 8  # vertical bands of the photograph: whole bands go to one split
HEAD_SIDE, HEAD_LEVEL = 256, 256  # pixels, and stored value of one of its 256 grey levels
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue
SIDES = {"gravel": 512, "brick": 512, "grass": 512, "head": HEAD_SIDE}


@dataclass(frozen=True)
class Patches:
    """Square pieces of one grey photograph or scan that the installed packages ship, grey levels scaled to [0, 1].

    The picture is cut into 8 vertical bands; pieces lie within a band and bands within a split, so that no pixel is in
    two splits. Observed are pieces of test bands that do not overlap.

    Exactness: real pictures; values are multiples of 1/255, or means of them
    Cost: no download, a second
    Bias: one picture: the pieces of one band resemble one another more than those of two pictures would
    Args:
        photograph: which; `head` is a sagittal slice of a head by magnetic resonance, in magnitude, 256 × 256.
        size: side of a piece [pixels].
        stride: from one piece to the next, of those for the prior [pixels].
        reduction: pixels of the picture, along each axis, whose mean is a pixel.
        filled: least share of a piece that is not 0; pieces with more background are left out of every split.
        unit: of the values.
        n_observations: test pieces that are observed.
        validation: share for the validation loss.
        test: share held out.
        observation: how they are observed.
    Source: van der Walt et al. (2014), scikit-image; gravel, brick and grass from CC0 Textures (CC0);
        Hunter (2007), Matplotlib, sample file s1045.ima, for the head.
    """

    photograph: Literal["gravel", "brick", "grass", "head"] = "gravel"
    size: Annotated[int, Field(ge=4)] = 32
    stride: Count = 8
    reduction: Count = 1
    filled: Annotated[float, Field(ge=0, le=1)] = 0.0
    unit: str = "1"
    n_observations: Count = 24
    validation: Share = 0.125
    test: Share = 0.25
    observation: Observation = field(default_factory=Observation)

    def __post_init__(self) -> None:
        shares(self.test, self.validation)
        width = SIDES[self.photograph] // self.reduction // BANDS
        if self.size > width:
            raise InputError(
                f"dataset.size {self.size} does not fit the bands of {width} pixels that reduction {self.reduction} "
                "leaves. Lower one of them."
            )

    def simulate(self, stream: Stream) -> xr.Dataset:
        whole = head() if self.photograph == "head" else texture(self.photograph)
        n = len(whole) // self.reduction
        whole = whole[: n * self.reduction, : n * self.reduction]
        whole = whole.reshape(n, self.reduction, n, self.reduction).mean((1, 3)).astype(np.float32)
        width, pieces, bands, apart = n // BANDS, [], [], []
        for band in range(BANDS):
            for x in range(0, width - self.size + 1, self.stride):
                for y in range(0, n - self.size + 1, self.stride):
                    left = band * width + x
                    piece = whole[y : y + self.size, left : left + self.size]
                    if (piece != 0).mean() < self.filled:
                        continue
                    pieces.append(piece)
                    bands.append(band)
                    apart.append(x % self.size == 0 and y % self.size == 0)
        if not pieces:
            raise InputError(f"dataset.filled {self.filled:g} leaves no piece of {self.photograph!r}. Lower it.")
        fractions = shares(self.test, self.validation)
        return observed(
            np.stack(pieces)[:, None], np.array(bands), self.unit, self.n_observations, fractions,
            self.observation, stream, np.array(apart),
        )  # fmt: skip


def texture(name: str) -> np.ndarray:
    """A photograph of scikit-image, (y, x), in [0, 1]; of a colour one the luminance of ITU-R BT.709."""
    import skimage.data

    picture = getattr(skimage.data, name)().astype(np.float64) / 255
    return picture if picture.ndim == 2 else picture[..., :3] @ LUMINANCE


def head() -> np.ndarray:
    """The slice that Matplotlib ships, (y, x), in [0, 1]; its module, which draws, is not imported for it."""
    spec = find_spec("matplotlib")
    file = Path(str(spec and spec.origin)).parent / "mpl-data" / "sample_data" / "s1045.ima.gz"
    if not file.is_file():
        raise InputError(f"dataset.photograph 'head' is the file {file}, which this Matplotlib lacks. Install it anew.")
    stored = np.frombuffer(gzip.decompress(file.read_bytes()), "<u2").reshape(HEAD_SIDE, HEAD_SIDE)
    return stored.astype(np.float64) / (255 * HEAD_LEVEL)
