"""Figures of forecasts of several fields: space and time, spectra, and scores against lead time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.domains.pde.evolve import EVENT
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures import style
from sciflow.figures.gallery import GAP, posterior_gallery
from sciflow.figures.lead import score_by_lead, space_time, spectra
from sciflow.figures.loss import loss_curve

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

EXACT = "exact draws"
GOAL = (0.9, 1.1)  # of the spread–skill ratio
MOST_ROWS = 4
N_MEMBERS = 2
PLANES = ("time", "y", "x")
FORECAST = (
    "Where the future is open, as under gusts, no forecast can know when and where such a change comes; a member of a "
    "good ensemble has changes as sharp as those of the truth, at other times and places."
)
ASSIMILATED = (
    "Where sensors read, the members of all posteriors should agree with the truth; between sensors they may differ, "
    "and the spread should say by how much. A filter looks back only: it does not know of a change that no sensor has "
    "felt yet, and its members at two times are no trajectory. Where the spread is nothing at all places, a particle "
    "filter has all weight on one particle."
)


def is_assimilated(data: xr.Dataset) -> bool:
    """Whether no field was given whole, so that states are to be told at all times, and nothing is a forecast."""
    return data.attrs.get("n_given", 1) == 0


def space_time_gallery(evidence: Evidence) -> Drawing | None:
    """The held-out trajectory that strays most: truth, mean, spread and members of each forecast, in space and time."""
    data, samples = evidence.data, evidence.samples["samples"]
    if "channel" in data["data"].dims:
        one = replace(evidence, data=data.isel(channel=0), samples=evidence.samples.isel(channel=0))
        shown = space_time_gallery(one)
        return shown and replace(shown, caption=f"{data['channel'].values[0]}, the first variable. {shown.caption}")
    if data["data"].dims[1:] == PLANES and "truth" in data.variables:
        return _planes(data, samples)
    if data["data"].dims[1:] != EVENT or data.sizes["time"] < 3 or "truth" not in data.variables:
        return None
    truths, worst = _sharpest(data, EVENT)
    truth, x, time = truths[worst], data["x"].to_numpy(), data["time"].to_numpy()
    names = [str(name) for name in samples["posterior"].to_numpy()]
    draws = {n: samples.sel(posterior=n)[worst].transpose("member", *EVENT).to_numpy() for n in names[:MOST_ROWS]}
    if "exact" in data.variables:
        draws[EXACT] = data["exact"][worst].transpose("exact_member", *EVENT).to_numpy()
    size = float(np.abs(truth).max())
    widest = max(float(drawn.std(0).max()) for drawn in draws.values()) or 1.0
    axes = style.grid(len(draws), 3 + N_MEMBERS, 2.9, 2.3)
    for row, (name, drawn) in enumerate(draws.items()):
        first = (3 + N_MEMBERS) * row
        fields = {"truth": truth, "mean": drawn.mean(0), **{f"member {k + 1}": drawn[k] for k in range(N_MEMBERS)}}
        for column, (what, field) in enumerate(fields.items()):
            title = f"{unmarked(name)}: {what}" if what != "truth" else "truth"
            space_time(x, time, field, limits=(-size, size), title=title, ax=axes[first + column])
        space_time(
            x, time, drawn.std(0), is_spread=True, limits=(0, widest), title="spread", ax=axes[first + len(fields)]
        )
    return Drawing(
        axes[0],
        "One held-out trajectory, that with the sharpest change from one field to the next: time goes up from the "
        "first field. One line of panels for each posterior: truth, mean of the members, two members, and standard "
        "deviation of the members. " + (ASSIMILATED if is_assimilated(data) else FORECAST),
    )


def _sharpest(data: xr.Dataset, event: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """The held-out trajectories (observation, *event), and which has the sharpest change from field to field."""
    truths = data["truth"].transpose("observation", *event).to_numpy()
    changes = np.abs(np.diff(truths, axis=1)).reshape(len(truths), -1)
    return truths, int(changes.max(1).argmax())


def _planes(data: xr.Dataset, samples: xr.DataArray) -> Drawing:
    """Fields of a plane at a few times, one below the other: truth, mean, spread and members of each forecast."""
    truths, worst = _sharpest(data, PLANES)
    shown = np.unique(np.linspace(0, truths.shape[1] - 1, MOST_ROWS).round().astype(int))
    draws = {
        unmarked(str(name)): samples.sel(posterior=name)[worst].transpose("time", "member", "y", "x").to_numpy()
        for name in samples["posterior"].to_numpy()[:MOST_ROWS]
    }
    if "exact" in data.variables:
        draws[EXACT] = data["exact"][worst].transpose("time", "exact_member", "y", "x").to_numpy()
    ratio = truths.shape[-2] / truths.shape[-1]
    axes = style.grid(len(draws), 1, 6.0, (ratio + GAP) * 1.1 * len(shown) + 1.2)
    for ax, (name, drawn) in zip(axes, draws.items(), strict=True):
        posterior_gallery(truths[worst][shown], None, drawn[shown], n_members=N_MEMBERS, title=name, ax=ax)
        for row, time in enumerate(data["time"].to_numpy()[shown]):
            middle = (ratio + GAP) * row + ratio / 2
            ax.text(-0.05, middle, f"t = {time:g}", rotation=90, ha="right", va="center", fontsize=8, color=style.INK)
    return Drawing(
        axes[0],
        "One held-out trajectory, that with the sharpest change from one field to the next, at a few times; one block "
        "for each posterior. A mean of fields is smoother than any of them; a member of a good ensemble is as sharp as "
        "the truth, and members differ where the spread is large.",
    )


def crps_by_lead(evidence: Evidence) -> Drawing | None:
    """CRPS against lead time, and how far it is above that of the exact draws."""
    arrays = evidence.arrays
    if "lead_crps" not in arrays.variables:
        return None
    has_exact = "lead_crps_excess" in arrays.variables
    axes = style.panels(2 if has_exact else 1, 6.8, 3.8)
    title = "How wrong is each posterior?" if is_assimilated(evidence.data) else "How wrong is each forecast?"
    _by_lead(evidence, "crps", axes[0], quantity="CRPS", title=title, has_legend=not has_exact)
    caption = (
        "Fair CRPS, which is the mean absolute error for a single field, so that one field and an ensemble can be "
        "compared; bands are ± 2 standard errors over held-out trajectories. "
    )
    if is_assimilated(evidence.data):
        caption += (
            "Time is counted from the first field, which was measured in part like the others. All posteriors share "
            "the trajectories, so that differences are surer than the bands."
        )
    if has_exact:
        title = "How far above the exact draws?"
        _by_lead(evidence, "crps_excess", axes[1], quantity="CRPS less that of the exact draws", title=title)
        caption += (
            "All forecasts share the trajectories, so that differences are surer than each number alone: right, the "
            "difference from the exact draws, trajectory by trajectory. Below 0 can only be luck."
        )
    return Drawing(axes[0], caption)


def spread_skill_by_lead(evidence: Evidence) -> Drawing | None:
    """Spread–skill ratio against lead time."""
    note = f"grey: {GOAL[0]:g} to {GOAL[1]:g}"
    title = "Does the ensemble know how wrong it is?"
    if "lead_spread_skill" not in evidence.arrays.variables:
        return None
    ax = style.panels(1, 6.8, 3.8)[0]
    _by_lead(evidence, "spread_skill", ax, quantity="spread over error", title=title, note=note, goal=GOAL)
    caption = (
        "Spread of the ensemble over the error of its mean. At 1 the ensemble knows how wrong it is, below it is "
        "over-confident; a single field has no spread at all."
    )
    if "lead_crps_excess" in evidence.arrays.variables:
        caption += " How far the exact draws are from 1 is what chance does with so many trajectories."
    return Drawing(ax, caption)


def _by_lead(evidence: Evidence, name: str, ax: Axes, **options: Any) -> None:
    arrays, keys = evidence.arrays, (f"lead_{name}", f"lead_{name}_stderr")
    curves = {
        unmarked(str(p)): (arrays[keys[0]].sel(posterior=p).to_numpy(), arrays[keys[1]].sel(posterior=p).to_numpy())
        for p in arrays["posterior"].to_numpy()
    }
    clock = "time" if is_assimilated(evidence.data) else "lead time"
    score_by_lead(arrays["lead"].to_numpy(), curves, reference=EXACT, clock=clock, ax=ax, **options)


def spectra_at_the_end(evidence: Evidence) -> Drawing | None:
    """Energy spectra of the last fields."""
    arrays = evidence.arrays
    if "spectrum" not in arrays.variables:
        return None
    names = [str(name) for name in arrays["posterior"].to_numpy() if str(name) != EXACT]
    curves = {unmarked(name): arrays["spectrum"].sel(posterior=name).to_numpy() for name in names}
    clock = "time" if is_assimilated(evidence.data) else "lead time"
    title = f"Energy at each scale, at {clock} {float(arrays['lead'][-1]):g}"
    ax = spectra(curves, arrays["spectrum_truth"].to_numpy(), title=title)
    return Drawing(
        ax,
        f"Mean energy of the members at each wavenumber, at the last {clock}. A mean of fields is smoother than any "
        "of them: it lacks energy at small scales. Noise that is not part of the flow has too much of it.",
    )


def forecaster_losses(evidence: Evidence) -> Drawing | None:
    """Training and validation loss of each forecaster."""
    found = evidence.history.get("forecasters", {})
    if not found:
        return None
    axes = style.panels(len(found))
    for ax, (name, history) in zip(axes, found.items(), strict=True):
        validation, values = history["validation"], history["loss"]
        steps = np.arange(1, len(values) + 1)
        loss_curve(steps, values, list(validation), list(validation.values()), title=unmarked(name), ax=ax)
    return Drawing(
        axes[0],
        "What each forecaster minimised: the squared error of the increment over its mean square for a regression, the "
        "denoising error for a conditional diffusion. They are not comparable with each other.",
    )


FIGURES = {
    "space_time": space_time_gallery,
    "crps_by_lead": crps_by_lead,
    "spread_skill_by_lead": spread_skill_by_lead,
    "spectra": spectra_at_the_end,
    "forecaster_losses": forecaster_losses,
}


def verdicts(evidence: Evidence) -> list[str]:
    """CRPS beside that of the exact draws, and spread–skill, in words; nothing for other runs."""
    if "lead_crps" not in evidence.arrays.variables:
        return []
    table = {(row["posterior"], row["metric"]): row for row in evidence.rows}
    said, exact = [], table.get((EXACT, "crps"))
    for name in dict.fromkeys(row["posterior"] for row in evidence.rows):
        crps, ratio = table.get((name, "crps")), table.get((name, "spread_skill"))
        if name == EXACT or crps is None:
            continue
        words = f"{name}: CRPS {crps['value']:.4f} ± {crps['stderr']:.4f}"
        if exact is not None:
            words += f", {100 * (crps['value'] / exact['value'] - 1):+.0f} % from the exact draws"
        if ratio is not None:
            value, stderr = ratio["value"], ratio["stderr"]
            words += f"; spread–skill {value:.2f} ± {stderr:.2f}, {_judged(value, stderr)}"
        said.append(words + ".")
    return said


def _judged(ratio: float, stderr: float) -> str:
    """Where a spread–skill ratio lies, and whether chance may have put it there."""
    low, high = GOAL
    off = max(low - ratio, ratio - high)
    if off <= 0:
        return f"within {low:g} to {high:g}"
    if off <= style.ERRORS * stderr:
        return f"outside {low:g} to {high:g}, by less than its error"
    return f"outside {low:g} to {high:g}: {'over-confident' if ratio < low else 'too wide'}"
