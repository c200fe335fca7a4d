"""Equations of which each trajectory has numbers of its own, and how the data hold them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from sciflow.data.layouts.simulations import OBSERVED, PARAMETER
from sciflow.domains.pde.boxes import Box
from sciflow.domains.pde.equations import PeriodicEquation
from sciflow.errors import InputError
from sciflow.random import Stream

Ranges = Mapping[str, tuple[float, float]]
"""Name of a number of an equation → lowest and highest value."""


class Told(ABC):
    """What a surrogate can be told of trajectories that an equation made in a periodic box."""

    varied: dict[str, tuple[float, float]]

    @property
    @abstractmethod
    def box(self) -> Box:
        """Where the fields live."""

    def known_parameters(self) -> list[str]:
        """What a surrogate can be told of each trajectory."""
        return [*self.varied]

    def known_constants(self) -> list[str]:
        """Fields that do not change: none."""
        return []

    def known_boundary(self) -> dict[str, str]:
        """What the ends of the axes are."""
        return dict.fromkeys(self.box.axes, "periodic")


def check_varied(equation: object, varied: Ranges) -> None:
    """Refuse ranges that are none, and numbers that the equation has not or cannot take.

    Raises:
        InputError: names those that there are.
    """
    known = sorted(n for n, v in vars(equation).items() if isinstance(v, float))
    for name, (low, high) in varied.items():
        if name not in known:
            raise InputError(f"dataset.varied names {name!r}, but this equation has the numbers {known}. Use one.")
        try:
            for value in (low, high):
                TypeAdapter(type(equation)).validate_python({**vars(equation), name: value})
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InputError(f"dataset.varied.{name} is [{low:g}, {high:g}]: {reason}. Give another range.") from None
        if not low < high:
            raise InputError(f"dataset.varied.{name} is [{low:g}, {high:g}], needs the lower value first.")


def drawn(varied: Ranges, n: int, stream: Stream) -> dict[str, Tensor]:
    """A number of each trajectory, uniform in its range, name → (n,), float64."""
    own = {}
    for name, (low, high) in varied.items():
        own[name] = low + (high - low) * stream.child(name).uniform(n, dtype=torch.float64)
    return own


def with_own(equation: PeriodicEquation, own: Mapping[str, Tensor]) -> PeriodicEquation:
    """The equation of a batch whose fields have numbers of their own, name → (batch,)."""
    n_axes = len(equation.box.axes)
    wide: dict[str, Any] = {name: values.reshape(-1, *[1] * n_axes) for name, values in own.items()}
    return replace(equation, **wide)  # type: ignore[type-var]


def stored(own: Mapping[str, Tensor], chosen: np.ndarray) -> dict[str, Tensor]:
    """These numbers as variables of data.nc: of each sample, and of those that are observed."""
    samples = {PARAMETER + name: values for name, values in own.items()}
    return samples | {OBSERVED + name: values[chosen] for name, values in own.items()}


def stored_dims(own: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The dims of what `stored` makes."""
    dims: dict[str, tuple[str, ...]] = {}
    for name in own:
        dims |= {PARAMETER + name: ("sample",), OBSERVED + name: ("observation",)}
    return dims
