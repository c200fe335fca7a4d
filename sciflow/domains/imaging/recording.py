"""From images to the data set of an imaging run: splits that do not leak, and observations of held-out images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.arrays import to_xarray
from sciflow.data.split import split
from sciflow.errors import InputError
from sciflow.inverse.observe import Observation
from sciflow.inverse.operator import Operator
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

EVENT = ("channel", "y", "x")
Clean = Callable[[int, Operator], Tensor]
"""Number of an image and the operator that sees it → its measurement before noise, (measurement,)."""
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


def observed(
    images: np.ndarray, unit: np.ndarray, units: str, n_observations: int, fractions: dict[str, float],
    observation: Observation, stream: Stream, may_be_observed: np.ndarray | None = None, clean: Clean | None = None,
) -> xr.Dataset:  # fmt: skip
    """The data set of an imaging run: all images with their split, and observations of test images.

    Args:
        images: (sample, *event).
        unit: id of what each image belongs to, (sample,): no id stands in two splits.
        units: of the values.
        n_observations: how many.
        fractions: share of each split.
        observation: how they are observed.
        stream: of all that is drawn.
        may_be_observed: which images may be, bool, (sample,); None: all.
        clean: what is measured of an image before noise, where that is known better than by the operator.

    Raises:
        InputError: fewer test images than observations.
    """
    labels = split(unit, fractions, stream.child("split"))
    is_test = labels == "test"
    held_out = np.flatnonzero(is_test if may_be_observed is None else is_test & may_be_observed)
    if len(held_out) < n_observations:
        raise InputError(
            f"dataset.n_observations is {n_observations}, but the test set has {len(held_out)} images. "
            "Lower it, or raise dataset.test."
        )
    order = torch.randperm(len(held_out), generator=stream.child("observed").generator()).numpy()
    return assembled(images, unit, units, labels, np.sort(held_out[order[:n_observations]]), observation, stream, clean)


def assembled(
    images: np.ndarray, unit: np.ndarray, units: str, labels: np.ndarray, chosen: np.ndarray, observation: Observation,
    stream: Stream, clean: Clean | None = None,
) -> xr.Dataset:  # fmt: skip
    """The same with given splits and given observed images.

    Args:
        images: (sample, *event).
        unit: id of what each image belongs to, (sample,).
        units: of the values.
        labels: split of each image, (sample,).
        chosen: images that are observed, (observation,).
        observation: how they are observed.
        stream: of all that is drawn.
        clean: what is measured of an image before noise, where that is known better than by the operator.
    """
    model = None if clean is None else lambda i, operator: clean(int(chosen[i]), operator)
    records = observation.record(torch.as_tensor(images[chosen]), stream.child("observe"), model)
    dims = {name: ("observation", *_dims(name, value.ndim - 1)) for name, value in records.items()}
    made = to_xarray(
        {"data": images, "truth": images[chosen], **records},
        {"data": ("sample", *EVENT), "truth": ("observation", *EVENT), **dims},
        {"split": ("sample", labels.astype(str)), "unit": ("sample", unit), "observed_sample": ("observation", chosen)},
        {"data": units, "truth": units, "measured": units},
    )
    shape = observation.range_shape(images.shape[1:], stream.child("observe"))
    if len(shape) == len(EVENT):
        made["measured"].attrs["shape"] = np.array(shape, dtype=np.int64)  # of one measurement, as a figure shows it
    return made


def _dims(name: str, n_axes: int) -> tuple[str, ...]:
    """Axes of one record: a measurement vector, or a parameter shaped like an image or not."""
    if name == "measured":
        return ("measurement",)
    return EVENT[-n_axes:] if n_axes <= len(EVENT) and name == "operator_mask" else tuple(
        f"{name}_{axis}" for axis in range(n_axes)
    )  # fmt: skip
