"""Figures that all domains share: how the particles of each sampler that has any fared, and what it did with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sciflow.data.ensemble import STEP
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures.style import wrapped
from sciflow.figures.traces import diagnostic_traces, ensemble_traces

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

Draw = Callable[["Axes", str, "xr.Dataset", list[str]], None]
"""(where, title, samples of one sampler and observation, names of its traces) → a panel."""
PANELS = 6
ERRORS = ("log_evidence_stderr", "log_evidence_stderr_islands")
WEIGHED = ("ess_trace", "parents_trace", "log_evidence_trace")
CONTROL = "control_"


def _runs(evidence: Evidence, is_weighed: bool) -> dict[str, tuple[xr.Dataset, list[str]]]:
    """Posterior → its samples of one observation, and which traces it has, of the weights or others; the first few."""
    index = int(evidence.arrays["shown"]) if "shown" in evidence.arrays else 0
    chosen = evidence.samples.isel(observation=index)
    names = [name for name, array in chosen.data_vars.items() if STEP in array.dims and (name in WEIGHED) == is_weighed]
    found = {}
    for posterior in chosen["posterior"].to_numpy() if names else ():
        run = chosen.sel(posterior=posterior)
        if own := [str(name) for name in names if bool(run[name].notnull().any())]:
            found[str(posterior)] = (run, own)
    return dict(list(found.items())[:PANELS])


def _drawn(evidence: Evidence, is_weighed: bool, draw: Draw, caption: str) -> Drawing | None:
    """A panel for each sampler that has such traces; nothing where none has."""
    runs = _runs(evidence, is_weighed)
    if not runs:
        return None
    axes = wrapped(len(runs), 4.8, 3.6)
    for ax, (name, (run, own)) in zip(axes, runs.items(), strict=True):
        draw(ax, unmarked(name), run, own)
    return Drawing(axes[0], f"One observation. {caption}")


def _weights(ax: Axes, title: str, run: xr.Dataset, own: list[str]) -> None:
    ess, parents, log_evidence = (one.to_numpy() for one in run[list(WEIGHED)].dropna(STEP, how="all").values())
    genealogy, islands = (float(run[key]) if key in run else math.nan for key in ERRORS)
    ensemble_traces(ess, parents, log_evidence, errors=(genealogy, islands), title=title, ax=ax)


def _steps(ax: Axes, title: str, run: xr.Dataset, own: list[str]) -> None:
    shares: dict[str, np.ndarray] = {}
    coefficients: dict[str, np.ndarray] = {}
    for said in own:
        label = said.removesuffix("_trace")
        if not label.startswith(CONTROL):
            shares[label.replace("_", " ")] = run[said].to_numpy()
            continue
        values = run[said].to_numpy().reshape(run.sizes[STEP], -1).T
        parts = [part for part in values if not np.isnan(part).all()]
        basis = label.removeprefix(CONTROL)
        coefficients |= {basis if len(parts) == 1 else f"{basis} {j + 1}": part for j, part in enumerate(parts)}
    diagnostic_traces(shares, coefficients, title=title, ax=ax)


def fared(evidence: Evidence) -> Drawing | None:
    """How the particles of each sampler that weighs them fared, for one observation."""
    caption = (
        "The effective sample size after each step as a share of the particles, how many distinct ones each resampling "
        "kept, and the evidence so far, with its error at the end: from the genealogy of the run and, where it was "
        "made in islands, from their spread. Where nearly all particles descend from one, the genealogy says ± 1 at "
        "least, and cannot say more: islands, or more particles, can."
    )
    return _drawn(evidence, True, _weights, caption)


def did(evidence: Evidence) -> Drawing | None:
    """What each sampler said of its steps, for one observation."""
    caption = (
        "Acceptance: the share of the particles whose move within a noise level or temperature was accepted; a "
        "Langevin move is healthy above one half. Weight zero: the share that a potential of −∞ removed. Dashed: the "
        "coefficients of the control drift, fitted to the particles at each step; a line that jumps from step to step "
        "says that there are too few particles for it."
    )
    return _drawn(evidence, False, _steps, caption)


ENSEMBLES: dict[str, Callable[[Evidence], Drawing | None]] = {"ensemble_traces": fared, "diagnostic_traces": did}
