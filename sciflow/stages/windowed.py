"""Priors of whole trajectories that have only learned short windows of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from sciflow.diffusion.model import pack, unpack
from sciflow.diffusion.windowed import WindowedDenoiser
from sciflow.errors import InputError
from sciflow.stages.artefact import Job
from sciflow.stages.learned import Learned, Training
from sciflow.stages.mixtures import MixtureTraining

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class WindowTraining:
    """A prior of whole trajectories, from the law of windows of `length` successive states, learned in any other way.

    Every window of every trajectory is an event of its own; windows of a trajectory stay in its split. The trajectories
    must be in their stationary state, so that all windows have one law.

    Exactness: as the law of windows is learned, and as `WindowedDenoiser`
    Cost: that of the training; sampling calls the denoiser once for each window of a trajectory
    Bias: states that lie outside of a window tell it nothing: more where measurements are sparse
    Args:
        of: how the law of windows comes to be: `network`, `mixture`, `own`, `closed_form`, or the `checkpoint` of a run
            whose events are windows.
        length: 2k + 1, states of a window; odd.
    Raises:
        InputError: windows of an even number of states, longer than the trajectories, or of no trajectories; a training
            that learns no law of events.
    Source: Rozet and Louppe (2023), Score-based data assimilation, algorithm 1.
    """

    of: Training = field(default_factory=MixtureTraining)
    length: Annotated[int, Field(ge=1)] = 5

    def __post_init__(self) -> None:
        if self.length % 2 == 0:
            raise InputError(
                f"train.length must be odd, got {self.length}: a window has a middle. Take {self.length + 1}."
            )
        if not (hasattr(self.of, "schedule") or hasattr(self.of, "denoiser")):
            raise InputError(
                f"train.of must learn a law of events, but {type(self.of).__name__} does not. Use `network`, "
                "`mixture`, `own`, `closed_form` or `checkpoint`."
            )

    def look(self, where: str, data: xr.Dataset) -> None:
        """Raise InputError where there are no such windows, or where they do not fit what learns them."""
        cut = windows(data, self.length)
        if hasattr(self.of, "look"):
            self.of.look(where, cut)

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        learned = self.of.learn(job, windows(data, self.length), checkpoint)
        n_times, *state = data["data"].shape[1:]
        chain = WindowedDenoiser(unpack(learned.model), n_times, tuple(state))
        return replace(learned, model=pack(chain, getattr(self.of, "network", None)))


def windows(data: xr.Dataset, length: int) -> xr.Dataset:
    """The windows of all trajectories as events (length, …) of a data set, each in the split of its trajectory.

    Raises:
        InputError: events that are no trajectories, or shorter than a window.
    """
    dims = tuple(str(dim) for dim in data["data"].dims[1:])
    if dims[:1] != ("time",):
        raise InputError(f"windows are cut out of trajectories (time, …), but data.nc has events {dims}.")
    n_samples, n_times = data["data"].shape[:2]
    if n_times < length:
        raise InputError(
            f"train.length is {length}, but the trajectories of data.nc have {n_times} states. Lower it, or keep more "
            "times in `dataset`."
        )
    starts = np.arange(n_times - length + 1)
    which = np.repeat(np.arange(n_samples), len(starts))
    when = np.tile(starts, n_samples)[:, None] + np.arange(length)
    events = data[["data"]].drop_vars("time", errors="ignore").load()
    return events.isel(sample=("sample", which), time=(("sample", "time"), when))
