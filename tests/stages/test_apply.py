"""apply: a trained prior on a measurement of the user's own, without a ground truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.random import Stream
from tests.data.test_scans import FIELD, IMAGES, LINES, SHAPE, fastmri, header, partial_space
from tests.tiny import Place

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def recorded(built: Place) -> Arrays:
    """Measurements and masks of the run `imaging`, (observation, …)."""
    with xr.open_dataset(built.results("imaging") / "data.nc") as data:
        return {name: data[name].to_numpy() for name in ("measured", "operator_mask", "truth")}


def holes(recorded: Arrays, index: int) -> np.ndarray:
    """One recorded observation as an image with NaN where nothing was measured, (channel, y, x)."""
    image = np.full(recorded["operator_mask"].shape[1:], np.nan)
    image[recorded["operator_mask"][index] == 1] = recorded["measured"][index]
    return image


INPUTS: dict[str, tuple[Callable[[Arrays], Arrays], list[int]]] = {
    "an image with holes": (lambda r: {"image": holes(r, 0)[0]}, [0]),
    "an image with its channel": (lambda r: {"image": holes(r, 0)}, [0]),
    "several images": (lambda r: {"image": np.stack([holes(r, i) for i in range(3)])}, [0, 1, 2]),
    "one measurement": (lambda r: {"measured": r["measured"][0], "operator_mask": r["operator_mask"][0]}, [0]),
    "one of one": (lambda r: {"measured": r["measured"][:1], "operator_mask": r["operator_mask"][:1]}, [0]),
    "several": (lambda r: {"measured": r["measured"], "operator_mask": r["operator_mask"]}, [0, 1, 2]),
}
WRONG: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "neither": (
        lambda r: {"picture": r["truth"]},
        "needs `measured` or `image`, found ['picture']. Name the array so.",
    ),
    "smaller image": (lambda r: {"image": holes(r, 0)[0, :4]}, "`image` has shape (4, 8), but the model has events of"),
    "larger image": (lambda r: {"image": np.zeros((9, 9))}, "`image` has shape (9, 9), but the model has events of"),
    "no image": (lambda r: {"image": np.zeros((0, 1, 8, 8))}, "`image` has shape (0, 1, 8, 8), but"),
    "nothing measured": (lambda r: {"image": np.full((8, 8), np.nan)}, "images have [0] measured pixels."),
    "unequal": (lambda r: {"image": np.stack([holes(r, 0), r["truth"][0]])}, "images have [32, 64] measured pixels."),
    "infinite": (lambda r: {"image": np.full((8, 8), np.inf)}, "`image` has infinite values. Write NaN"),
    "text": (lambda r: {"image": np.array(["a"])}, "`image` holds <U1, needs real numbers. Convert it."),
    "NaN": (lambda r: {"measured": r["measured"][0] * np.nan}, "`measured` has shape (32,), needs (measurement,) or"),
    "images as measurements": (lambda r: {"measured": r["truth"]}, "`measured` has shape (3, 1, 8, 8), needs"),
    "no mask": (lambda r: {"measured": r["measured"][0]}, "inpainting needs the parameter 'mask'"),
    "too few": (
        lambda r: {"measured": r["measured"][0, :5], "operator_mask": r["operator_mask"][0]},
        "the observation has 5 measurements, but Inpainting makes 32",
    ),
    "mask of another shape": (
        lambda r: {"measured": r["measured"][0], "operator_mask": r["operator_mask"][0, 0]},
        "inpainting needs a mask of shape (1, 8, 8)",
    ),
    "masks of some": (
        lambda r: {"measured": r["measured"], "operator_mask": r["operator_mask"][:2]},
        "operator_mask has shape (2, 1, 8, 8), but `measured` has shape (3, 32). Give one operator_mask for each",
    ),
    "a number for a mask": (
        lambda r: {"measured": r["measured"], "operator_mask": np.float32(1)},
        "operator_mask has shape (), but `measured` has shape (3, 32).",
    ),
}


@pytest.mark.parametrize("kind", ["npz", "nc"])
@pytest.mark.parametrize("what", INPUTS)
def test_a_recorded_measurement_gives_the_draws_of_the_run(
    what: str, kind: str, built: Place, recorded: Arrays, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bit for bit, where the values went through the file unchanged."""
    make, indices = INPUTS[what]
    arrays, folder = make(recorded), tmp_path_factory.mktemp("mine")
    file, out = folder / f"mine.{kind}", folder / "out.nc"
    if kind == "npz":
        np.savez(file, **arrays)
    else:
        named = {name: ([f"{name}_{k}" for k in range(array.ndim)], array) for name, array in arrays.items()}
        xr.Dataset(named).to_netcdf(file, engine="h5netcdf")
    outcome = built.sciflow("apply", "imaging.yaml", file, "--out", out)
    assert (outcome.status, outcome.text) == (0, f"Wrote {out}\n")
    with xr.open_dataset(out) as found, xr.open_dataset(built.results("imaging") / "samples.nc") as before:
        expected = before["samples"].isel(observation=indices)
        np.testing.assert_array_equal(found["samples"], expected)
        assert found["samples"].dims == before["samples"].dims
        assert found.attrs["stage"] == "apply" and "observation" in found.attrs["inputs"]
    assert {entry.name for entry in folder.iterdir()} == {file.name, "out.nc", "out.nc.provenance.json"}


@pytest.mark.parametrize("what", WRONG)
def test_a_measurement_that_does_not_fit_is_refused(what: str, built: Place, recorded: Arrays, tmp_path) -> None:
    make, message = WRONG[what]
    file, out = tmp_path / "mine.npz", tmp_path / "out.nc"
    np.savez(file, **make(recorded))
    outcome = built.sciflow("apply", "imaging.yaml", file, "--out", out)
    assert outcome.status == 2, outcome.text
    assert message in outcome.text
    assert len(outcome.text.splitlines()) == 1
    assert not out.exists()


def test_a_file_that_is_none_is_refused(built: Place, tmp_path) -> None:
    (tmp_path / "mine.npz").write_text("no archive")
    (tmp_path / "mine.txt").write_text("nothing at all")
    for name, said in (
        ("nowhere.npz", "nowhere.npz: there is no such file."),
        ("mine.npz", "mine.npz: is no readable NPZ or netCDF file"),
        ("mine.txt", "mine.txt: is no readable NPZ or netCDF file"),
    ):
        outcome = built.sciflow("apply", "imaging.yaml", tmp_path / name)
        assert outcome.status == 2
        assert said in outcome.text and len(outcome.text.splitlines()) == 1


def test_what_was_applied_is_not_taken_for_the_samples_of_the_run(built: Place, recorded: Arrays, tmp_path) -> None:
    """Scores of someone else's measurement against the truths of this run would mean nothing."""
    np.savez(tmp_path / "mine.npz", image=holes(recorded, 1))
    out = tmp_path / "out.nc"
    assert built.sciflow("apply", "imaging.yaml", tmp_path / "mine.npz", "--out", out).status == 0
    outcome = built.sciflow("evaluate", "imaging.yaml", "--samples", out, "--out", tmp_path / "metrics.csv")
    assert outcome.status == 2
    assert "belongs to stage 'apply', needs stage 'sample'." in outcome.text


def test_a_linear_measurement_with_its_matrix(built: Place, tmp_path) -> None:
    """The analytic domain: any operator whose parameters stand beside the measurement."""
    with xr.open_dataset(built.results("analytic") / "data.nc") as data:
        np.savez(tmp_path / "mine.npz", **{n: data[n].to_numpy()[1] for n in ("measured", "operator_matrix")})
    outcome = built.sciflow("apply", "analytic.yaml", tmp_path / "mine.npz", "--out", tmp_path / "out.nc")
    assert outcome.status == 0, outcome.text
    with xr.open_dataset(tmp_path / "out.nc") as found:
        assert found["samples"].shape == (2, 1, 16, 4) and bool(np.isfinite(found["samples"]).all())
        assert np.isfinite(found["log_evidence"].sel(posterior="SMC N=32"))


def test_k_space_of_a_larger_and_partly_acquired_grid(place: Place) -> None:
    """A model on the grid that the header shows finds the image in a scan of the grid that it encodes."""
    images = Stream(8).normal(400, SHAPE, dtype=torch.float64).numpy()
    np.savez(place.folder / "images.npz", images=images)
    mri = {"kind": "cartesian_mri", "n_coils": 4}
    values = {
        "domain": "imaging",
        "dataset": {
            "kind": "file", "path": "images.npz", "n_observations": 1,
            "dims": {"sample": 0, "channel": 1, "y": 2, "x": 3},
            "observation": {"operator": mri, "noise": {"kind": "gaussian", "sigma": 0.05}},
        },
        "train": {"kind": "mixture", "n_components": 1, "n_directions": 96, "n_iterations": 2},
        "sample": {
            "likelihood": {"kind": "gaussian", "operator": mri, "sigma": 0.05},
            "posteriors": {"exact": {"kind": "conjugate"}},
            "n_samples": 64,
        },
        "evaluate": {},
        "report": {},
    }  # fmt: skip
    place.build(values, until="train")
    space = (
        partial_space()
        + 0.05 * torch.randn(3, 4, *FIELD, dtype=torch.complex128, generator=Stream(9).generator()).numpy()
    )
    fastmri(place.folder / "scan.h5", ismrmrd_header=header(), kspace=space.astype(np.complex64), mask=LINES)
    assert place.sciflow("apply", "run.yaml", "scan.h5", "--out", "out.nc").status == 0
    with xr.open_dataset(place.folder / "out.nc") as drawn:
        assert drawn.attrs["acquired_columns"] == "3-13" and drawn.attrs["matrix_encodedSpace"] == "12x14x1"
        found = drawn["samples"].isel(posterior=0).transpose("observation", "member", "channel", "y", "x").to_numpy()
    error, spread = found.mean(1) - IMAGES.numpy(), found.std(1, ddof=1)
    # of 288 independent numbers a root of mean squares errs by 1/√(2 · 288) = 4 %, of numbers tied in nines by 12 %
    assert np.sqrt((error**2).mean() / (spread**2).mean()) == pytest.approx(1, abs=4 * 0.12)
    assert np.sqrt((error**2).mean()) < 0.3, "the prior alone would be off by 1"
