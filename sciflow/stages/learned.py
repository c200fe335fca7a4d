"""What training gives, and what a kind of training is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sciflow.stages.artefact import Job

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Learned:
    """A denoiser in the form in which it is stored, with what is worth telling of its making."""

    model: dict[str, Any]
    history: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Training(Protocol):
    """An entry of TRAININGS: how the prior comes to be."""

    def learn(self, job: Job, data: xr.Dataset, checkpoint: Path | None) -> Learned:
        """The prior of this data set."""
        ...
