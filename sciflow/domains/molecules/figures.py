"""What do we show? Samples over the exact law, the potential of mean force, distances beside their floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sciflow.domains.ensembles import ENSEMBLES
from sciflow.domains.molecules.collective_figures import basins, maps, overlaps, profiles, sentences
from sciflow.domains.molecules.collective_metrics import FRAMES
from sciflow.domains.molecules.metrics import DISTANCES, EXACT
from sciflow.domains.molecules.reference import LARGEST_ERROR, LARGEST_Z
from sciflow.domains.protocol import Drawing, Evidence, unmarked
from sciflow.domains.shown import loss
from sciflow.figures.profiles import distance_bars, mean_force_profile
from sciflow.figures.scatter import posterior_scatter
from sciflow.figures.style import grid, panels

PANELS = 4  # maps in a row
LARGEST_RHAT = 1.1  # Gelman et al. (2013), section 11.4
LARGEST_HEIGHT = 1000  # beyond, overlapping atoms of a few draws rule a distance: a number would say nothing
SIGNED = ("free_energy_", "log_partition")  # z of these may be below zero: they are said elsewhere
TITLES = {
    "js": ("Jensen–Shannon divergence", "Density on a grid"),
    "pmf_error": ("mean squared error of −log p", "Potential of mean force on a grid"),
    "energy_w2": ("W2 of the energy", "Energies"),
    "observable_w2": ("W2 of the observable", "Observable"),
    "collective_js": ("Jensen–Shannon divergence", "First two collective variables, 24 cells along each"),
}


def samples_map(evidence: Evidence) -> Drawing | None:
    """Samples of every sampler over the exact density; nothing where the law does not lie in the plane."""
    arrays = evidence.arrays
    if "log_density" not in arrays:
        return None
    drawn = evidence.samples["samples"].isel(observation=0)
    names = drawn["posterior"].to_numpy().tolist()[:PANELS]
    axes = panels(len(names), 4.0, 4.4)
    x, y, density = (arrays[name].to_numpy() for name in ("x", "y", "log_density"))
    for ax, name in zip(axes, names, strict=True):
        dots = drawn.sel(posterior=name).to_numpy()
        chosen = dots[np.linspace(0, len(dots) - 1, min(len(dots), 1000)).astype(int)]  # of all chains and times
        posterior_scatter(chosen, x, y, density, title=unmarked(name), names=("x", "y"), ax=ax)
    return Drawing(axes[0], "Shading is the exact law, dots are draws: they should fill each well in its proportion, "
                   "and the passes between wells thinly.")  # fmt: skip


def mean_force(evidence: Evidence) -> Drawing:
    """Potential of mean force along one coordinate."""
    arrays = evidence.arrays
    names = arrays["posterior"].to_numpy().tolist()
    both = {unmarked(name): arrays[["pmf", "pmf_stderr"]].sel(posterior=name) for name in names}
    curves = {name: (one["pmf"].to_numpy(), one["pmf_stderr"].to_numpy()) for name, one in both.items()}
    ax = mean_force_profile(
        arrays["bin"].to_numpy(),
        curves,
        exact=arrays["pmf_exact"].to_numpy(),
        known=str(arrays.attrs["known"]),
        name=str(arrays.attrs["coordinate"]),
    )
    return Drawing(ax, "Free energy of each value of the coordinate. A well that is too deep holds too many samples; a "
                   "barrier that is too low is crossed too often in a simulation.")  # fmt: skip


def distances(evidence: Evidence) -> Drawing | None:
    """Every distance that was measured, a panel each."""
    table = {(row["posterior"], row["metric"]): row for row in evidence.rows}
    shown = [name for name in DISTANCES if (EXACT, name) in table]
    if not shown:
        return None
    names = [name for name in evidence.samples["posterior"].to_numpy().tolist()]
    axes = grid(len(shown), 1, 6.4, 1.5 + 0.4 * len(names))
    for ax, metric in zip(axes, shown, strict=True):
        exact = table[EXACT, metric]
        floor = exact["value"], exact["stderr"] * math.sqrt(exact["n"])
        values = {unmarked(name): (table[name, metric]["value"], table[name, metric]["stderr"]) for name in names}
        quantity, title = TITLES[metric]
        distance_bars(values, floor, quantity=quantity, unit=str(exact["unit"]), title=title, ax=ax)
    return Drawing(axes[0], "How far each set of samples is from the exact law. The dashed line is what perfect "
                   "samples score with as many draws: nothing can be seen below it.")  # fmt: skip


def certificate(attributes: Mapping[str, Any]) -> str:
    """What the data set says about its frames."""
    if "chains_drift" in attributes:
        return chains(attributes)
    if "reference_holds" not in attributes:
        return ""
    number = {key[10:]: value for key, value in attributes.items() if key.startswith("reference_")}
    exact = f", exact {attributes['log_partition']:.3f}" if "log_partition" in attributes else ""
    estimate, stderr = number["log_partition"], number["log_partition_stderr"]
    said = (
        f"log Z {estimate:.3f} ± {stderr:.3f}{exact}; drift in a restart |t| = {number['drift']:.1f} "
        f"({number['drift_of']}); distance between islands z = {number['distance']:.1f} ({number['distance_of']})"
    )
    limits = f"limits: error of log Z {LARGEST_ERROR}, |t| and z {LARGEST_Z:g}"
    held = "holds" if int(number["holds"]) else "DOES NOT HOLD: take more chains"
    return f"Certificate of the data: {said}. It {held} ({limits})."


def chains(attributes: Mapping[str, Any]) -> str:
    """What chains of a molecule say about themselves."""
    number = {key[7:]: value for key, value in attributes.items() if key.startswith("chains_")}
    said = (
        f"drift between first and last frame |t| = {number['drift']:.1f} ({number['drift_of']}); spread between chains "
        f"R̂ = {number['rhat']:.2f} ({number['rhat_of']}); temperature that the positions show "
        f"{number['temperature']:.1f} ± {number['temperature_stderr']:.1f} K, of the bath {attributes['kelvin']:.1f} K"
    )
    if "exchange_acceptance" in attributes:
        said += f"; neighbouring temperatures exchange with probability {attributes['exchange_acceptance']:.2f} or more"
    for share, words in (("share_left_handed", "are of the L form"), ("share_cis", "of the peptide bonds are cis")):
        if share in attributes:
            said += f"; {100 * attributes[share]:.1f} % {words}"
    holds = number["drift"] < LARGEST_Z and number["rhat"] < LARGEST_RHAT
    held = "Nothing speaks against them" if holds else "They DO NOT hold: take longer chains"
    return f"Frames of the data: {said}. {held} (limits: |t| {LARGEST_Z:g}, R̂ {LARGEST_RHAT})."


def agreement(row: Mapping[str, Any], first: str) -> str:
    """Whether a sampler's draws can be told from those of the first one."""
    both, z = f"{row['posterior']} and {first}", row["value"]
    if z > 2:
        return f"{both} differ, by {z:.0f} standard deviations more than two sets of perfect draws do."
    return f"{both} agree as two sets of perfect draws do (z = {z:.1f})."


def mirrored(row: Mapping[str, Any]) -> str:
    """How many draws are mirror images of the molecule."""
    return f"{100 * row['value']:.1f} % of the draws of {row['posterior']} have a residue of the D form."


def verdicts(evidence: Evidence) -> list[str]:
    """The certificate of the data, and which samplers can be told from perfect draws."""
    found = [certificate(evidence.data.attrs)]
    for row in evidence.rows:
        if not row["metric"].endswith("_z") or row["metric"].startswith(SIGNED):
            continue
        metric, z = row["metric"].removesuffix("_z"), row["value"]
        if metric == "consistency_js":
            found.append(agreement(row, str(evidence.samples["posterior"].to_numpy()[0])))
            continue
        good = f"cannot be told from perfect draws by {metric} at this sample size (z = {z:.1f})"
        height = f"{z:.0f}" if z <= LARGEST_HEIGHT else f"more than {LARGEST_HEIGHT}"
        bad = f"is {height} standard deviations above the floor of {metric}"
        found.append(f"{row['posterior']} {bad if z > 2 else good}.")
    found += [mirrored(row) for row in evidence.rows if row["metric"] == "share_d_form" and row["posterior"] != FRAMES]
    return [sentence for sentence in [*found, *sentences(evidence)] if sentence]


FIGURES: dict[str, Callable[[Evidence], Drawing | None]] = {
    "samples_map": samples_map,
    "mean_force": mean_force,
    "distances": distances,
    "loss_curve": loss,
    "ramachandran": maps,
    "collective_profiles": profiles,
    "basin_free_energies": basins,
    "overlap": overlaps,
    **ENSEMBLES,
}
