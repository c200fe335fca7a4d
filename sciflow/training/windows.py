"""Pieces of trajectories: what a one-step forecaster is given, and the field that follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.diffusion.one_step import told
from sciflow.errors import InputError


@dataclass(frozen=True)
class Windows:
    """Every run of `length` successive fields of every trajectory, cut out when it is asked for.

    Row r is the piece of trajectory r // k that starts at its field r mod k, k = time − length + 1.

    Args:
        trajectories: (trajectory, time, channel, *grid).
        length: fields of a piece.
        parameters: (trajectory, n_shown) of unit variance, which follow the fields as constant channels; None for none.
        constants: (trajectory, n_mapped, *grid) of unit variance, which follow as channels; None for none.
    Raises:
        InputError: trajectories shorter than a piece.
    """

    trajectories: Tensor
    length: int
    parameters: Tensor | None = None
    constants: Tensor | None = None

    def __post_init__(self) -> None:
        if self.per_trajectory < 1:
            raise InputError(
                f"forecasters that look back on {self.length - 1} fields need trajectories of {self.length} or more, "
                f"got {self.trajectories.shape[1]}. Lower train.n_given, or keep more times in `dataset`."
            )

    @property
    def per_trajectory(self) -> int:
        """Pieces of one trajectory."""
        return self.trajectories.shape[1] - self.length + 1

    def __len__(self) -> int:
        return len(self.trajectories) * self.per_trajectory

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The pieces (row, length, channel + n_told, *grid)."""
        start = (rows % self.per_trajectory)[:, None] + torch.arange(self.length)
        which = rows // self.per_trajectory
        pieces = self.trajectories[which[:, None], start]
        return told(pieces, *(None if own is None else own[which] for own in (self.parameters, self.constants)))
