"""Five stages that meet only on disk: dataset → train → sample → evaluate → report."""

from __future__ import annotations

from sciflow.stages.mixtures import MixtureTraining, PatchMixtureTraining
from sciflow.stages.train import (
    ClosedForm,
    ForecastTraining,
    FromFile,
    KnownEquation,
    NetworkTraining,
    OwnNetwork,
)
from sciflow.stages.windowed import WindowTraining

TRAININGS: dict[str, type] = {
    "network": NetworkTraining,
    "closed_form": ClosedForm,
    "mixture": MixtureTraining,
    "patch_mixture": PatchMixtureTraining,
    "dynamics": KnownEquation,
    "forecast": ForecastTraining,
    "checkpoint": FromFile,
    "own": OwnNetwork,
    "windows": WindowTraining,
}
