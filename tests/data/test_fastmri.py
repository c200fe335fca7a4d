"""fastMRI's volumes as images to learn from, written here in exactly its layout, against the images behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sciflow.data.formats import HDF5, FastMRI, format_of
from sciflow.data.formats.coils import calibrated_maps
from sciflow.data.measured import read_measured
from sciflow.domains.imaging.phantoms import Ellipses
from sciflow.domains.imaging.simulate import File
from sciflow.errors import InputError
from sciflow.inverse import CartesianMRI
from sciflow.inverse.mri import birdcage, image_of, spectrum
from sciflow.inverse.observe import Observation
from sciflow.random import Stream
from tests.data.test_scans import FIELD, IMAGES, SHAPE, fastmri, full_space, header, partial_space

MAPS = birdcage(4, SHAPE[1:]).numpy()
SIDE = 48


def volume(path: Path, **changes: Any) -> Path:
    """A volume of the folders train and val: no mask."""
    entries = {"kspace": full_space().astype(np.complex64), "s_maps": np.stack([MAPS] * 3).astype(np.complex64)}
    return fastmri(path, **{"mask": None, **entries, **changes})


def owned(path: Path, owner: str) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["patient_id"] = owner


def test_a_folder_of_volumes_is_one_data_set_split_by_patient(tmp_path: Path) -> None:
    for name, owner in (("a", "Doe"), ("b", "Roe"), ("c", "Doe")):
        owned(volume(tmp_path / f"{name}.h5"), owner)
    assert isinstance(format_of(tmp_path), FastMRI) and isinstance(format_of(tmp_path / "a.h5"), FastMRI)
    read = format_of(tmp_path).read(tmp_path)
    assert read["data"].dims == ("sample", "channel", "y", "x") and read["data"].dtype == np.float32
    assert np.allclose(read["data"], np.concatenate([IMAGES] * 3), atol=2e-6)  # single precision of numbers below 4
    assert read["unit"].to_numpy().tolist() == [0] * 3 + [1] * 3 + [0] * 3
    assert "Doe" not in str(read.to_dict())
    heads = format_of(tmp_path).read(tmp_path, look_inside=False)
    assert heads["data"].shape == read["data"].shape and not heads["data"].any()
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file.attrs["patient_id"]
    assert len(set(format_of(tmp_path).read(tmp_path)["unit"].to_numpy())) == 2


def test_a_single_coil_needs_no_maps(tmp_path: Path) -> None:
    space = spectrum(torch.complex(IMAGES[:, 0], IMAGES[:, 1])).numpy().astype(np.complex64)
    read = FastMRI().read(volume(tmp_path / "a.h5", kspace=space, s_maps=None))
    assert np.allclose(read["data"], IMAGES, atol=2e-6)


def test_images_are_what_the_header_shows_and_what_was_acquired_of_it(tmp_path: Path) -> None:
    """Of a partial scan in a wider field: the middle of the image, its missing columns zero; stored either way."""
    space = partial_space()
    maps = np.zeros((3, 4, *FIELD), np.complex64)
    maps[:, :, 3:9, 3:11] = MAPS
    seen = image_of(torch.as_tensor(space)).numpy()[:, :, 3:9, 3:11]
    truth = (MAPS.conj() * seen).sum(1)
    for stored in (space, space[..., 3:14]):
        path = volume(tmp_path / "a.h5", kspace=stored.astype(np.complex64), s_maps=maps, ismrmrd_header=header())
        read = FastMRI().read(path)["data"].to_numpy()
        assert np.allclose(read[:, 0] + 1j * read[:, 1], truth, atol=1e-5)  # single precision of sums of 168 numbers


def head_space() -> np.ndarray:
    """k-space of one slice of a head with a smooth phase, four coils."""
    place = (torch.arange(SIDE) - SIDE // 2) / SIDE
    phase = torch.polar(torch.ones(SIDE, SIDE).double(), (2 * place[:, None] - place).double())
    return spectrum(birdcage(4, (SIDE, SIDE)) * torch.as_tensor(Ellipses().image(SIDE)) * phase)[None].numpy()


def test_coils_told_from_the_middle_of_k_space_are_those_of_a_scan_to_be_applied(tmp_path: Path) -> None:
    """The images and the maps that `apply` finds for an undersampled scan explain what that scan measured."""
    space = head_space().astype(np.complex64)
    x = FastMRI().read(volume(tmp_path / "train.h5", kspace=space, s_maps=None))["data"]
    lines = np.zeros(SIDE, bool)
    lines[::4] = lines[SIDE // 2 - 10 : SIDE // 2 + 11] = True
    scan = read_measured(fastmri(tmp_path / "scan.h5", kspace=space * lines, mask=lines), (2, SIDE, SIDE))
    whole = calibrated_maps(space, np.ones(SIDE, bool))
    assert whole is not None and np.allclose((np.abs(whole) ** 2).sum(1), 1, atol=1e-5)
    found = scan["operator_maps"].to_numpy()
    assert np.allclose(found[:, :, 0] + 1j * found[:, :, 1], whole, atol=1e-6)  # the middle is the same
    assert scan.attrs["coil_maps"] == "from the middle of k-space"
    parameters = {name: torch.as_tensor(scan[f"operator_{name}"].to_numpy()[0].copy()) for name in ("lines", "maps")}
    operator = CartesianMRI(n_coils=4).bind(parameters, (2, SIDE, SIDE))
    explained = operator(torch.as_tensor(x.to_numpy()).double())[0].numpy()
    y = scan["measured"].to_numpy()[0]
    synthetic = CartesianMRI(n_coils=4).bind({"lines": parameters["lines"]}, (2, SIDE, SIDE))
    wrong = synthetic(torch.as_tensor(x.to_numpy()).double())[0].numpy()
    assert np.linalg.norm(explained - y) < 0.03 * np.linalg.norm(y)  # maps are smooth to a hundredth on this grid
    assert np.linalg.norm(wrong - y) > 0.1 * np.linalg.norm(y)  # coils of the same kind without the object's phase
    lines[SIDE // 2 + 3] = False
    few = read_measured(fastmri(tmp_path / "few.h5", kspace=space * lines, mask=lines), (2, SIDE, SIDE))
    assert "operator_maps" not in few and "coil_maps" not in few.attrs


def test_a_run_file_names_the_folder(tmp_path: Path) -> None:
    for k in range(5):
        owned(volume(tmp_path / f"{k}.h5"), f"patient {k}")
    observation = Observation(CartesianMRI(2.0, n_coils=4))
    file = File(path=str(tmp_path), n_observations=2, test=0.2, validation=0.2, observation=observation)
    file.look()
    data = file.simulate(Stream(0).child("dataset"))
    assert data["data"].shape == (15, *SHAPE)
    for k in range(5):
        assert len(set(data["split"].to_numpy()[data["unit"].to_numpy() == k])) == 1
    with h5py.File(tmp_path / "0.h5", "r+") as stored:
        stored["reconstruction_rss"] = np.ones((3, 6, 8), np.float32)
    rss = File(path=str(tmp_path / "0.h5"), variable="reconstruction_rss")
    assert isinstance(rss._reader(), HDF5) and rss._read()["data"].shape == (3, 1, 6, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.arange(8) % 2 == 0}, "has a `mask` of columns that were left out. Learn from fully measured"),
        ({"kspace": np.ones((3, 4, 6, 8), np.float32)}, r"`kspace` is float32 \(3, 4, 6, 8\), needs complex numbers"),
        ({"kspace": np.ones((6, 8), np.complex64)}, r"`kspace` is complex64 \(6, 8\)"),
        ({"kspace": None}, r"found the arrays \['ismrmrd_header', 's_maps'\], needs `kspace`"),
        ({"kspace": np.ones((3, 4, 6, 6), np.complex64), "s_maps": None}, r"cannot be told from 6 columns"),
        ({"s_maps": np.ones((3, 4, 6, 8))}, "`s_maps` is float64"),
        ({"kspace": np.full((3, 4, 6, 8), np.nan, np.complex64)}, "NaN|not finite|infinite"),
    ],
)
def test_a_volume_that_does_not_fit_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        FastMRI().read(volume(tmp_path / "a.h5", **changes))


def test_volumes_of_two_sizes_are_refused(tmp_path: Path) -> None:
    volume(tmp_path / "a.h5")
    volume(tmp_path / "b.h5", kspace=np.ones((3, 4, 6, 10), np.complex64))
    with pytest.raises(InputError, match=r"b.h5: has images of \(6, 10\) \(y, x\), but .*a.h5 of \(6, 8\)"):
        FastMRI().read(tmp_path)


def test_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes .* GB, the limit is 1e-06 GB"):
        FastMRI(max_gigabytes=1e-6).read(volume(tmp_path / "a.h5"), look_inside=False)
