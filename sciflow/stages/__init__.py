"""Five stages that meet only on disk: dataset → train → sample → evaluate → report."""

from __future__ import annotations

from sciflow.stages.given import ClosedForm, FromFile, KnownEquation, OwnNetwork
from sciflow.stages.mixtures import MixtureTraining, PatchMixtureTraining
from sciflow.stages.train import ForecastTraining, NetworkTraining
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
