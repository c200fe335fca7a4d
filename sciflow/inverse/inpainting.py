"""Missing pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import LinearOperator
from sciflow.random import Stream


@dataclass(frozen=True)
class Inpainting(LinearOperator):
    """Some pixels are missing; the measurement lists the others.

        y = (x_i)_{i observed},   A Aᵀ = I

    Exactly round(missing · pixels) pixels are missing, at random places drawn for each observation, in all channels.

    Exactness: adjoint, A⁺ = Aᵀ and all solves are exact.
    Cost: one gather or scatter.
    Bias: none.
    Args:
        missing: share of missing pixels, in [0, 1).
    Raises:
        InputError: no pixel would be observed, or a mask of another shape.
    Source: definition.
    """

    missing: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        pixels = math.prod(_grid(shape))
        if not 0 <= self.missing < 1 or round(self.missing * pixels) >= pixels:
            raise InputError(f"inpainting with missing = {self.missing} leaves none of {pixels} pixels. Use less.")
        mask = parameters.get("mask")
        if mask is not None and (tuple(mask.shape) != shape or not bool((mask != 0).any())):
            raise InputError(f"inpainting needs a mask of shape {shape} that is not all zero, got {tuple(mask.shape)}.")

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Inpainting:
        if "mask" not in parameters:
            raise InputError("inpainting needs the parameter 'mask' (1: observed). Call draw(shape, stream) for one.")
        return super().bind(parameters, shape)

    def sample_parameters(self, shape: tuple[int, ...], stream: Stream) -> dict[str, Tensor]:
        """`mask`, uint8, (*shape): 1 where observed."""
        grid = _grid(shape)
        pixels = math.prod(grid)
        order = torch.randperm(pixels, generator=stream.generator())
        mask = torch.ones(pixels, dtype=torch.uint8)
        mask[order[: round(self.missing * pixels)]] = 0
        return {"mask": mask.reshape(grid).expand(shape).clone()}

    @cached_property
    def _index(self) -> Tensor:
        return self.parameters()["mask"].flatten().nonzero()[:, 0]

    @property
    def range_shape(self) -> tuple[int, ...]:
        return (len(self._index),)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self._index.to(x.device)]

    def backward(self, y: Tensor) -> Tensor:
        x = y.new_zeros((len(y), math.prod(self.shape))).index_copy(1, self._index.to(y.device), y)
        return x.reshape(-1, *self.shape)

    @property
    def gram_spectrum(self) -> Tensor:
        return torch.ones(self.n_measurements, dtype=torch.float64)

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        return v / (scale + ridge)


def _grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The pixels of an event: all axes of a vector, all but the channel of an image."""
    return shape if len(shape) == 1 else shape[1:]
