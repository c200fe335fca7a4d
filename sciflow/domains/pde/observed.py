"""Which trajectories are held out and observed, and where sensors read them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sciflow.data.split import shares, split
from sciflow.errors import InputError
from sciflow.inverse.operator import Operator
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream


def held_out(
    n: int, test: float, validation: float, n_observations: int, stream: Stream
) -> tuple[np.ndarray, np.ndarray]:
    """The split of each of n trajectories, (n,), and the indices of the held-out ones that are observed.

    Raises:
        InputError: too few are held out.
    """
    labels = split(np.arange(n), shares(test, validation), stream)
    chosen = np.flatnonzero(labels == "test")[:n_observations]
    if len(chosen) < n_observations:
        raise InputError(
            f"dataset.n_observations is {n_observations}, but {len(chosen)} of {n} trajectories are held out. "
            "Lower it, or raise dataset.test or dataset.n_samples."
        )
    return labels, chosen


def sensor_places(operator: Operator, axes: Mapping[str, Tensor]) -> dict[str, tuple[str, np.ndarray]]:
    """Where each measurement was made, along each axis of the event, if sensors made it.

    Args:
        operator: of the observation.
        axes: name → coordinates, in the order of the event.
    """
    if not isinstance(operator, Sensors):
        return {}
    where = torch.meshgrid(*axes.values(), indexing="ij")
    read = [operator(part[None])[0].numpy() for part in where]
    return {f"sensor_{name}": ("measurement", part) for name, part in zip(axes, read, strict=True)}


def observed_dims(values: Mapping[str, Tensor], known: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The known dims, and those of what an operator drew for each observation, (observation, …)."""
    drawn = {name: value for name, value in values.items() if name not in known}
    return {**known, **{n: ("observation", *(f"{n}_{axis}" for axis in range(v.ndim - 1))) for n, v in drawn.items()}}
