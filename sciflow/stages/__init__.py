"""Five stages that meet only on disk: dataset → train → sample → evaluate → report."""

from __future__ import annotations

from sciflow.stages.train import ClosedForm, FromFile, NetworkTraining

TRAININGS: dict[str, type] = {"network": NetworkTraining, "closed_form": ClosedForm, "checkpoint": FromFile}
