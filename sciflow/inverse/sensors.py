"""A few places of a field, at regular distances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import LinearOperator


@dataclass(frozen=True)
class Sensors(LinearOperator):
    """Every stride-th grid point along every axis, in the first channels alone.

        y = (x_{c, i}),   c = 0, every, 2 every, … < channels,   i = first, first + stride, …,   A Aᵀ = I

    For fields at several times, stacked as channels, the first channels are the first times.

    Exactness: adjoint exact; solves by conjugate gradients, which take one step.
    Cost: one slice.
    Bias: none.
    Args:
        stride: distance of neighbouring sensors, ≥ 1 [grid points].
        channels: how many of the first channels are looked at; a vector has none.
        first: the first sensor along every axis: with 0 it stands at the corner [grid points].
        every: of the channels looked at, each so-manieth is seen: measurements at each so-manieth time.
    Raises:
        InputError: more channels than the events have, or a first sensor beyond their grid.
    Source: definition.
    """

    stride: Annotated[int, Field(ge=1)] = 2
    channels: Annotated[int, Field(ge=1)] = 1
    first: Annotated[int, Field(ge=0)] = 0
    every: Annotated[int, Field(ge=1)] = 1

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if len(shape) > 1 and self.channels > shape[0]:
            raise InputError(f"sensors in {self.channels} channels do not fit events of shape {shape}. Use fewer.")
        if self.first >= min(shape[1:] or shape):
            raise InputError(f"the first sensor, at point {self.first}, is beyond events of shape {shape}. Lower it.")

    def forward(self, x: Tensor) -> Tensor:
        along = slice(self.first, None, self.stride)
        if x.ndim == 2:
            return x[:, along]
        return x[(slice(None), slice(0, self.channels, self.every), *[along] * (x.ndim - 2))].flatten(1)
