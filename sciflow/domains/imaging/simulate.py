"""What is the data? Images, split so that nothing leaks, and observations of held-out ones."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from sciflow.data.arrays import from_xarray
from sciflow.data.formats.fastmri import H5
from sciflow.data.formats.hdf5 import HDF5
from sciflow.data.formats.netcdf import NetCDF
from sciflow.data.formats.pictures import Pictures
from sciflow.data.formats.suffix import SUFFIXES, Reader, format_class
from sciflow.data.split import shares
from sciflow.domains.imaging.ellipses import EllipseImages
from sciflow.domains.imaging.head_slice import HeadSlice
from sciflow.domains.imaging.patches import Patches
from sciflow.domains.imaging.recording import EVENT, Count, Share, observed
from sciflow.errors import InputError
from sciflow.inverse.observe import Observation
from sciflow.random import Stream

if TYPE_CHECKING:
    import xarray as xr

FORM_STARTS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
"""First image of each of the 14 forms of scikit-learn's digits: there the dictated sequence of labels starts again."""


@dataclass(frozen=True)
class Digits:
    """The 1 797 handwritten digits that scikit-learn ships, 8 × 8 pixels, 17 grey levels, scaled to [0, 1].

    Exactness: real scans; values are multiples of 1/16
    Cost: no download, a second
    Bias: writers are not named, but all wrote the same dictation: a form of it counts as a writer, and no form stands
        in two splits
    Args:
        n_observations: held-out digits that are observed.
        validation: share of the digits for the validation loss.
        test: share held out.
        observation: how they are observed.
    Source: Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI; CC BY 4.0.
    """

    n_observations: Count = 64
    validation: Share = 0.1
    test: Share = 0.2
    observation: Observation = field(default_factory=Observation)

    def __post_init__(self) -> None:
        shares(self.test, self.validation)

    def simulate(self, stream: Stream) -> xr.Dataset:
        from sklearn.datasets import load_digits

        images = (load_digits().images / 16).astype(np.float32)[:, None]
        fractions = shares(self.test, self.validation)
        unit = np.searchsorted(FORM_STARTS, np.arange(len(images)), side="right")
        return observed(images, unit, "1", self.n_observations, fractions, self.observation, stream)


OPTIONS = ("variable", "dims", "units", "split_by", "scaling")
"""What a run file may say of a file; each format takes some of them."""


@dataclass(frozen=True)
class File:
    """Your own images: netCDF, HDF5, NPZ with dims declared; PNG, TIFF, OME-Zarr, DICOM, fastMRI, which say theirs.

    Exactness: values as stored or scaled, in float32
    Cost: the whole array in memory
    Bias: none; without `split_by` each image counts as independent of the others
    Args:
        path: the file, or a folder of PNG and TIFF files, of DICOM files or of fastMRI volumes; the ending tells the
            format.
        variable: name of the array, or of the resolution of an OME-Zarr; empty takes the only one, or the finest.
        dims: our dim → theirs, e.g. {sample: n, channel: null, y: row, x: column}; null makes an axis of size one.
        units: of the values; empty takes the file's.
        split_by: array with the id of the patient, scan or writer of each image: no id stands in two splits; for
            pictures "folder", the subfolder that each lies in.
        scaling: of whole numbers in PNG, TIFF and OME-Zarr: "full" makes white 1, "stored" keeps them; empty: "full".
        n_observations: held-out images that are observed.
        validation: share for the validation loss.
        test: share held out.
        observation: how they are observed.
    Source: the formats' own documentation; see sciflow.data.formats.
    """

    path: str = ""
    variable: str = ""
    dims: dict[str, str | int | None] = field(default_factory=dict)
    units: str = ""
    split_by: str = ""
    scaling: Literal["", "full", "stored"] = ""
    n_observations: Count = 16
    validation: Share = 0.1
    test: Share = 0.2
    observation: Observation = field(default_factory=Observation)

    def __post_init__(self) -> None:
        shares(self.test, self.validation)
        if self.path:
            self._reader()
        if self.dims and set(self.dims) != {"sample", *EVENT}:
            wanted = "{sample: …, channel: …, y: …, x: …}"
            raise InputError(f"dataset.dims must name {wanted}, null for an axis of size one, got {self.dims}.")

    def _reader(self) -> Reader:
        """The reader that the file name asks for, with the options of this section.

        Raises:
            InputError: no reader knows the ending, an option that it lacks, or `dims` that names axes otherwise.
        """
        suffix = Path(self.path).suffix.lower()
        if suffix not in SUFFIXES and not (self.path and Path(self.path).is_dir()):
            raise InputError(f"dataset.path must end in one of {[*SUFFIXES]}, got {self.path!r}. Convert the file.")
        reader = HDF5 if suffix in H5 and self.variable else format_class(self.path)
        options = {name: getattr(self, name) for name in OPTIONS if getattr(self, name)}
        known = [entry.name for entry in fields(reader)]
        for name in options:
            if name not in known:
                can = [option for option in OPTIONS if option in known]
                raise InputError(f"dataset.{name} is no option of {suffix or 'a folder of'} files, which take {can}.")
        if reader is Pictures and self.split_by not in ("", "folder"):
            raise InputError(f"dataset.split_by of pictures must be empty or 'folder', got {self.split_by!r}.")
        named = str if reader is NetCDF else int
        if not all(axis is None or isinstance(axis, named) for axis in self.dims.values()):
            how = "by their names in the file" if named is str else "by number, from 0"
            raise InputError(f"dataset.dims of a {suffix} file must give axes {how}, got {self.dims}.")
        return reader(**options)

    def look(self) -> None:
        """Raise InputError for whatever the header of the file shows to be wrong."""
        self._read(look_inside=False)

    def _read(self, look_inside: bool = True) -> xr.Dataset:
        read = self._reader().read(self.path, look_inside)
        if set(read["data"].dims) != {"sample", *EVENT}:
            raise InputError(
                f"{self.path}: the array has dims {read['data'].dims}, needs ('sample', 'channel', 'y', 'x'). "
                "Name them in dataset.dims, null for an axis of size one."
            )
        return read

    def simulate(self, stream: Stream) -> xr.Dataset:
        read = self._read()
        array = from_xarray(read["data"], ("sample", *EVENT), torch.float32).numpy()
        fractions = shares(self.test, self.validation)
        units = read["data"].attrs.get("units", "1")
        unit = read["unit"].to_numpy()
        made = observed(array, unit, units, self.n_observations, fractions, self.observation, stream)
        facts = {name: value for name, value in read["data"].attrs.items() if name != "units"}
        for name in ("data", "truth"):
            made[name].attrs.update(facts)
        return made


DATASETS: dict[str, type] = {
    "digits": Digits,
    "patches": Patches,
    "head_slice": HeadSlice,
    "ellipses": EllipseImages,
    "file": File,
}
