"""Scanners' files in exactly the layouts of fastMRI and LoDoPaB-CT, written here, read back as measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sciflow.data.measured import read_measured
from sciflow.errors import InputError
from sciflow.inverse import CartesianMRI, GaussianLikelihood, ParallelBeam
from sciflow.inverse.observe import recorded
from sciflow.random import Stream

HEADER = (
    '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace><matrixSize>'
    "<x>12</x><y>10</y><z>1</z></matrixSize></encodedSpace><reconSpace><matrixSize><x>8</x><y>8</y><z>1</z>"
    "</matrixSize></reconSpace></encoding></ismrmrdHeader>"
)
SHAPE = (2, 6, 8)
IMAGES = Stream(0).normal(3, SHAPE, dtype=torch.float64)
OPERATOR = CartesianMRI(2.0, n_coils=4).draw(SHAPE, Stream(1))


def full_space() -> np.ndarray:
    """k-space of three slices and four coils, all columns."""
    whole = CartesianMRI(1.0, n_coils=4).draw(SHAPE, Stream(1))
    parts = whole(IMAGES).reshape(3, 4, 2, 6, 8).numpy()
    return parts[:, :, 0] + 1j * parts[:, :, 1]


def fastmri(path: Path, **changes: Any) -> Path:
    """A file of the test part; None leaves an entry out."""
    mask = OPERATOR.parameters()["lines"].numpy().astype(bool)
    entries = {"kspace": (full_space() * mask).astype(np.complex64), "mask": mask, "ismrmrd_header": HEADER.encode()}
    with h5py.File(path, "w") as file:
        for name, value in {**entries, **changes}.items():
            if value is not None:
                file[name] = value
        file.attrs.update({"acquisition": "CORPD_FBK", "patient_id": "0", "max": 1.0, "norm": 1.0, "acceleration": 2})
    return path


@pytest.mark.parametrize("mask", ["in the file", "seen from the zeros"])
def test_k_space_of_fastmri_is_what_the_operator_measures(tmp_path: Path, mask: str) -> None:
    path = fastmri(tmp_path / "file1.h5", **({} if mask == "in the file" else {"mask": None}))
    read = read_measured(path, SHAPE)
    assert read.sizes["observation"] == 3
    assert np.allclose(read["measured"].to_numpy(), OPERATOR(IMAGES).numpy(), atol=1e-5)  # stored in single precision
    assert np.array_equal(read["operator_lines"].to_numpy()[1], OPERATOR.parameters()["lines"].numpy())
    assert read.attrs["matrix_encodedSpace"] == "12x10x1" and read.attrs["matrix_reconSpace"] == "8x8x1"
    assert read.attrs["acquisition"] == "CORPD_FBK"
    parameters = {"operator_lines": torch.as_tensor(read["operator_lines"].to_numpy()[0].copy())}
    y = torch.as_tensor(read["measured"].to_numpy()[0])
    model = lambda observation: GaussianLikelihood(observation, CartesianMRI(2.0, n_coils=4), 0.1)  # noqa: E731
    likelihood = recorded(model, y, parameters, SHAPE)
    assert float(likelihood.residual(IMAGES[:1]).abs().max()) < 1e-5


def test_coil_maps_of_ones_own_come_along(tmp_path: Path) -> None:
    maps = np.broadcast_to(np.array([1, 1j, -1, 0.5])[None, :, None, None], (3, 4, 6, 8)).astype(np.complex64)
    read = read_measured(fastmri(tmp_path / "file1.h5", s_maps=maps), SHAPE)
    assert read["operator_maps"].shape == (3, 4, 2, 6, 8)
    bound = OPERATOR.bind(
        {**OPERATOR.parameters(), "maps": torch.as_tensor(read["operator_maps"].to_numpy()[0])}, SHAPE
    )
    assert torch.equal(bound.maps[1], torch.full((6, 8), 1j, dtype=torch.complex128))


def test_a_sinogram_of_lodopab(tmp_path: Path) -> None:
    operator = ParallelBeam(5, n_detectors=9).on((1, 6, 6))
    sinograms = operator(torch.rand(4, 1, 6, 6)).reshape(4, 5, 9).numpy()
    with h5py.File(tmp_path / "observation_test_000.hdf5", "w") as file:
        file["data"] = sinograms
    read = read_measured(tmp_path / "observation_test_000.hdf5", (1, 6, 6))
    assert np.array_equal(read["measured"].to_numpy(), sinograms.reshape(4, 45))


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"kspace": np.ones((3, 6, 8), np.float32)}, SHAPE, "holds float32, needs complex numbers: its phase is lost"),
        ({}, (1, 6, 8), r"complex images, but the model has 1 channel\(s\)"),
        ({}, (2, 8, 8), r"with the grid of the model, \(8, 8\)"),
        ({"mask": np.ones(7, bool)}, SHAPE, r"`mask` has shape \(7,\), needs \(8,\)"),
        ({"s_maps": np.ones((3, 4, 6, 8))}, SHAPE, "`s_maps` is float64"),
        ({"kspace": None}, SHAPE, r"found the arrays \['ismrmrd_header', 'mask'\]"),
        ({"ismrmrd_header": b"<xml/>"}, SHAPE, "names no matrix size of encodedSpace"),
    ],
)
def test_bad_input(tmp_path: Path, changes: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_measured(fastmri(tmp_path / "file1.h5", **changes), shape)
