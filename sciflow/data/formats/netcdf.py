"""NetCDF files, versions 3 and 4."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from sciflow.data.formats.mapping import blank, check_declared, check_size, choose, existing, named
from sciflow.data.schema import suggestion
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class NetCDF:
    """Variable of a netCDF file, with its dims renamed.

    Exactness: values as xarray decodes them (scale factor, offset and fill value applied)
    Cost: the whole array in memory, refused above `max_gigabytes` before it is read
    Bias: none

    Args:
        variable: name of the variable; empty takes the only one.
        dims: name -> dim of the file, e.g. {sample: time, channel: null, y: lat, x: lon}; empty keeps the names.
        units: of the values; empty takes the attribute of the file. A contradiction is refused.
        split_by: name of a variable with the id of the patient, writer or trajectory of each sample.
        max_gigabytes: largest array that is read.

    Source: the netCDF classic and netCDF-4 formats, through xarray.
    """

    variable: str = ""
    dims: dict[str, str | None] = field(default_factory=dict)
    units: str = ""
    split_by: str = ""
    max_gigabytes: Annotated[float, Field(gt=0)] = 8.0

    def read(self, path: str | Path, look_inside: bool = True) -> xr.Dataset:
        """Read, name and check. Raises InputError in words for every way in which the file can be wrong.

        Args:
            path: the file.
            look_inside: false reads headers only, and gives zeros for values.
        """
        import xarray as xr

        path = existing(path)
        try:
            with xr.open_dataset(path) as file:
                names = [str(name) for name in file.data_vars if name != self.split_by]
                array = file[choose(path, self.variable, [*names, *([self.variable] if self.variable in file else [])])]
                check_size(path, array.nbytes, self.max_gigabytes)
                check_declared(path, [str(array.name), self.split_by or str(array.name)], self.max_gigabytes)
                unit = None
                if self.split_by:
                    known = [str(name) for name in file.variables]
                    ids = file[choose(path, self.split_by, known, "split_by")]
                    check_size(path, ids.nbytes, self.max_gigabytes)
                    unit = ids.to_numpy() if look_inside else blank(ids.shape, ids.dtype)
                values = array.to_numpy() if look_inside else blank(array.shape, array.dtype)
                units = array.attrs.get("units", "")
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path} is no netCDF file, or damaged ({reason}). Write it again.") from error
        if self.units and units and self.units != units:
            raise InputError(
                f"{path}: units are {units!r} in the file, {self.units!r} in `units`. Correct one of them."
            )
        axes = self._axes(path, [str(dim) for dim in array.dims])
        return named(path, values, axes, self.units or units or "1", unit, look_inside)

    def _axes(self, path: Path, dims: list[str]) -> dict[str, int | None]:
        """Names -> positions of the dims of the file."""
        wanted = self.dims or {dim: dim for dim in dims}
        unknown = [dim for dim in wanted.values() if dim is not None and dim not in dims]
        if unknown:
            raise InputError(f"{path}: no dim {unknown[0]!r}, found {dims}.{suggestion(unknown[0], dims)}")
        return {name: None if dim is None else dims.index(dim) for name, dim in wanted.items()}
