"""Recompute datasets/<name>/stats.yaml from the data themselves: `python docs/stats.py`. A test compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sciflow.domains.analytic.simulate import MixtureGrid
from sciflow.domains.imaging.simulate import FORM_STARTS, Digits
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


STATS = {"digits": digits, "mixture": mixture}


def main() -> None:
    """Write the files anew."""
    for name, compute in STATS.items():
        file = DATASETS / name / "stats.yaml"
        head = "# Computed from the data by `python docs/stats.py`; tests/test_docs.py compares.\n"
        file.write_text(head + yaml.safe_dump(compute(), sort_keys=False, default_flow_style=None), encoding="utf-8")
        print(f"wrote {file}")


if __name__ == "__main__":
    main()
