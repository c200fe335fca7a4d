"""What is learned from: the rows, trajectories and parameters of data.nc as tensors, and their normalisation."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.data.layouts.simulations import AXES, CONSTANT, PARAMETER, check_uniform, grid_of
from sciflow.data.schema import suggestion
from sciflow.diffusion.centred import free_score
from sciflow.diffusion.forecast import SAME
from sciflow.diffusion.loss import Loss, TargetScore
from sciflow.domains.protocol import question
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)


def rows(data: xr.Dataset, split: str) -> Tensor:
    """The events of one split, float32, (sample, *event).

    Raises:
        InputError: the split is empty.
    """
    chosen = data["data"][data["split"].to_numpy() == split]
    if chosen.shape[0] == 0:
        raise InputError(f"data.nc has no sample in the split {split!r}. Raise its share in `dataset`.")
    return from_xarray(chosen, dtype=torch.float32)


def moments(train: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all numbers of the training set: the normalisation of the model.

    Raises:
        InputError: the data are constant.
    """
    mean, std = float(train.double().mean()), float(train.double().std())
    if not math.isfinite(std) or std == 0:
        raise InputError(f"the training data have standard deviation {std}. Give data that vary.")
    return mean, std


def scored(loss: Loss, domain: str, data: xr.Dataset, x1: Tensor, std: float, is_centred: bool) -> Loss:
    """A loss that knows the score of the data, if it is one that asks for it.

    Raises:
        InputError: nobody knows it, or the law of the data has no density as they are.
    """
    if not isinstance(loss, TargetScore):
        return loss
    check_scored(domain, "particle" in data["data"].dims, is_centred)
    score = question(domain, "train").score(data)
    return loss.on(free_score(score) if is_centred else score, x1, std)


def check_scored(domain: str, has_particles: bool, is_centred: bool) -> None:
    """Refuse to tell a loss the score of data that have none.

    Raises:
        InputError: the domain knows no score, or the events are particles whose centre does not move.
    """
    if not hasattr(question(domain, "train"), "score"):
        raise InputError(
            f"train.loss: target_score: the domain {domain!r} does not know the score of its data. "
            "Use `loss: {kind: denoising}`."
        )
    if has_particles and not is_centred:
        raise InputError(
            "train.loss: target_score needs a density, but the centre of these particles stays at 0. "
            "Add `train.centred: true`."
        )


def trajectories(data: xr.Dataset, split: str) -> Tensor:
    """The trajectories of one split, float32, (sample, time, channel, *grid).

    Raises:
        InputError: the events have no axis of time, or the split is empty.
    """
    dims = tuple(str(dim) for dim in data["data"].dims[1:])
    if len(dims) < 2 or dims[0] != "time":
        raise InputError(f"forecasters learn from trajectories (time, …), but data.nc has events {dims}.")
    found = rows(data, split)
    return found if dims[1] == "channel" else found.unsqueeze(2)


def interval(data: xr.Dataset) -> float:
    """Time from one field to the next.

    Raises:
        InputError: the times are not equidistant.
    """
    steps = np.diff(data["time"].to_numpy().astype(float)) if "time" in data.coords else np.ones(1)
    if not np.allclose(steps, steps[0], rtol=1e-6, atol=0) or not steps[0] > 0:
        raise InputError(
            f"one-step forecasters need equidistant times, got steps from {steps.min():g} to {steps.max():g} in "
            "data.nc. Interpolate the trajectories to equal steps."
        )
    return float(steps[0])


def check_grid(where: str, data: xr.Dataset, network: object, is_told: bool = False) -> None:
    """Hold the axes of space of the data against what the network takes for granted of them.

    A network that wraps around an axis with ends is warned of, unless it is told of them: it may still learn where
    nothing reaches them.

    Args:
        where: file of the data, for the message.
        data: with coordinates, and `boundary` (axis → kind, as JSON) among its attributes where its file says so.
        network: an entry of NETWORKS; may have `needs_uniform_grid` and `is_periodic`.
        is_told: whether the network sees where each point lies between the ends.

    Raises:
        InputError: it needs equal steps and the points do not have them.
    """
    axes = [axis for axis in AXES if axis in data["data"].dims]
    if getattr(network, "needs_uniform_grid", False):
        check_uniform(where, {axis: data[axis].to_numpy() for axis in axes if axis in data.coords}, "a Fourier network")
    is_blind = getattr(network, "is_periodic", False) and not is_told
    boundary = json.loads(data.attrs.get("boundary", "{}")) if is_blind else {}
    for axis in axes:
        if (kind := boundary.get(axis, "periodic")) != "periodic":
            logger.warning(
                "%s: the boundary of axis %r is %r, but the network joins its two ends. Use the unet network with "
                "`padding: zeros`, or mlp; forecasters can be told of the ends, `train.boundary: true`.",
                where, axis, kind,
            )  # fmt: skip


def parameters(data: xr.Dataset, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
    """Numbers of each trajectory (sample,), and their mean and standard deviation over the training split.

    A standard deviation that is rounding of float32 counts as none.

    Raises:
        InputError: one is not there, or not a finite number for each trajectory; names those that are.
    """
    found, moments_of, is_train = {}, {}, torch.as_tensor(data["split"].to_numpy() == "train")
    for name in names:
        if PARAMETER + name not in data.data_vars:
            source = (
                "A file has them as attributes or variables of its layout; `evolving`, `kicked` draw those of `varied`."
            )
            raise _unknown("parameters", PARAMETER, name, data, source)
        values = torch.as_tensor(data[PARAMETER + name].to_numpy()).double()
        if values.ndim != 1 or not bool(values.isfinite().all()):
            raise InputError(f"{PARAMETER}{name} in data.nc must be a finite number for each trajectory. Mend it.")
        found[name], moments_of[name] = values, _spread(values[is_train])
    return found, moments_of


def constants(data: xr.Dataset, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
    """Fields of each trajectory that do not change, (sample, *grid), and their moments over the training split.

    The moments are mean and standard deviation over trajectories and places; a standard deviation that is rounding of
    float32 counts as none.

    Raises:
        InputError: one is not there, has other axes than the data, or is not finite; names those that are there.
    """
    found, moments_of, is_train = {}, {}, torch.as_tensor(data["split"].to_numpy() == "train")
    for name in names:
        if CONSTANT + name not in data.data_vars:
            source = "A file has them as variables of its layout without a time."
            raise _unknown("constants", CONSTANT, name, data, source)
        held, dims = data[CONSTANT + name], ("sample", *grid_of(data))
        if {*held.dims} != {*dims}:
            raise InputError(
                f"{CONSTANT}{name} in data.nc has dims {held.dims}, needs {dims}: a field of each trajectory on the "
                "grid of the data. Mend it."
            )
        values = from_xarray(held, dims)
        if not bool(values.isfinite().all()):
            raise InputError(f"{CONSTANT}{name} in data.nc has numbers that are not finite. Fill them in.")
        found[name], moments_of[name] = values, _spread(values[is_train].double())
    return found, moments_of


def _spread(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation; one that is rounding of float32 counts as none."""
    mean, std = float(values.mean()), float(values.std(correction=0))
    return mean, std if std > SAME * abs(mean) else 0.0


def _unknown(kind: str, prefix: str, name: str, data: xr.Dataset, source: str) -> InputError:
    """What is said of a name that the data do not have, with those that they have."""
    known = [str(v).removeprefix(prefix) for v in data.data_vars if str(v).startswith(prefix)]
    none = "no constant fields" if kind == "constants" else f"no {kind}"
    hint = suggestion(name, known)
    return InputError(f"train.{kind} asks for {name!r}, but data.nc knows {sorted(known) or none}.{hint} {source}")


def bounded(boundary: Mapping[str, str], axes: Sequence[str]) -> tuple[int, ...]:
    """Which axes of a grid do not join their ends.

    Args:
        boundary: axis → "periodic", "wall" or "open"; what the data say of their axes.
        axes: of the grid, in their order.

    Raises:
        InputError: none of them.
    """
    found = tuple(k for k, axis in enumerate(axes) if boundary.get(axis, "periodic") != "periodic")
    if not found:
        said = ", ".join(f"{axis} is {kind}" for axis, kind in sorted(boundary.items())) or "nothing"
        raise InputError(
            f"train.boundary asks where the ends of the axes are, but of those the data say: {said}. Leave it out, or "
            "say in the file which axis is a `wall` or `open`."
        )
    return found
