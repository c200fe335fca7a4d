"""What is good? The law of the potential, as far as so many samples can tell: every distance beside its floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.domains.molecules.collective_metrics import FRAMES, Conformations
from sciflow.domains.molecules.law import Law
from sciflow.domains.molecules.potential import OnGrid
from sciflow.domains.molecules.quadrature import lattice, log_weights
from sciflow.domains.molecules.simulate import event_dims
from sciflow.domains.protocol import Findings, Row
from sciflow.inverse.likelihood import LikelihoodModel
from sciflow.metrics.better import LESS, Direction
from sciflow.metrics.boltzmann import cell_masses, free_energy_difference
from sciflow.metrics.floor import Floor, floor
from sciflow.metrics.score import Score, average
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

EXACT = "perfect draws"
LEAST_MEMBERS = 64  # a share of a basin, or a histogram, of fewer says nothing
N_FLOOR = 8  # sets of perfect draws
N_BLOCKS = 32  # of neighbouring samples of one repeat, for errors that know of correlations
MAP = 201  # points of the plotted density along each axis


def _js(law: Law, x: Tensor) -> float | None:
    """Jensen–Shannon divergence from the exact law, on cells of the window.

    Exactness: exact probabilities by quadrature; what lies outside of the window counts as one more cell
    Cost: O(samples + cells)
    Bias: upward, about occupied cells over 8 × samples: read it against the floor and with its z
    Source: Lin (1991); the squared distance of ScoreMD.
    """
    return law.js(x) if law.is_exact and law.cells else None


def _pmf_error(law: Law, x: Tensor) -> float | None:
    """Mean squared error of the potential of mean force on cells of the window, weighted by the law [kT²].

    Exactness: exact probabilities by quadrature; empty cells count as 10⁻⁶
    Cost: O(samples + cells)
    Bias: upward, about cells over samples: read it against the floor and with its z
    Source: Arts et al. (2023), Two for one.
    """
    return law.pmf_error(x) if law.is_exact and law.cells else None


def _energy_w2(law: Law, x: Tensor) -> float:
    """Wasserstein-2 distance of energies to those of perfect draws [kT].

    Exactness: exact between the two finite sets
    Cost: O(samples log samples)
    Bias: upward, and ruled by the tail: read it against the floor and with its z
    Source: Akhound-Sadegh et al. (2024), Iterated denoising energy matching, with the square root.
    """
    return law.number_w2("energy", x)


def _observable_w2(law: Law, x: Tensor) -> float:
    """Wasserstein-2 distance of the first observable to that of perfect draws: a coordinate, or a mean distance.

    Exactness: exact between the two finite sets
    Cost: O(samples log samples)
    Bias: upward: read it against the floor and with its z
    Source: Villani (2003), theorem 2.18, for one dimension.
    """
    return law.number_w2(law.coordinate, x)


def _free_energy(law: Law, x: Tensor, stream: Stream) -> Score | None:
    """Error of the free energy between two basins, with a block bootstrap [kT].

    Exactness: against quadrature
    Cost: O(samples)
    Bias: O(1/samples); blocks shorter than the memory of a chain give too small an error
    Source: Künsch (1989), The jackknife and the bootstrap for general stationary observations.
    """
    if law.free_energy is None:
        return None
    basins = law.potential.basins(x.double())  # type: ignore[attr-defined]
    found = free_energy_difference(basins, stream, block=max(1, len(x) // N_BLOCKS))
    note = f"exact {law.free_energy:.3f}; {found.note}"
    return Score(found.value - law.free_energy, found.stderr, found.n, "kT", note)


def _collective_js(law: Law, x: Tensor) -> float | None:
    """Jensen–Shannon divergence of the first two collective variables from those of held-out frames, on 24 cells each.

    Exactness: between the two finite sets; what lies beyond the range of a distance counts as one more cell
    Cost: O(samples + cells)
    Bias: upward, about occupied cells over 4 × samples, and by the memory of chains: read it against the floor
    Source: Lin (1991); for torsions as in ScoreMD.
    """
    return law.collective_js(x) if law.collective.names else None


def _basin_free_energy(conformations: Conformations) -> list[Row]:
    """Free energy of each basin above the first: counted, by MBAR, and of every sampler [kJ/mol].

        ΔF = −kT log(p_basin/p_first)

    Exactness: exact for the given frames; z against MBAR, or the count where there is one temperature
    Cost: O(frames × bootstrap sets)
    Bias: O(1/independent frames); chains shorter than their memory give too small an error
    Source: Künsch (1989), The jackknife and the bootstrap for general stationary observations; whole chains are blocks.
    """
    return conformations.basin_rows()


def _mbar(conformations: Conformations) -> list[Row]:
    """Overlap, effective samples and k̂ of MBAR over all temperatures, and log Z(T)/Z(hottest) beside the samplers'.

    Exactness: the estimator of least variance from these frames; nothing where there is one temperature
    Cost: O(states × frames × bootstrap sets)
    Bias: none is left where neighbouring temperatures overlap by less than about 0.03
    Source: Shirts and Chodera (2008); Klimovich, Shirts and Mobley (2015); Vehtari et al. (2024) for k̂.
    """
    return conformations.mbar_rows()


def _consistency_js(law: Law, drawn: Mapping[str, Tensor]) -> list[Row]:
    """Jensen–Shannon divergence of each sampler's draws from those of the first sampler, on cells of the window.

        z = (JS − mean)/sd of the same between two sets of perfect draws: do sampling and simulation agree?

    Exactness: between the two finite sets; it says nothing of whether both are right, `js` does
    Cost: O(samplers × (samples + cells))
    Bias: upward, about occupied cells over 4 × samples, and by the memory of chains: read it against the floor
    Source: Lin (1991); for the question Arts et al. (2023), Two for one.
    """
    if not (law.is_exact and law.cells) or len(drawn) < 2:
        return []
    (first, others), *rest = drawn.items()
    n = others.shape[1]
    pairs = [(law.perfect(k, n), law.perfect(k + N_FLOOR, n)) for k in range(1, N_FLOOR + 1)]
    noise = floor([law.js(one, other) for one, other in pairs])
    rows = [Row(EXACT, "consistency_js", Score(noise.mean, noise.stderr, noise.n, "nat", f"floor of two sets of {n}"))]
    for posterior, repeats in rest:
        found = [law.js(own, other) for own, other in zip(repeats, others, strict=True)]
        distances = torch.tensor(found, dtype=torch.float64)
        rows.append(Row(posterior, "consistency_js", average(distances, "nat", f"from {n} samples of {first}")))
        rows.append(Row(posterior, "consistency_js_z", _z(distances, noise)))
    return rows


def _stereochemistry(law: Law, drawn: Mapping[str, Tensor]) -> list[Row]:
    """Share of draws with a residue of the D form, and with a cis peptide bond, of held-out frames and every sampler.

    Exactness: exact for the given draws
    Cost: O(draws)
    Bias: none
    Source: IUPAC-IUB (1970), conventions for polypeptides: L has (N−CA × C−CA)·(CB−CA) > 0, trans |ω| > 90°.
    """
    molecule = getattr(law.potential, "molecule", None)
    if molecule is None:
        return []
    rows = []
    for name, x in {FRAMES: law.frames[None], **drawn}.items():
        for metric, wrong in (("share_d_form", molecule.handedness(x) <= 0), ("share_cis", molecule.cis(x))):
            if wrong.shape[-1]:
                shares = wrong.any(-1).double().mean(1)
                rows.append(Row(name, metric, average(shares, "1", f"of {x.shape[1]} draws")))
    return rows


DISTANCES: dict[str, tuple[Callable[[Law, Tensor], float | None], str]] = {
    "js": (_js, "nat"),
    "pmf_error": (_pmf_error, "kT²"),
    "energy_w2": (_energy_w2, "kT"),
    "observable_w2": (_observable_w2, "1"),
    "collective_js": (_collective_js, "nat"),
}
OF_DRAWS: dict[str, Callable[[Law, Mapping[str, Tensor]], list[Row]]] = {
    "consistency_js": _consistency_js,
    "stereochemistry": _stereochemistry,
}
OF_CONFORMATIONS: dict[str, Callable[[Conformations], list[Row]]] = {
    "basin_free_energy": _basin_free_energy,
    "mbar": _mbar,
}
METRICS: dict[str, Callable] = {
    **{name: entry for name, (entry, _) in DISTANCES.items()},
    "free_energy": _free_energy,
    **OF_DRAWS,
    **OF_CONFORMATIONS,
}
BETTER: dict[str, Mapping[str, Direction]] = {
    **{name: {name: LESS, f"{name}_z": 0.0} for name in (*DISTANCES, "consistency_js")},
    "free_energy": {"free_energy_error": 0.0},
    "basin_free_energy": {},  # no error but an estimate, as the reference beside it is
    "mbar": {},
    "stereochemistry": {"share_d_form": LESS, "share_cis": LESS},
}


def evaluate(
    names: Sequence[str], data: xr.Dataset, samples: xr.Dataset, likelihood: LikelihoodModel, stream: Stream,
    shown: Sequence[str] | None = None,
) -> Findings:  # fmt: skip
    """Distances of every sampler from the law, their floor and z, and the potential of mean force with its error."""
    law = Law.of(data, stream.child("law"))
    dims = ("observation", "member", *event_dims(law.potential))
    drawn = {
        str(name): from_xarray(samples["samples"].sel(posterior=name), dims)
        for name in samples["posterior"].to_numpy().tolist()
    }
    conformations = Conformations.of(data, samples, drawn, stream.child("torsions"))
    rows: list[Row] = []
    for name in names:
        if name == "free_energy":
            rows += _free_energies(law, drawn, stream.child(name))
        elif name in OF_DRAWS:
            rows += OF_DRAWS[name](law, drawn)
        elif name in OF_CONFORMATIONS:
            rows += OF_CONFORMATIONS[name](conformations) if conformations else []
        else:
            rows += _distances(law, name, drawn)
    if not (names if shown is None else shown):
        return Findings(rows, to_xarray({}, {}))
    arrays = _arrays(law, drawn)
    if conformations:
        arrays = arrays.merge(conformations.arrays(), combine_attrs="no_conflicts")
    return Findings(rows, arrays)


def _distances(law: Law, name: str, drawn: dict[str, Tensor]) -> list[Row]:
    """The floor of one distance, and value and z of every sampler; nothing where the law does not have it."""
    metric, unit = DISTANCES[name]
    n = law.size(next(iter(drawn.values())).shape[1])
    sides = [law.turned(k) for k in range(1, N_FLOOR + 1)]  # each with another half of the chains to compare with
    perfect = [metric(side, side.perfect(k, n)) for k, side in enumerate(sides, 1)]
    distances = [d for d in perfect if d is not None]
    if not distances:
        return []
    noise = floor(distances)
    rows = [Row(EXACT, name, Score(noise.mean, noise.stderr, noise.n, unit, f"floor of {n} samples"))]
    for posterior, repeats in drawn.items():
        found = torch.tensor([metric(law, x[:n]) for x in repeats], dtype=torch.float64)
        rows.append(Row(posterior, name, average(found, unit, f"{n} samples")))
        rows.append(Row(posterior, f"{name}_z", _z(found, noise)))
    return rows


def _z(distances: Tensor, noise: Floor) -> Score:
    values = torch.tensor([noise.z(float(d)) for d in distances], dtype=torch.float64)
    return average(values, "1", f"(distance − floor)/sd, of {noise.n} sets of perfect draws; perfect is 0 ± 1")


def _free_energies(law: Law, drawn: dict[str, Tensor], stream: Stream) -> list[Row]:
    """Errors of the free energy, pooled over repeats."""
    n = law.size(next(iter(drawn.values())).shape[1])
    rows = []
    for posterior, repeats in {EXACT: law.perfect(1, n)[None], **drawn}.items():
        scores = [_free_energy(law, x, stream.child(posterior, i)) for i, x in enumerate(repeats)]
        found = [score for score in scores if score is not None]
        if found:
            value = sum(score.value for score in found) / len(found)
            stderr = math.sqrt(sum(score.stderr**2 for score in found)) / len(found)
            rows.append(Row(posterior, "free_energy_error", Score(value, stderr, len(found), "kT", found[0].note)))
    return rows


def profile(x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """−log of the share of each bin, and its standard error from blocks of neighbouring samples, (bin,) each.

    Args:
        x: values of the coordinate, (repeat, member).
        edges: of the bins.
    """
    blocks = [part for repeat in x for part in repeat.chunk(N_BLOCKS)]
    shares = torch.stack([cell_masses(part[:, None], [edges])[:-1] for part in blocks])
    mean = shares.mean(0)
    width = edges[1] - edges[0]
    return -(mean / width).log(), shares.std(0) / math.sqrt(len(blocks)) / mean


def _arrays(law: Law, drawn: dict[str, Tensor]) -> xr.Dataset:
    """What the figures show: the potential of mean force, and the density where it lies in the plane."""
    edges, mass = law.profile
    found = {
        name: profile(torch.stack([law.number(law.coordinate, part) for part in x]), edges) for name, x in drawn.items()
    }
    values = {
        "pmf": torch.stack([pmf for pmf, _ in found.values()]),
        "pmf_stderr": torch.stack([stderr for _, stderr in found.values()]),
        "pmf_exact": -(mass / (edges[1] - edges[0])).log(),
    }
    dims = {"pmf": ("posterior", "bin"), "pmf_stderr": ("posterior", "bin"), "pmf_exact": ("bin",)}
    coords = {"posterior": np.array(list(drawn)), "bin": (0.5 * (edges[1:] + edges[:-1])).numpy()}
    if isinstance(law.potential, OnGrid) and law.potential.shape == (2,):
        x, y = (torch.linspace(low, high, MAP, dtype=torch.float64) for low, high in law.potential.window)
        values["log_density"] = log_weights(law.potential, lattice([x, y])).reshape(MAP, MAP).T
        dims["log_density"] = ("y", "x")
        coords |= {"x": x.numpy(), "y": y.numpy()}
    return to_xarray(values, dims, coords).assign_attrs(
        coordinate=law.coordinate, known="exact" if law.is_exact else "held-out frames"
    )
