"""Images: the user's own in three formats, splits that do not leak, and what counts as inferred."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.diffusion.schedule import Cosine
from sciflow.domains.imaging import patches
from sciflow.domains.imaging.baselines import baselines
from sciflow.domains.imaging.figures import shown_observation
from sciflow.domains.imaging.metrics import evaluate, grey_levels, inferred
from sciflow.domains.imaging.network import closed_form
from sciflow.domains.imaging.patches import Patches
from sciflow.domains.imaging.simulate import Digits, File
from sciflow.domains.recorded import likelihood as recorded_likelihood
from sciflow.errors import InputError
from sciflow.inverse.inpainting import Inpainting
from sciflow.inverse.likelihood import GaussianLikelihood, GaussianNoise
from sciflow.inverse.mri import CartesianMRI
from sciflow.inverse.observe import Observation
from sciflow.inverse.tomography import FanBeam, ParallelBeam
from sciflow.random import Stream

STREAM = Stream(0).child("dataset")
OBSERVATION = Observation(Inpainting(0.5), GaussianNoise(0.1))
IMAGES = np.random.default_rng(0).random((40, 6, 5)).astype(np.float32)
SCANS = np.repeat(np.arange(8), 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in three formats, their axes named and ordered differently."""
    folder = tmp_path_factory.mktemp("images")
    np.savez(folder / "images.npz", images=IMAGES, scan=SCANS)
    with h5py.File(folder / "images.h5", "w") as file:
        file["group/images"] = IMAGES.transpose(1, 2, 0)
        file["group/scan"] = SCANS
    stored = xr.Dataset(
        {"images": (("column", "n", "row"), IMAGES.transpose(2, 0, 1), {"units": "kg/m3"}), "scan": ("n", SCANS)}
    )
    stored.to_netcdf(folder / "images.nc", engine="h5netcdf")
    return folder


FORMATS: dict[str, dict[str, Any]] = {
    "images.npz": {"variable": "images", "split_by": "scan", "units": "kg/m3"},
    "images.h5": {
        "variable": "group/images",
        "dims": {"sample": 2, "channel": None, "y": 0, "x": 1},
        "split_by": "group/scan",
        "units": "kg/m3",
    },
    "images.nc": {
        "variable": "images",
        "dims": {"sample": "n", "channel": None, "y": "row", "x": "column"},
        "split_by": "scan",
    },
}


def read(folder: Path, name: str, **changes: Any) -> xr.Dataset:
    options = {**FORMATS[name], "n_observations": 3, "observation": OBSERVATION, **changes}
    return File(path=str(folder / name), **options).simulate(STREAM)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_data_set(name: str, folder: Path) -> None:
    data = read(folder, name)
    np.testing.assert_array_equal(data["data"], IMAGES[:, None])
    assert data["data"].dims == ("sample", "channel", "y", "x")
    assert data["data"].attrs["units"] == data["truth"].attrs["units"] == "kg/m3"
    xr.testing.assert_identical(data, read(folder, "images.npz"))


@pytest.mark.parametrize("name", FORMATS)
def test_no_scan_stands_in_two_splits_and_none_observed_was_trained_on(name: str, folder: Path) -> None:
    data = read(folder, name)
    split, unit = data["split"].to_numpy(), data["unit"].to_numpy()
    for scan in range(8):
        assert len(set(split[unit == scan])) == 1
    assert set(split) == {"train", "validation", "test"}
    observed = data["observed_sample"].to_numpy()
    assert len(set(observed)) == 3 and set(split[observed]) == {"test"}
    np.testing.assert_array_equal(data["truth"], data["data"][observed])


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_alone_shows_shape_and_units(name: str, folder: Path) -> None:
    """No value is read: they may be terabytes, or NaN."""
    file = File(path=str(folder / name), **FORMATS[name])
    header, whole = file._read(look_inside=False), file._read()
    assert header["data"].sizes == whole["data"].sizes and header["data"].attrs == whole["data"].attrs
    assert not header["data"].any(), "values were read"
    file.look()


NPZ = FORMATS["images.npz"]
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing file": ("nowhere.npz", NPZ, "is no file. Correct `dataset.path`"),
    "unknown ending": (
        "images.gif",
        NPZ,
        "dataset.path must end in one of ['.nc', '.nc4', '.cdf', '.h5', '.hdf5', '.npz', '.png', '.tif', '.tiff', "
        "'.zarr', '.dcm'], got",
    ),
    "an option of others": (
        "images.npz",
        {**NPZ, "scaling": "stored"},
        "dataset.scaling is no option of .npz files, which take ['variable', 'dims', 'units', 'split_by'].",
    ),
    "dims of a picture": ("a.png", {"dims": {"sample": 0, "channel": None, "y": 1, "x": 2}}, "dataset.dims is no"),
    "ids of a picture": ("a.png", {"split_by": "scan"}, "dataset.split_by of pictures must be empty or 'folder'"),
    "no path": ("", {}, "dataset.path must end in"),
    "several variables": ("images.npz", {}, "several variables, found ['images', 'scan']. Say which one:"),
    "unknown variable": ("images.npz", {"variable": "image"}, "no variable 'image', found ['images', 'scan']. Did you"),
    "unknown unit": ("images.npz", {**NPZ, "split_by": "scans"}, "no variable 'scans', found ['images', 'scan']. Did"),
    "dims of the file": (
        "images.nc",
        {"variable": "images"},
        "images.nc: the array has shape (5, 40, 6) and `dims` is",
    ),
    "unknown dim": (
        "images.nc",
        {**FORMATS["images.nc"], "dims": {"sample": "n", "channel": None, "y": "rov", "x": "column"}},
        "images.nc: no dim 'rov', found ['column', 'n', 'row']. Did you mean 'row'?",
    ),
    "names for numbers": (
        "images.npz",
        {**NPZ, "dims": {"sample": "n", "channel": None, "y": 1, "x": 2}},
        "dataset.dims of a .npz file must give axes by number, from 0, got",
    ),
    "numbers for names": (
        "images.nc",
        {**FORMATS["images.nc"], "dims": {"sample": 1, "channel": None, "y": 2, "x": 0}},
        "dataset.dims of a .nc file must give axes by their names in the file, got",
    ),
    "other dims": ("images.npz", {**NPZ, "dims": {"sample": 0, "z": 1, "x": 2}}, "dataset.dims must name"),
    "an axis twice": (
        "images.npz",
        {**NPZ, "dims": {"sample": 0, "channel": None, "y": 1, "x": 1}},
        "the array has shape (40, 6, 5) and `dims` is",
    ),
    "other units": (
        "images.nc",
        {**FORMATS["images.nc"], "units": "g/cm3"},
        "images.nc: units are 'kg/m3' in the file, 'g/cm3' in `units`. Correct one of them.",
    ),
    "too few images": (
        "images.npz",
        {**NPZ, "n_observations": 30},
        "dataset.n_observations is 30, but the test set has",
    ),
    "no training set": (
        "images.npz",
        {**NPZ, "test": 0.5, "validation": 0.5},
        "leave nothing to train on. Lower them.",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_does_not_fit_is_refused(what: str, folder: Path) -> None:
    name, options, message = WRONG[what]
    with pytest.raises(InputError) as error:
        File(path=str(folder / name) if name else "", **options).simulate(STREAM)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 6, 5)), "the array is empty, shape (0, 1, 6, 5)"),
        (np.full((9, 6, 5), np.nan), "270 of 270 values NaN or infinite, the first at (sample 0, channel 0, y 0, x 0)"),
        (np.ones((9, 6, 5)) * 1j, "holds complex128, needs real numbers"),
        (np.full((9, 6, 5), "a"), "holds <U1, needs real numbers"),
        (np.float64(1), "the array has shape (). Name its axes"),
        (np.zeros((9, 6)), "the array has dims ('sample', 'dimension'), needs ('sample', 'channel', 'y', 'x')."),
        (np.zeros((2, 6, 5)), "2 independent unit(s) cannot fill 3 sets"),
    ],
)
def test_values_that_are_no_images_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=array)
    with pytest.raises(InputError) as error:
        File(path=str(tmp_path / "a.npz"), n_observations=1).simulate(STREAM)
    assert message in str(error.value)


def test_digits_are_what_their_card_says() -> None:
    data = Digits(n_observations=5).simulate(STREAM)
    assert data["data"].shape == (1797, 1, 8, 8) and data["measured"].shape == (5, 32)
    levels = grey_levels(data)
    assert levels is not None and torch.equal(levels, torch.arange(17) / 16)
    writers = {
        name: set(data["unit"].to_numpy()[data["split"].to_numpy() == name]) for name in ("train", "validation", "test")
    }
    assert set.union(*writers.values()) == set(range(1, 15))
    assert sum(map(len, writers.values())) == 14, "a form stands in two splits"


def test_half_of_the_varying_pixels_are_inferred() -> None:
    """Measured pixels and pixels that never vary are no one's credit."""
    data = Digits(n_observations=5, observation=OBSERVATION).simulate(STREAM)
    mask = inferred(data)
    assert mask.shape == data["truth"].shape
    assert not (mask & (torch.as_tensor(data["operator_mask"].to_numpy()) == 1)).any()
    train = data["data"][data["split"].to_numpy() == "train"].to_numpy()
    constant = torch.as_tensor(train.max(0) == train.min(0))
    assert constant.any() and not (mask & constant).any()
    assert ((torch.as_tensor(data["operator_mask"].to_numpy()) == 0) & ~constant == mask).all()


def test_the_prior_without_training_returns_training_images() -> None:
    """Close to the data, the posterior mean given x_t is the nearest training image."""
    data = Digits(n_observations=1).simulate(STREAM)
    prior = closed_form(data, Cosine())
    train = torch.as_tensor(data["data"][data["split"].to_numpy() == "train"].to_numpy())
    t = 0.999
    x = float(prior.schedule.alpha(t)) * train[:3]
    torch.testing.assert_close(prior(x, t), train[:3], atol=1e-4, rtol=0)  # neighbours are e^{-1/σ²} away


def test_data_without_truth_cannot_be_scored() -> None:
    bare = Digits(n_observations=1).simulate(STREAM).drop_vars("truth")
    with pytest.raises(InputError, match=r"data\.nc holds no `truth`: nothing can be scored"):
        evaluate(("psnr",), bare, bare, GaussianLikelihood, STREAM)


def test_pieces_of_a_photograph_share_no_pixel_between_splits_nor_observations() -> None:
    from skimage.data import gravel

    made = Patches(size=16, stride=8, n_observations=60).simulate(STREAM)
    photograph = (gravel().astype(np.float64) / 255).astype(np.float32)
    lefts = {}
    for k in range(made.sizes["sample"]):  # 7 pieces across a band of 64 pixels, 63 down
        band, within = divmod(k, 7 * 63)
        column, row = divmod(within, 63)
        left, top = 64 * band + 8 * column, 8 * row
        lefts.setdefault(str(made["split"].values[k]), []).append(left)
        if k % 97 == 0:
            assert np.array_equal(made["data"].values[k, 0], photograph[top : top + 16, left : left + 16])
    columns = {split: {x for left in found for x in range(left, left + 16)} for split, found in lefts.items()}
    assert len(columns["train"]) + len(columns["test"]) + len(columns["validation"]) == 512
    assert not (columns["train"] & columns["test"] or columns["train"] & columns["validation"])
    chosen = made["observed_sample"].values
    assert all((k % (7 * 63)) // 63 % 2 == 0 and k % 63 % 2 == 0 for k in chosen)  # on the grid of 16 pixels
    with pytest.raises(InputError, match=r"dataset\.size 65 does not fit the bands of 64 pixels"):
        Patches(size=65)


def test_pieces_of_the_head_hold_tissue_and_share_no_pixel_between_splits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observation = Observation(CartesianMRI(4.0, n_coils=4), GaussianNoise(0.01))
    options = {"photograph": "head", "size": 24, "stride": 8, "filled": 0.7, "test": 0.4, "n_observations": 10}
    made = Patches(**options, observation=observation).simulate(STREAM)
    images = made["data"].to_numpy()
    assert (images != 0).mean((1, 2, 3)).min() >= 0.7 and images.max() < 1
    levels = 255 * images.astype(np.float64)
    assert np.abs(levels - levels.round()).max() < 1e-4  # single precision: 255 × 2⁻²⁴
    split, band = made["split"].to_numpy(), made["unit"].to_numpy()
    assert all(len(set(split[band == one])) == 1 for one in set(band)) and len(set(band)) == 5
    with pytest.raises(InputError, match=r"dataset\.size 33 does not fit the bands of 32 pixels"):
        Patches("head", 33)
    with monkeypatch.context() as patched:
        patched.setattr(patches, "head", lambda: np.zeros((256, 256)))
        with pytest.raises(InputError, match=r"dataset\.filled 0\.7 leaves no piece of 'head'"):
            Patches(**options, observation=observation).simulate(STREAM)
    truth = torch.as_tensor(made["truth"].to_numpy())
    model = functools.partial(GaussianLikelihood, operator=CartesianMRI(4.0, n_coils=4), sigma=0.01)
    found = baselines(model, made, truth)
    assert [*found] == ["zero-filled", "CG-SENSE", "TV"]
    errors = {name: float((image - truth).square().mean().sqrt()) for name, image in found.items()}
    assert errors["TV"] < errors["zero-filled"] < float(truth.square().mean().sqrt()), errors
    first = recorded_likelihood(model, made, 0, tuple(truth.shape[1:]), torch.float64)
    assert torch.equal(found["zero-filled"][0], first.operator.adjoint(first.observation[None])[0])


@pytest.mark.parametrize("operator", [ParallelBeam(30, pixel_size=0.5), FanBeam(30, pixel_size=0.5)])
def test_a_sinogram_is_shown_as_one_and_scored_beside_its_classics(operator: ParallelBeam | FanBeam) -> None:
    """Coarse pieces, hardly any noise: both classics come near the truth, and neither claims a spread."""
    made = Patches(
        size=12, stride=12, reduction=4, n_observations=3, observation=Observation(operator, GaussianNoise(0.01))
    )
    data = made.simulate(STREAM)
    shown = shown_observation(data)
    assert shown is not None and shown.shape == (3, 1, 30, 17)
    truth = torch.as_tensor(data["truth"].to_numpy())
    sums = truth.sum((1, 2, 3)).numpy() * 0.5
    if isinstance(operator, ParallelBeam):
        assert np.allclose(shown.sum((1, 3)), sums[:, None], rtol=0.1)  # each view sees all of the mass; bins and rays
    draws = truth[:, None] + 0.05 * Stream(1).normal(3 * 8, truth.shape[1:]).reshape(3, 8, *truth.shape[1:])
    samples = xr.Dataset(
        {"samples": (("posterior", "observation", "member", "channel", "y", "x"), draws.numpy()[None])},
        {"posterior": ["draws"]},
    )
    model = functools.partial(GaussianLikelihood, operator=operator, sigma=0.01)
    found = evaluate(["rmse", "coverage"], data, samples, model, STREAM)
    rows = {(row.posterior, row.metric): row.score for row in found.rows}
    assert ("draws", "coverage_90") in rows and ("TV", "coverage_90") not in rows
    assert rows["TV", "rmse"].value < rows["FBP", "rmse"].value < 0.2 and rows["TV", "rmse"].note == "one image"
    assert found.arrays["baseline_image"].shape == (2, *truth.shape)


def test_part_of_a_turn_of_a_fan_has_no_back_projection() -> None:
    operator = FanBeam(12, arc=200.0)
    made = Patches(
        size=12, stride=12, reduction=4, n_observations=1, observation=Observation(operator, GaussianNoise(0.1))
    ).simulate(STREAM)
    model = functools.partial(GaussianLikelihood, operator=operator, sigma=0.1)
    assert [*baselines(model, made, torch.as_tensor(made["truth"].to_numpy()))] == ["TV"]
