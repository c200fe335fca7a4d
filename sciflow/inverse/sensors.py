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

        y = (x_{c, i})_{c < channels, i ≡ 0 mod stride},   A Aᵀ = I

    For fields at several times, stacked as channels, the first channels are the first times.

    Exactness: adjoint exact; solves by conjugate gradients, which take one step.
    Cost: one slice.
    Bias: none.
    Args:
        stride: distance of neighbouring sensors, ≥ 1 [grid points].
        channels: how many of the first channels are seen; a vector has none.
    Raises:
        InputError: more channels than the events have.
    Source: definition.
    """

    stride: Annotated[int, Field(ge=1)] = 2
    channels: Annotated[int, Field(ge=1)] = 1

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if len(shape) > 1 and self.channels > shape[0]:
            raise InputError(f"sensors in {self.channels} channels do not fit events of shape {shape}. Use fewer.")

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return x[:, :: self.stride]
        return x[(slice(None), slice(self.channels), *[slice(None, None, self.stride)] * (x.ndim - 2))].flatten(1)
