"""DICOM slices, written here by pydicom, read back in the units of the scanner; skipped where the extra is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciflow.data.formats import DICOM, Pictures, format_of
from sciflow.data.measured import read_measured
from sciflow.domains.imaging.simulate import File
from sciflow.errors import InputError
from sciflow.random import Stream

pydicom = pytest.importorskip("pydicom")
STORED = np.random.default_rng(0).integers(0, 4096, (5, 6), dtype=np.uint16)
CT = "1.2.840.10008.5.1.4.1.1.2"
LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def write(path: Path, stored: np.ndarray = STORED, transfer_syntax: str = LITTLE_ENDIAN, **changes: Any) -> Path:
    """A slice of computed tomography; None leaves an attribute out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = transfer_syntax, CT
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    written = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    attributes = {
        "SOPClassUID": CT,
        "SOPInstanceUID": "1.2.3.4",
        "Modality": "CT",
        "PatientID": "anna",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelSpacing": [0.5, 0.25],
        "RescaleSlope": 2,
        "RescaleIntercept": -1024,
        "PixelData": stored.tobytes(),
        **({"NumberOfFrames": len(stored)} if stored.ndim == 3 else {}),
    }
    for name, value in {**attributes, **changes}.items():
        if value is not None:
            setattr(written, name, value)
    written.save_as(path, enforce_file_format=True)
    return path


def test_slices_are_in_the_units_of_the_scanner(tmp_path: Path) -> None:
    read = DICOM().read(write(tmp_path / "a.dcm"))
    assert read["data"].dims == ("sample", "channel", "y", "x") and read["data"].dtype == np.float32
    assert np.array_equal(read["data"].to_numpy()[0, 0], STORED.astype(np.float32) * 2 - 1024)
    size = {"pixel_size_y": 0.5, "pixel_size_x": 0.25, "pixel_size_unit": "mm"}
    assert read["data"].attrs == {"units": "HU", **size}
    assert read["unit"].values.tolist() == ["anna"]
    plain = DICOM(units="1/cm").read(write(tmp_path / "b.dcm", RescaleSlope=None, RescaleIntercept=None, Modality="MR"))
    assert np.array_equal(plain["data"].to_numpy()[0, 0], STORED) and plain["data"].attrs["units"] == "1/cm"
    assert not DICOM().read(tmp_path / "a.dcm", look_inside=False)["data"].to_numpy().any(), "values were read"


def test_a_folder_of_patients_is_a_data_set_that_splits_by_them(tmp_path: Path) -> None:
    for k in range(6):
        frames = STORED[None] + np.arange(2, dtype=np.uint16)[:, None, None]
        write(tmp_path / "scans" / f"{k}.dcm", frames, PatientID=f"patient {k // 2}")
    assert isinstance(format_of(tmp_path / "scans"), DICOM) and isinstance(format_of("a.dcm"), DICOM)
    assert isinstance(format_of(tmp_path), DICOM), "files of folders below count"
    made = File(path=str(tmp_path / "scans"), n_observations=1, test=0.3, validation=0.3).simulate(Stream(0))
    assert made["data"].shape == (12, 1, 5, 6) and made["data"].attrs["units"] == "HU"
    assert made["truth"].attrs["pixel_size_unit"] == "mm"
    for patient in range(3):
        mine = made["unit"].to_numpy() == f"patient {patient}"
        assert mine.sum() == 4 and len(set(made["split"].to_numpy()[mine])) == 1


def test_a_slice_of_ones_own_is_what_was_measured(tmp_path: Path) -> None:
    read = read_measured(write(tmp_path / "a.dcm"), (1, 5, 6))
    assert np.array_equal(read["measured"].to_numpy()[0], STORED.astype(np.float64).ravel() * 2 - 1024)
    assert read.attrs["pixel_size_unit"] == "mm"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "colours": ({"PhotometricInterpretation": "RGB"}, "holds RGB; known is MONOCHROME2"),
    "white is 0": ({"PhotometricInterpretation": "MONOCHROME1"}, "holds MONOCHROME1; known is MONOCHROME2"),
    "nobody's": ({"PatientID": None}, "has no PatientID, so that nobody knows which slices belong together"),
    "no image": ({"Rows": None}, "is no DICOM file with an image, or damaged"),
    "too few pixels": ({"PixelData": b"12"}, "its pixels cannot be read"),
    "terabytes": ({"Rows": 60000, "Columns": 60000, "NumberOfFrames": 1000}, "takes 1.44e+04 GB, the limit is 8 GB"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # that the damage which is made here is damage
def test_slices_that_do_not_fit_are_refused(what: str, tmp_path: Path) -> None:
    changes, message = WRONG[what]
    with pytest.raises(InputError) as error:
        DICOM().read(write(tmp_path / "a.dcm", **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_none_and_slices_of_two_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(300))
    with pytest.raises(InputError, match=r"a\.dcm is no DICOM file with an image"):
        DICOM().read(tmp_path / "a.dcm")
    write(tmp_path / "d.dcm", transfer_syntax="1.2.840.10008.1.2.1.99")
    with pytest.raises(InputError, match=r"d\.dcm: is deflated as a whole"):
        DICOM().read(tmp_path / "d.dcm")
    write(tmp_path / "both" / "a.dcm")
    write(tmp_path / "both" / "b.dcm", STORED[1:])
    with pytest.raises(InputError, match=r"b\.dcm: has \(y, x\) and units \(\(4, 6\), 'HU'\), but"):
        DICOM().read(tmp_path / "both")
    (tmp_path / "empty").mkdir()
    assert isinstance(format_of(tmp_path / "empty"), Pictures)
