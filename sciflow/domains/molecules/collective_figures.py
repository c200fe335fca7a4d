"""Figures of collective variables: maps of two, potentials of mean force, free energies of basins, overlap."""

from __future__ import annotations

import math
from typing import Any

from sciflow.domains.molecules.collective import collective_of
from sciflow.domains.molecules.collective_metrics import FRAMES, HOTTEST, MBAR, UNIT
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.figures.conformations import estimates, overlap_matrix, ramachandran
from sciflow.figures.profiles import mean_force_profile
from sciflow.figures.style import grid, panels

PANELS = 3  # samplers beside the map
PROFILES = 6  # variables that are shown
HIGHEST = 30.0  # [kJ/mol]: 12 kT at 300 K, what frames of a minute can show


def maps(evidence: Evidence) -> Drawing | None:
    """The free energy of the first two variables, and draws of the samplers over it."""
    arrays = evidence.arrays
    if "surface" not in arrays:
        return None
    collective = collective_of(evidence.data)
    both = collective.axes[:2]
    ranges = tuple((axis.low, axis.high) for axis in both)
    basins = {
        unmarked(name): tuple(box.get(axis.name, whole) for axis, whole in zip(both, ranges, strict=True))
        for name, box in collective.basins.items()
    }
    names = arrays["posterior"].to_numpy().tolist()[:PANELS]
    axes = panels(1 + len(names), 4.7, 4.2)
    common: dict[str, Any] = {"basins": basins, "names": [unmarked(axis.name) for axis in both], "ranges": ranges,
                              "units": [axis.unit for axis in both], "highest": HIGHEST}  # fmt: skip
    surface = arrays["surface"].to_numpy()
    known = "all temperatures by MBAR" if "overlap" in arrays else FRAMES
    ramachandran(surface, title=f"Reference: {known}", ax=axes[0], **common)
    for ax, name in zip(axes[1:], names, strict=True):
        dots = arrays["collective"].sel(posterior=name).isel(observation=0, variable=slice(2)).to_numpy()
        ramachandran(surface, dots=dots, title=f"Draws: {unmarked(name)}", ax=ax, **common)
    what = "Ramachandran map" if all(axis.is_circle for axis in both) else "Map of two collective variables"
    return Drawing(axes[0], f"{what}: free energy of each pair of values; white was never entered. Dots are "
                   "draws of a sampler over it: they should fill each basin in its proportion.")  # fmt: skip


def profiles(evidence: Evidence) -> Drawing | None:
    """The potential of mean force of each variable."""
    arrays = evidence.arrays
    if "collective_pmf" not in arrays:
        return None
    shown = collective_of(evidence.data).axes[:PROFILES]
    axes = grid(len(shown), 1, 6.8, 3.3)
    for ax, axis in zip(axes, shown, strict=True):
        own = arrays[["collective_pmf", "collective_pmf_stderr", "collective_at"]].sel(variable=axis.name)
        every = {name: own.sel(estimate=name) for name in arrays["estimate"].to_numpy().tolist()}
        curves = {
            unmarked(name): (one["collective_pmf"].to_numpy(), one["collective_pmf_stderr"].to_numpy())
            for name, one in every.items()
        }
        words: dict[str, Any] = {
            "name": f"{unmarked(axis.name)} [{axis.unit}]",
            "quantity": f"potential of mean force [{UNIT}]",
            "title": f"Potential of mean force of {unmarked(axis.name)}",
        }
        mean_force_profile(own["collective_at"].to_numpy(), curves, highest=HIGHEST, ax=ax, **words)
        ax.set_xlim(axis.low, axis.high)
        if axis.is_circle:
            ax.set_xticks(range(-180, 181, 60))
    return Drawing(axes[0], "Free energy of each value of a collective variable, each curve above its own least value; "
                   "bands are from whole chains, ladders or repeats. On a barrier the frames of one temperature are "
                   "few: there those of hotter ones count most.")  # fmt: skip


def basins(evidence: Evidence) -> Drawing | None:
    """Free energies of the basins, by everyone who estimates them."""
    names = list(collective_of(evidence.data).basins)
    table = {(row["posterior"], row["metric"]): row for row in evidence.rows}
    shown = [name for name in names[1:] if (FRAMES, f"free_energy_{name}") in table]
    if not shown:
        return None
    drawn = evidence.samples["posterior"].to_numpy().tolist()
    order = [name for name in (MBAR, FRAMES, *drawn, HOTTEST) if (name, f"free_energy_{shown[0]}") in table]
    axes = grid(len(shown), 1, 6.4, 1.2 + 0.4 * len(order))
    for ax, basin in zip(axes, shown, strict=True):
        rows = {name: table[name, f"free_energy_{basin}"] for name in order}
        values = {unmarked(name): (row["value"], row["stderr"]) for name, row in rows.items()}
        title = f"Free energy of {unmarked(basin)} above {unmarked(names[0])}"
        estimates(values, unit=UNIT, quantity="ΔF", title=title, ax=ax)
    return Drawing(axes[0], "ΔF = −kT log of the ratio of probabilities. The hottest frames alone, weighted to the "
                   "temperature, are there to show what overlap is for: their k̂ says how little they can be "
                   "believed.")  # fmt: skip


def overlaps(evidence: Evidence) -> Drawing | None:
    """How far the temperatures of a ladder overlap."""
    if "overlap" not in evidence.arrays:
        return None
    kelvins = [f"{value:.0f} K" for value in evidence.data["replica_kelvin"].to_numpy()]
    ax = overlap_matrix(evidence.arrays["overlap"].to_numpy(), names=kelvins, title="Overlap of the temperatures")
    return Drawing(ax, "Free energies are carried from one temperature to the next by the frames that both could have "
                   "produced. A gap in the band beside the diagonal would cut the ladder in two.")  # fmt: skip


def unseen(evidence: Evidence) -> list[str]:
    """Variables whose range in the run file holds no frame at all."""
    if "held_out_collective" not in evidence.arrays:
        return []
    found = []
    for axis in collective_of(evidence.data).axes:
        values = evidence.arrays["held_out_collective"].sel(variable=axis.name).to_numpy()
        if not (axis.is_circle or ((values >= axis.low) & (values < axis.high)).any()):
            found.append(
                f"No held-out frame has {axis.name} between {axis.low:g} and {axis.high:g} {axis.unit}: they lie "
                f"between {values.min():.3g} and {values.max():.3g}. Change dataset.collective.ranges."
            )
    return found


def sentences(evidence: Evidence) -> list[str]:
    """Free energies of the basins and whether MBAR can be believed, in words."""
    table = {(row["posterior"], row["metric"]): row for row in evidence.rows}
    names, found = list(collective_of(evidence.data).basins), unseen(evidence)
    for (posterior, metric), row in table.items():
        basin = metric.removeprefix("free_energy_")
        if basin not in names or metric == basin or posterior == HOTTEST:
            continue
        said = f"{posterior}: free energy of {basin} above {names[0]}"
        z = table.get((posterior, f"{metric}_z"))
        if not math.isfinite(row["value"]):
            found.append(f"{said} is not known: a basin is empty.")
        else:
            told = row["note"].partition("above ")[2].partition("; ")[2] or row["note"]
            beside = f"; z = {z['value']:.1f} against the reference" if z and math.isfinite(z["value"]) else ""
            found.append(f"{said} {row['value']:.2f} ± {row['stderr']:.2f} {UNIT} ({told}{beside}).")
    if (MBAR, "ess") in table:
        n, k, least = (table[MBAR, name] for name in ("ess", "khat", "overlap_min"))
        alone = table[HOTTEST, "khat"]["value"]
        found.append(
            f"MBAR over all temperatures: {n['value']:.0f} effective frames ({n['note']}), k̂ = {k['value']:.2f}, least "
            f"overlap of neighbours {least['value']:.2f}; the hottest frames alone would have k̂ = {alone:.2f} (above "
            "0.7 weights cannot be used)."
        )
    return found
