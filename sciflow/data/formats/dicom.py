"""DICOM: slices of a scanner, with their patient, their pixel size and their units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from sciflow.data.formats.mapping import blank, check_size, existing, named
from sciflow.data.formats.pictures import DIMS, pixel_size
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

DCM = ".dcm"
DEFLATED = "1.2.840.10008.1.2.1.99"  # the transfer syntax that unpacks before anything can be checked
UNSPECIFIED = ("", "US")  # of the attribute Rescale Type


@dataclass(frozen=True)
class DICOM:
    """Grey slices, one file or a folder of files that end in .dcm; no patient stands in two splits.

    Values are slope × stored + intercept, so that those of computed tomography are in Hounsfield units. Frames of one
    file are samples.

    Exactness: stored values, rescaled in double precision and kept in single
    Cost: all slices in memory, refused above `max_gigabytes` before they are read; needs the extra `dicom`
    Bias: none; slices of one patient resemble one another, and so belong together

    Args:
        units: of the values; empty takes those of the file: its Rescale Type, HU for CT, else 1.
        split_by: keyword of the attribute that says what belongs together.
        max_gigabytes: largest array that is read.

    Source: DICOM PS3.3, C.7.6.3, C.8.2.1 and C.11.1, through pydicom.
    """

    units: str = ""
    split_by: str = "PatientID"
    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0

    def read(self, path: str | Path, look_inside: bool = True) -> xr.Dataset:
        """Read, name and check. Raises InputError in words for every way in which a file can be wrong.

        Args:
            path: the file, or a folder; all files below it that end in .dcm, in the order of their names.
            look_inside: false reads headers only, and gives zeros for values.
        """
        path = Path(path)
        files = sorted(path.rglob(f"*{DCM}")) if path.is_dir() else [existing(path)]
        heads = [self._checked(file, _opened(file, header_only=True)) for file in files]
        for file, head in zip(files, heads, strict=True):
            if head["shape"][1:] != heads[0]["shape"][1:] or head["units"] != heads[0]["units"]:
                one, two = ((found["shape"][1:], found["units"]) for found in (head, heads[0]))
                raise InputError(f"{file}: has (y, x) and units {one}, but {files[0]} {two}. Give slices of one kind.")
        frames = [head["shape"][0] for head in heads]
        shape = (sum(frames), 1, *heads[0]["shape"][1:])
        check_size(path, math.prod(shape) * 4, self.max_gigabytes)
        values = np.concatenate([_values(file) for file in files]) if look_inside else blank(shape, np.dtype("f4"))
        unit = np.repeat(np.array([head["unit"] for head in heads]), frames)
        dims = {name: k for k, name in enumerate(DIMS)}
        read = named(path, values, dims, self.units or heads[0]["units"], unit, look_inside)
        read["data"].attrs.update(heads[0]["pixel"])
        return read

    def _checked(self, path: Path, header: Any) -> dict[str, Any]:
        """Shape, units, pixel size and owner of one file.

        Raises:
            InputError: it holds no grey values, or does not say whose they are.
        """
        shown, samples = str(header.get("PhotometricInterpretation", "")), int(header.get("SamplesPerPixel", 1))
        if shown != "MONOCHROME2" or samples != 1 or "ModalityLUTSequence" in header:
            kind = "values by a look-up table" if "ModalityLUTSequence" in header else shown or "no image"
            raise InputError(f"{path}: holds {kind}; known is MONOCHROME2, rescaled linearly. Convert it.")
        owner = str(header.get(self.split_by, ""))
        if not owner:
            raise InputError(
                f"{path}: has no {self.split_by}, so that nobody knows which slices belong together. Name another "
                "attribute in `split_by`, e.g. StudyInstanceUID."
            )
        units = str(header.get("RescaleType", ""))
        if units in UNSPECIFIED:
            units = "HU" if header.get("Modality") == "CT" and "RescaleSlope" in header else "1"
        spacing = [float(step) for step in header.get("PixelSpacing", None) or ()]
        shape = int(header.get("NumberOfFrames", None) or 1), int(header.Rows), int(header.Columns)
        size = dict(zip("yx", spacing, strict=False))
        return {"shape": shape, "units": units, "unit": owner, "pixel": pixel_size(size, "mm")}


def _opened(path: Path, header_only: bool) -> Any:
    """The data set of a file, by pydicom.

    Raises:
        InputError: pydicom is missing, or the file is no DICOM file.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError:
        raise InputError(f"{path}: DICOM needs pydicom: pip install 'sciflow[dicom]'.") from None
    try:
        if pydicom.filereader.read_file_meta_info(existing(path)).get("TransferSyntaxUID") == DEFLATED:
            raise InputError(f"{path}: is deflated as a whole, so that its size is not known. Export it uncompressed.")
        opened = pydicom.dcmread(path, stop_before_pixels=header_only)
        _ = opened.Rows, opened.Columns
        return opened
    except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is no DICOM file with an image, or damaged ({reason}). Export it again.") from error


def _values(path: Path) -> np.ndarray:
    """Rescaled values, float32, (frame, 1, y, x)."""
    opened = _opened(path, header_only=False)
    try:
        stored = opened.pixel_array
    except (OSError, ValueError, AttributeError, KeyError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: its pixels cannot be read ({reason}). Export it uncompressed.") from error
    slope, intercept = (float(opened.get(name, d)) for name, d in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
    values = stored.astype(np.float64) * slope + intercept
    return values.reshape(-1, 1, *stored.shape[-2:]).astype(np.float32)
