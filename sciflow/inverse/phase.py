"""Measurements that lose the phase."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import Operator


@dataclass(frozen=True)
class PhaseRetrieval(Operator):
    """Amplitudes of the Fourier transform of an image with a dark border, its phases lost. Not linear.

        y = |F P x|,   P pads each channel with zeros to oversampling × its size,   F unitary

    The mirror image and the negative give the same data, and with a border so do shifted images that still fit.

    Exactness: exact; differentiable wherever no amplitude is zero, where the gradient is taken as zero.
    Cost: one fast Fourier transform of the padded image.
    Bias: none.
    Args:
        oversampling: size of the padded image over that of the image, along each axis; 2 determines all but the
            symmetries.
    Raises:
        InputError: events that are no images.
    Source: Fienup (1982), Phase retrieval algorithms: a comparison.
    """

    oversampling: Annotated[float, Field(ge=1)] = 2.0

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if len(shape) != 3:
            raise InputError(f"phase_retrieval measures images (channel, y, x), got events of shape {shape}.")

    @property
    def range_shape(self) -> tuple[int, ...]:
        return (self.shape[0], *(math.ceil(self.oversampling * n) for n in self.shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x, s=self.range_shape[1:], norm="ortho").abs().flatten(1)
