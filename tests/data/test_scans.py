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
from sciflow.inverse import CartesianMRI, GaussianLikelihood, LogPoissonLikelihood, LogPoissonNoise, ParallelBeam
from sciflow.inverse.mri import birdcage, spectrum
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
        file.attrs.update({"acquisition": "CORPD_FBK", "patient_id": "Doe", "max": 1.0, "norm": 1.0, "acceleration": 2})
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
    assert "Doe" not in str(read.attrs)  # results are passed on
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


FIELD, LEFT, RIGHT = (12, 14), 3, 14  # of the encoded grid (y, x); columns LEFT to RIGHT − 1 of it were acquired
LINES = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0], bool)  # a mask that knows nothing of what was acquired
KEPT = torch.as_tensor(LINES & (np.arange(14) >= LEFT)).to(torch.uint8)


def header(**changes: object) -> bytes:
    """As scanners write it, with spaces, a prefix and a second encoding; the middle of k-space is line 4 of 0 … 10."""
    told = {"y": 14, "minimum": 0, "maximum": 10, "center": 4, **changes}
    matrix = "<h:matrixSize>\n <h:x>{}</h:x> <h:y>{}</h:y>\n <h:z>1</h:z></h:matrixSize><h:fieldOfView_mm/>"
    limits = "".join(
        f"<h:{name}> {told[name]} </h:{name}>" for name in ("minimum", "maximum", "center") if told[name] != ""
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<h:ismrmrdHeader xmlns:h="http://www.ismrm.org/ISMRMRD">\n<h:encoding>'
        f"<h:encodedSpace>{matrix.format(12, told['y'])}</h:encodedSpace>"
        f"<h:reconSpace>{matrix.format(6, 8)}</h:reconSpace><h:encodingLimits><h:kspace_encoding_step_0>"
        "<h:minimum>0</h:minimum><h:maximum>11</h:maximum><h:center>6</h:center></h:kspace_encoding_step_0>"
        f"<h:kspace_encoding_step_1>{limits}</h:kspace_encoding_step_1></h:encodingLimits></h:encoding>"
        "<h:encoding><h:encodedSpace><h:matrixSize><h:x>99</h:x></h:matrixSize></h:encodedSpace></h:encoding>"
        "</h:ismrmrdHeader>"
    ).encode()


def partial_space() -> np.ndarray:
    """k-space of a field around the images that is empty beside them and has tissue above and below them."""
    field = 3 * torch.randn(3, 4, *FIELD, dtype=torch.complex128, generator=Stream(5).generator())
    field[..., :3] = field[..., 11:] = 0
    images = torch.complex(IMAGES[:, 0], IMAGES[:, 1])
    field[:, :, 3:9, 3:11] = birdcage(4, SHAPE[1:]) * images[:, None]
    space = spectrum(field).numpy()
    space[..., :LEFT] = space[..., RIGHT:] = 0
    return space


def test_partial_k_space_lies_where_the_header_says(tmp_path: Path) -> None:
    """Stored as fastMRI does, zeros in what was not acquired, or the acquired lines alone: one measurement."""
    space = partial_space().astype(np.complex64)
    expected = CartesianMRI(n_coils=4).bind({"lines": KEPT}, SHAPE)(IMAGES).numpy()
    stored: dict[str, dict[str, Any]] = {
        "the whole grid": {"kspace": space, "mask": LINES},
        "acquired lines": {"kspace": space[..., LEFT:RIGHT], "mask": LINES[LEFT:RIGHT]},
        "acquired lines, a mask of the grid": {"kspace": space[..., LEFT:RIGHT], "mask": LINES},
        "zeros for a mask": {"kspace": space * LINES, "mask": None},
    }
    for how, entries in stored.items():
        read = read_measured(fastmri(tmp_path / "a.h5", ismrmrd_header=header(), **entries), SHAPE)
        assert np.array_equal(read["operator_lines"].to_numpy()[2], KEPT.numpy()), how
        # stored in single precision, numbers up to 30
        assert np.allclose(read["measured"].to_numpy(), expected, atol=3e-5), how
        assert read.attrs["acquired_columns"] == "3-13" and read.attrs["matrix_encodedSpace"] == "12x14x1"
    parameters = {"operator_lines": KEPT}
    model = lambda observation: GaussianLikelihood(observation, CartesianMRI(n_coils=4), 0.1)  # noqa: E731
    likelihood = recorded(model, torch.as_tensor(read["measured"].to_numpy()[0]), parameters, SHAPE)
    assert float(likelihood.residual(IMAGES[:1]).abs().max()) < 3e-5


@pytest.mark.parametrize(
    "change", [{"center": 5}, {"center": 5, "maximum": 9}, {"minimum": 1, "center": 5, "maximum": 11}]
)
def test_a_middle_of_k_space_that_is_wrong_would_be_seen(change: dict[str, int], tmp_path: Path) -> None:
    """The same lines with another middle are another measurement, or none."""
    space, lines = partial_space().astype(np.complex64)[..., LEFT:RIGHT], LINES[LEFT:RIGHT]
    path = fastmri(tmp_path / "a.h5", ismrmrd_header=header(**change), kspace=space, mask=lines)
    stays = change.get("minimum") == 1  # lines 1 to 11 around 5 are lines 0 to 10 around 4
    if change.get("maximum") == 9:
        with pytest.raises(InputError, match="has 11 columns, but its header encodes 14 and 10 of them acquired"):
            read_measured(path, SHAPE)
        return
    read = read_measured(path, SHAPE)
    placed = torch.as_tensor(read["operator_lines"].to_numpy()[0].copy())
    assert torch.equal(placed, KEPT) == stays
    found = CartesianMRI(n_coils=4).bind({"lines": placed}, SHAPE)(IMAGES).numpy()
    gap = np.abs(found - read["measured"].to_numpy()).max()
    assert gap < 3e-5 if stays else gap > 1


def test_coil_maps_of_the_whole_field_are_cropped_with_it(tmp_path: Path) -> None:
    maps = np.zeros((3, 4, *FIELD), np.complex64)
    maps[:, :, 3:9, 3:11] = birdcage(4, SHAPE[1:]).numpy()
    entries = {"kspace": partial_space().astype(np.complex64), "mask": LINES, "s_maps": maps}
    read = read_measured(fastmri(tmp_path / "a.h5", ismrmrd_header=header(), **entries), SHAPE)
    found = torch.view_as_complex(torch.as_tensor(read["operator_maps"].to_numpy()[0]).movedim(1, -1).contiguous())
    assert torch.allclose(found, birdcage(4, SHAPE[1:]), atol=1e-7)


BOMB = b'<?xml version="1.0"?><!DOCTYPE h [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><h>&b;&b;</h>'
OUTSIDE = b'<?xml version="1.0"?><!DOCTYPE h [<!ENTITY a SYSTEM "file:///etc/hostname">]><h>&a;</h>'


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (BOMB, "declares a document type, as no header does"),
        (OUTSIDE, "declares a document type, as no header does"),
        (b"<a>" * 40 + b"</a>" * 40, "is 32 elements deep"),
        (header()[:-5], "is no XML"),
        (b" " * (10**6 + 1), "has 1000001 bytes, more than a header has"),
        (header(y="many"), "has 'many' as encodedSpace/matrixSize/y, needs a whole number"),
        (header(y=9**9), "has '387420489' as encodedSpace/matrixSize/y, needs a whole number"),
        (header(y=10**30), "has '10000000000000000000' as encodedSpace/matrixSize/y, needs a whole number"),
        (header(center=""), "has not all of .* of kspace_encoding_step_1"),
        (header(center=11), "has lines 0 to 10, the middle of k-space at 11"),
        (header(center=8, maximum=20), "which are columns -1 to 19 of a grid of 14"),
        (header(y=10), "which are columns 1 to 11 of a grid of 10"),
        (header(y=13), "has 14 columns, but its header encodes 13 and 11 of them acquired"),
    ],
)
def test_headers_that_cannot_be_right_are_refused(stored: bytes, message: str, tmp_path: Path) -> None:
    entries = {"kspace": partial_space().astype(np.complex64), "mask": LINES, "ismrmrd_header": stored}
    with pytest.raises(InputError, match=message):
        read_measured(fastmri(tmp_path / "a.h5", **entries), SHAPE)


def test_a_model_of_another_grid_than_the_header_shows_is_refused(tmp_path: Path) -> None:
    entries = {"kspace": partial_space().astype(np.complex64), "mask": LINES, "ismrmrd_header": header()}
    said = r"grid \(12, 14\); its header encodes \(12, 14\) and shows \(6, 8\)\. .* the grid of the model, \(8, 8\)"
    with pytest.raises(InputError, match=said):
        read_measured(fastmri(tmp_path / "a.h5", **entries), (2, 8, 8))


MU_MAX = 20 + 3071 * (20 - 0.02) / 1000  # 1/m, of 3071 HU: water is 20/m and air 0.02/m


def lodopab(path: Path, integrals: np.ndarray) -> Path:
    """A file of observations (scan, view, detector) as they are published: in single precision, over MU_MAX."""
    with h5py.File(path, "w") as file:
        file["data"] = (integrals / MU_MAX).astype(np.float32)
    return path


def test_a_sinogram_of_lodopab_gives_back_its_photons(tmp_path: Path) -> None:
    operator = ParallelBeam(5, n_detectors=9, pixel_size=0.4).on((1, 6, 6))
    images = 4 * Stream(2).uniform(4, (1, 6, 6), dtype=torch.float64)
    y = LogPoissonNoise().sample(operator(images), Stream(3))
    read = read_measured(lodopab(tmp_path / "observation_test_000.hdf5", y.reshape(4, 5, 9).numpy()), (1, 6, 6))
    expected = (4096 * torch.exp(-y)).round()
    assert bool((expected == 0).any()) and float(expected.max()) > 4000  # empty bins, and rays past the object
    for measured, photons in zip(torch.as_tensor(read["measured"].to_numpy()), expected, strict=True):
        assert torch.equal(LogPoissonLikelihood(measured, operator).counts(), photons)


def test_the_views_of_lodopab_are_those_of_its_geometry(tmp_path: Path) -> None:
    """A Gaussian bump, whose line integrals are known: view k at (k + 1/2) π/n, x along the first axis of an image."""
    n_views, side, width, centre = 12, 48, 4.0, np.array([6.0, -3.0])  # in pixels
    places = np.arange(side) - (side - 1) / 2
    bump = [np.exp(-((places - c) ** 2) / (2 * width**2)) for c in centre]
    image = bump[0][:, None] * bump[1]  # (x, y), as published
    angle, s = (np.arange(n_views) + 0.5)[:, None] * np.pi / n_views, np.arange(45) - 22.0
    along = centre[0] * np.cos(angle) + centre[1] * np.sin(angle)
    integrals = np.sqrt(2 * np.pi) * width * np.exp(-((s - along) ** 2) / (2 * width**2))
    read = read_measured(lodopab(tmp_path / "a.hdf5", integrals[None]), (1, side, side))["measured"].to_numpy()
    operator = ParallelBeam(n_views, n_detectors=45, first_angle=90 / n_views).on((1, side, side))
    found = operator(torch.as_tensor(image.T.copy())[None, None])[0].numpy()
    # a pixel stands for the bump but for h²/24 of its second derivatives, and blurs it by as much again: h = 1/4 of the
    # width and two axes make 4/24/16 = 1 % of the peak at most; half a step of the angle would make 13 %
    assert np.abs(found - read[0]).max() < 0.01 * integrals.max()


def test_line_integrals_that_were_not_divided_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = np.full((1, 5, 9), 0.131)
    with pytest.raises(InputError, match=r"goes up to 0\.131, but LoDoPaB-CT .* leaves 0\.1305 at most"):
        read_measured(tmp_path / "a.h5", (1, 6, 6))


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
