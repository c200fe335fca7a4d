"""A weighted ensemble as named arrays: particles, weights, founders, and how the run went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Ensemble(Protocol):
    """What `sciflow.particles.Particles` offers; this floor does not know it by name."""

    @property
    def x(self) -> torch.Tensor: ...

    @property
    def log_weights(self) -> torch.Tensor: ...

    @property
    def ess_trace(self) -> torch.Tensor: ...

    @property
    def parents_trace(self) -> torch.Tensor: ...

    @property
    def evidence_trace(self) -> torch.Tensor: ...

    @property
    def island_log_evidence(self) -> torch.Tensor: ...

    @property
    def diagnostics(self) -> Mapping[str, torch.Tensor]: ...

    @property
    def eve(self) -> torch.Tensor: ...

    @property
    def events(self) -> tuple[str, ...]: ...


PARTICLE, STEP, ISLAND = "particle", "smc_step", "island"
NAMES = {  # attribute → variable and its dim
    "log_weights": ("log_weights", PARTICLE),
    "eve": ("eve", PARTICLE),
    "ess_trace": ("ess", STEP),
    "parents_trace": ("parents", STEP),
    "evidence_trace": ("log_evidence_trace", STEP),
    "island_log_evidence": ("island_log_evidence", ISLAND),
}
UNITS = {"log_weights": "nat", "log_evidence_trace": "nat", "island_log_evidence": "nat"}
NUMBERS = ("log_evidence", "log_evidence_stderr", "log_evidence_stderr_islands", "n_resampled", "n_families")


def event_dims(n_axes: int) -> tuple[str, ...]:
    """Names for the axes of an event that has none."""
    return ("dimension",) if n_axes == 1 else tuple(f"axis_{i}" for i in range(n_axes))


def variables(ensemble: Ensemble, dims: Sequence[str] | None) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
    """Values and dims of every array that the ensemble has; an empty trace is left out."""
    names = event_dims(ensemble.x.ndim - 1) if dims is None else tuple(dims)
    values: dict[str, Any] = {"x": ensemble.x}
    places: dict[str, Sequence[str]] = {"x": (PARTICLE, *names)}
    for attribute, (name, dim) in NAMES.items():
        if len(value := getattr(ensemble, attribute)):
            values[name], places[name] = value, (dim,)
    for said, value in ensemble.diagnostics.items():
        name = f"{said}_trace"
        values[name], places[name] = value if value.shape[1] > 1 else value[:, 0], trace_dims(name, value.shape[1])
    return values, places


def trace_dims(name: str, n_parts: int) -> tuple[str, ...]:
    """Dims of `…_trace`, what a run says after each step: one number, or several."""
    return (STEP,) if n_parts == 1 else (STEP, name.removesuffix("trace") + "part")


def attributes(ensemble: Ensemble) -> Mapping[str, Any]:
    """Numbers and events; a number that the sampler does not give is left out."""
    found = {name: getattr(ensemble, name, math.nan) for name in NUMBERS}
    interval = np.asarray(getattr(ensemble, "log_evidence_interval", (math.nan, math.nan)), dtype=float)
    known = {name: value for name, value in found.items() if not math.isnan(value)}
    if not np.isnan(interval).any():
        known["log_evidence_interval"] = interval
    return {**known, "events": "\n".join(ensemble.events)}
