"""Recompute datasets/<name>/stats.yaml from the data themselves: `python docs/stats.py`. A test compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sciflow.domains.analytic.simulate import MixtureGrid
from sciflow.domains.analytic.twin import Lorenz96Paths
from sciflow.domains.imaging.patches import Patches
from sciflow.domains.imaging.simulate import FORM_STARTS, Digits
from sciflow.domains.pde.chromatograms import Chromatograms
from sciflow.domains.pde.porous import PorousSquare
from sciflow.domains.pde.simulate import Evolving
from sciflow.inverse import CartesianMRI, LogPoissonNoise, ParallelBeam
from sciflow.inverse.darcy import Darcy
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
SEED = 0  # of the default runs


def _round(value: Any, digits: int = 6) -> float:
    return round(float(value), digits)


def digits() -> dict[str, Any]:
    """Facts of the digits as the run `digits-inpainting` splits them."""
    from sklearn.datasets import load_digits

    data = Digits().simulate(Stream(SEED).child("dataset"))
    images, labels = data["data"].to_numpy(), load_digits().target
    flat, split = images.reshape(len(images), -1), data["split"].to_numpy()
    form = np.searchsorted(FORM_STARTS, np.arange(len(flat)), side="right") - 1
    distances = np.sqrt(((flat[:, None].astype(np.float64) - flat[None]) ** 2).sum(-1))
    same_label = labels[:, None] == labels[None]
    np.fill_diagonal(same_label, False)
    same_form = form[:, None] == form[None]
    shared = np.isin(form[split == "test"], form[split == "train"]).mean()
    return {
        "samples": len(images),
        "shape": list(images.shape[1:]),
        "minimum": _round(images.min()),
        "maximum": _round(images.max()),
        "mean": _round(images.mean(dtype=np.float64)),
        "standard_deviation": _round(images.std(dtype=np.float64)),
        "grey_levels": len(np.unique(images)),
        "share_of_zeros": _round((images == 0).mean()),
        "constant_pixels": int((flat.max(0) == flat.min(0)).sum()),
        "duplicate_images": len(flat) - len(np.unique(flat, axis=0)),
        "samples_of_each_digit": np.bincount(labels).tolist(),
        "split": {name: int((split == name).sum()) for name in ("train", "validation", "test")},
        "writer_forms": len(FORM_STARTS),
        "distance_within_form_over_between": _round(
            distances[same_label & same_form].mean() / distances[same_label & ~same_form].mean(), 4
        ),
        "share_of_test_digits_whose_form_is_trained_on": _round(shared, 4),
    }


def gravel() -> dict[str, Any]:
    """Facts of the pieces of gravel of the run `tomography`."""
    scanner = Observation(ParallelBeam(20, pixel_size=0.1), LogPoissonNoise(1000.0))
    data = Patches(n_observations=16, observation=scanner).simulate(Stream(SEED).child("dataset"))
    images, split, band = data["data"].to_numpy(), data["split"].to_numpy(), data["unit"].to_numpy()
    levels = images.astype(np.float64) * 255
    counts = 1000 * np.exp(-data["measured"].to_numpy().astype(np.float64))
    return {
        "samples": len(images),
        "shape": list(images.shape[1:]),
        "minimum": _round(images.min()),
        "maximum": _round(images.max()),
        "mean": _round(images.mean(dtype=np.float64)),
        "standard_deviation": _round(images.std(dtype=np.float64)),
        "furthest_from_a_grey_level": _round(np.abs(levels - levels.round()).max(), 3),
        "split": {name: int((split == name).sum()) for name in ("train", "validation", "test")},
        "bands": {name: len(np.unique(band[split == name])) for name in ("train", "validation", "test")},
        "measurements": int(data.sizes["measurement"]),
        "fewest_photons": int(counts.min().round()),
        "mean_photons": _round(counts.mean(), 1),
    }


def head() -> dict[str, Any]:
    """Facts of the pieces of the head of the run `mri`."""
    scanner = Observation(CartesianMRI(4.0, 0.08, n_coils=4), GaussianNoise(0.02))
    pieces = Patches("head", 24, 2, filled=0.7, test=0.4, validation=0.15, n_observations=14, observation=scanner)
    data = pieces.simulate(Stream(SEED).child("dataset"))
    images, split, band = data["data"].to_numpy(), data["split"].to_numpy(), data["unit"].to_numpy()
    levels, lines = images.astype(np.float64) * 255, data["operator_lines"].to_numpy()
    names = ("train", "validation", "test")
    return {
        "samples": len(images),
        "shape": list(images.shape[1:]),
        "minimum": _round(images.min()),
        "maximum": _round(images.max()),
        "mean": _round(images.mean(dtype=np.float64)),
        "standard_deviation": _round(images.std(dtype=np.float64)),
        "share_of_zeros": _round((images == 0).mean()),
        "furthest_from_a_grey_level": _round(np.abs(levels - levels.round()).max(), 3),
        "split": {name: int((split == name).sum()) for name in names},
        "bands": {name: np.unique(band[split == name]).tolist() for name in names},
        "measurements": int(data.sizes["measurement"]),
        "measured_columns": int(lines.sum(1).max()),
        "signal_over_noise": _round(data["measured"].to_numpy().std(dtype=np.float64) / 0.02, 1),
    }


def mixture() -> dict[str, Any]:
    """Facts of the mixture of the run `mixture-posterior`."""
    dataset, stream = MixtureGrid(), Stream(SEED).child("dataset")
    law, data = dataset.law(stream), dataset.simulate(stream)
    weights, means = law.weights.numpy(), law.means.numpy()
    apart = np.sqrt(((means[:, None] - means[None]) ** 2).sum(-1))
    split, draws = data["split"].to_numpy(), data["data"].to_numpy()
    return {
        "samples": int(data.sizes["sample"]),
        "dimension": int(data.sizes["dimension"]),
        "observations": int(data.sizes["observation"]),
        "measurements": int(data.sizes["measurement"]),
        "modes": len(weights),
        "smallest_mode_weight": float(f"{weights.min():.3g}"),
        "largest_mode_weight": _round(weights.max()),
        "effective_modes": _round(np.exp(-(weights * np.log(weights)).sum()), 4),
        "nearest_modes_apart": _round(apart[apart > 0].min()),
        "exact_mean_norm": _round(law.mean().norm(), 4),
        "exact_total_variance": _round(law.covariance().trace(), 4),
        "sample_mean_norm": _round(np.linalg.norm(draws.mean(0)), 4),
        "sample_total_variance": _round(draws.var(0).sum(), 4),
        "split": {name: int((split == name).sum()) for name in ("train", "validation")},
    }


def burgers() -> dict[str, Any]:
    """Facts of the fields of the run `burgers-sensors`; two exact draws of each observation instead of 64."""
    dataset = Evolving(n_samples=8192, n_observations=64, n_exact=2)
    data = dataset.simulate(Stream(SEED).child("dataset"))
    fields, split = data["data"].to_numpy().astype(np.float64), data["split"].to_numpy()
    slopes = np.gradient(fields, dataset.length / dataset.size, axis=-1)
    return {
        "samples": len(fields),
        "shape": list(fields.shape[1:]),
        "observations": int(data.sizes["observation"]),
        "measurements": int(data.sizes["measurement"]),
        "root_mean_square_by_time": [_round(value, 4) for value in np.sqrt((fields**2).mean((0, 2)))],
        "largest_value": _round(np.abs(fields).max(), 4),
        "steepest_slope_by_time": [_round(value, 3) for value in np.abs(slopes).max((0, 2))],
        "reference_error": float(f"{data.attrs['reference_error']:.2g}"),
        "resolution_error": float(f"{data.attrs['resolution_error']:.2g}"),
        "split": {name: int((split == name).sum()) for name in ("train", "validation", "test")},
    }


def porous_square() -> dict[str, Any]:
    """Facts of the porous squares of the run `darcy-inverse`."""
    wells = Observation(Darcy(size=16, stride=4, source=10.0), GaussianNoise(0.05))
    data = PorousSquare(n_modes=25, n_observations=10, observation=wells).simulate(Stream(SEED).child("dataset"))
    fields, pressures = data["log_permeability"].to_numpy(), data["pressure"].to_numpy()
    split = data["split"].to_numpy()
    return {
        "samples": int(data.sizes["sample"]),
        "shape": [int(data.sizes["mode"])],
        "observations": int(data.sizes["observation"]),
        "measurements": int(data.sizes["measurement"]),
        "root_mean_square_of_coefficients": _round(np.sqrt((data["data"].to_numpy() ** 2).mean()), 4),
        "root_mean_square_of_log_permeability": _round(np.sqrt((fields**2).mean()), 4),
        "range_of_log_permeability": [_round(fields.min(), 3), _round(fields.max(), 3)],
        "largest_pressure_of_each_square": [_round(value, 3) for value in pressures.max((1, 2))],
        "noise_over_root_mean_square_reading": _round(0.05 / np.sqrt((data["measured"].to_numpy() ** 2).mean()), 4),
        "resolution_error": float(f"{data.attrs['resolution_error']:.2g}"),
        "split": {name: int((split == name).sum()) for name in ("train", "validation")},
    }


def chromatograms() -> dict[str, Any]:
    """Facts of the columns of the data set `chromatograms`."""
    data = Chromatograms().simulate(Stream(SEED).child("dataset"))
    gas, split, times = data["data"].to_numpy(), data["split"].to_numpy(), data["time"].to_numpy()
    return {
        "samples": len(gas),
        "shape": list(gas.shape[1:]),
        "observations": int(data.sizes["observation"]),
        "measurements": int(data.sizes["measurement"]),
        "largest_value": _round(gas.max(), 4),
        "time_of_the_peak_at_the_end": [_round(value) for value in np.quantile(times[gas[:, :, -1].argmax(1)], (0, 1))],
        "largest_value_at_the_end": [_round(value, 3) for value in np.quantile(gas[:, :, -1].max(1), (0, 1))],
        "reference_error": float(f"{data.attrs['reference_error']:.2g}"),
        "exact_error": float(f"{data.attrs['exact_error']:.2g}"),
        "split": {name: int((split == name).sum()) for name in ("train", "validation", "test")},
    }


def lorenz96() -> dict[str, Any]:
    """Facts of the paths of the run `lorenz-filter`."""
    data = Lorenz96Paths().simulate(Stream(SEED).child("dataset"))
    free, truth, split = data["data"].to_numpy(), data["truth"].to_numpy(), data["split"].to_numpy()
    return {
        "samples": int(data.sizes["sample"]),
        "observations": int(data.sizes["observation"]),
        "times": int(data.sizes["time"]),
        "coordinates": int(data.sizes["coordinate"]),
        "measurements": int(data.sizes["measurement"]),
        "share_measured": _round(data["operator_mask"].to_numpy().mean()),
        "reference_error": float(f"{data.attrs['reference_error']:.3g}"),
        "model_noise": data.attrs["model_noise"],
        "mean_of_free_paths": _round(free.mean(), 2),
        "spread_of_free_paths": _round(free.std(), 2),
        "spread_of_truths": _round(truth.std(), 2),
        "split": {name: int((split == name).sum()) for name in ("train", "validation")},
    }


STATS = {
    "digits": digits,
    "gravel": gravel,
    "head": head,
    "mixture": mixture,
    "burgers": burgers,
    "porous_square": porous_square,
    "chromatograms": chromatograms,
    "lorenz96": lorenz96,
}


def main() -> None:
    """Write the files anew."""
    for name, compute in STATS.items():
        file = DATASETS / name / "stats.yaml"
        head = "# Computed from the data by `python docs/stats.py`; tests/test_docs.py compares.\n"
        file.write_text(head + yaml.safe_dump(compute(), sort_keys=False, default_flow_style=None), encoding="utf-8")
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
