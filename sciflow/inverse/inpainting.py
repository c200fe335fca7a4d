"""Missing pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import OrthonormalRows
from sciflow.random import Stream
from sciflow.types import placed


class _Masked(OrthonormalRows):
    """What operators share that list the pixels of a mask."""

    def check_mask(self, kind: str, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        """Raise InputError for a mask that does not fit."""
        mask = parameters.get("mask")
        if mask is not None and (tuple(mask.shape) != shape or not bool((mask != 0).any())):
            raise InputError(f"{kind} needs a mask of shape {shape} that is not all zero, got {tuple(mask.shape)}.")

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Self:
        if "mask" not in parameters:
            raise InputError("inpainting needs the parameter 'mask' (1: observed). Call draw(shape, stream) for one.")
        return super().bind(parameters, shape)

    @cached_property
    def _index(self) -> Tensor:
        return self.parameters()["mask"].flatten().nonzero()[:, 0]

    @property
    def range_shape(self) -> tuple[int, ...]:
        return (len(self._index),)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, placed(self._index, x.device)]

    def backward(self, y: Tensor) -> Tensor:
        x = y.new_zeros((len(y), math.prod(self.shape))).index_copy(1, placed(self._index, y.device), y)
        return x.reshape(-1, *self.shape)


@dataclass(frozen=True)
class Inpainting(_Masked):
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
        self.check_mask("inpainting", shape, parameters)

    def sample_parameters(self, shape: tuple[int, ...], stream: Stream) -> dict[str, Tensor]:
        """`mask`, uint8, (*shape): 1 where observed."""
        grid = _grid(shape)
        pixels = math.prod(grid)
        order = torch.randperm(pixels, generator=stream.generator())
        mask = torch.ones(pixels, dtype=torch.uint8)
        mask[order[: round(self.missing * pixels)]] = 0
        return {"mask": mask.reshape(grid).expand(shape).clone()}


@dataclass(frozen=True)
class BoxInpainting(_Masked):
    """A box of pixels is missing; the measurement lists the others.

        y = (x_i)_{i outside the box},   A Aᵀ = I

    The box lies at a random place, drawn for each observation, `margin` away from the borders, in all channels.

    Exactness: adjoint, A⁺ = Aᵀ and all solves are exact.
    Cost: one gather or scatter.
    Bias: none.
    Args:
        side: of the box along each axis, as a share of the grid, in (0, 1).
        margin: pixels at each border that are always observed.
    Raises:
        InputError: a box that does not fit, or a mask of another shape.
    Source: definition.
    """

    side: Annotated[float, Field(gt=0, lt=1)] = 0.5
    margin: Annotated[int, Field(ge=0)] = 0

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if not 0 < self.side < 1 or any(room < 0 for _, room in self._sides(shape)) or self._sides(shape)[0][0] < 1:
            raise InputError(
                f"box_inpainting: a box of side {self.side:g} with margin {self.margin} does not fit the grid "
                f"{_grid(shape)}. Use a smaller one, of at least one pixel."
            )
        self.check_mask("box_inpainting", shape, parameters)

    def _sides(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """Pixels of the box along each axis, and how far it can be moved."""
        sides = [round(self.side * n) for n in _grid(shape)]
        return [(side, n - side - 2 * self.margin) for side, n in zip(sides, _grid(shape), strict=True)]

    def sample_parameters(self, shape: tuple[int, ...], stream: Stream) -> dict[str, Tensor]:
        """`mask`, uint8, (*shape): 1 where observed."""
        mask = torch.ones(_grid(shape), dtype=torch.uint8)
        place = stream.uniform(1, (len(_grid(shape)),), dtype=torch.float64)[0].tolist()
        box = []
        for (side, room), u in zip(self._sides(shape), place, strict=True):
            first = self.margin + int(u * (room + 1))
            box.append(slice(first, first + side))
        mask[tuple(box)] = 0
        return {"mask": mask.expand(shape).clone()}


def _grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The pixels of an event: all axes of a vector, all but the channel of an image."""
    return shape if len(shape) == 1 else shape[1:]
