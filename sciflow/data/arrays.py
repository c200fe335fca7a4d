"""The one crossing between torch, positional, and xarray, named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sciflow.data.ensemble import UNITS, Ensemble, attributes, variables
from sciflow.errors import InputError

if TYPE_CHECKING:
    import torch
    import xarray as xr


def to_xarray(
    values: Mapping[str, torch.Tensor | ArrayLike] | Ensemble,
    dims: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    coords: Mapping[str, ArrayLike | tuple[Sequence[str], ArrayLike]] | None = None,
    units: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Name the dims of tensors, or those of a weighted ensemble with its weights, founders, traces and evidence.

    Args:
        values: name -> tensor or array; bfloat16 and float16 become float32. Or `Particles`.
        dims: name -> dims, one for each axis of that value. Of particles: names of the axes of an event.
        coords: name -> values along the dim of that name, or (dims, values).
        units: name -> text of the `units` attribute.

    Raises:
        InputError: a value without dims, or with another number of axes.
    """
    import xarray as xr

    facts: Mapping[str, Any] = {}
    if not isinstance(values, Mapping):
        facts, units = attributes(values), {**UNITS, **(units or {})}
        values, dims = variables(values, dims if not isinstance(dims, Mapping) else dims["x"])
    if not isinstance(dims, Mapping):
        raise InputError("named values need a name -> dims mapping. Give the dims of each.")
    units = units or {}
    arrays = {}
    for name, value in values.items():
        array = _numpy(value)
        if len(dims.get(name, ())) != array.ndim:
            raise InputError(
                f"{name!r} has shape {array.shape} and dims {tuple(dims.get(name, ()))}. Give one dim for each axis."
            )
        arrays[name] = xr.Variable(tuple(dims[name]), array, {"units": units[name]} if name in units else None)
    return xr.Dataset(arrays, coords=dict(coords or {}), attrs=dict(facts))


def from_xarray(
    array: xr.DataArray, dims: Sequence[str] | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """The tensor of a named array, axes in the order of `dims`.

    Args:
        array: one variable of a data set.
        dims: order of the axes; None keeps that of the file.
        dtype: of the tensor; None keeps that of the file.

    Raises:
        InputError: the array has other dims.
    """
    import torch

    wanted = tuple(array.dims if dims is None else dims)
    if set(wanted) != set(array.dims) or len(wanted) != array.ndim:
        raise InputError(f"variable {array.name!r} has dims {array.dims}, needs {wanted}. Rename or select its dims.")
    return torch.as_tensor(np.ascontiguousarray(array.transpose(*wanted).to_numpy()).copy(), dtype=dtype)


def _numpy(value: torch.Tensor | ArrayLike) -> np.ndarray:
    """On the CPU, in a type that files know."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    return value.float().numpy() if value.dtype.is_floating_point and value.dtype.itemsize < 4 else value.numpy()


def evened(parts: Sequence[xr.Dataset], dim: str) -> list[xr.Dataset]:
    """Parts that are equally long along a dim without coordinates, with NaN where a part is shorter or has nothing.

    Variables with that dim come last, by their names: the same order, whatever each part has.
    """
    longest = max((int(part.sizes.get(dim, 0)) for part in parts), default=0)
    models = {name: array for part in parts for name, array in part.data_vars.items() if dim in array.dims}
    found = []
    for part in parts:
        if dim in part.dims:
            part = part.pad({dim: (0, longest - part.sizes[dim])}, keep_attrs=True)
        for name, array in models.items():
            if name not in part:
                shape = [longest if axis == dim else part.sizes.get(axis, array.sizes[axis]) for axis in array.dims]
                part = part.assign({name: (array.dims, np.full(shape, np.nan), array.attrs)})
        found.append(part[[*(name for name in part.data_vars if name not in models), *sorted(models, key=str)]])
    return found


def concatenate(parts: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    """Parts of one data set, joined along a named dim; attributes of the first."""
    import xarray as xr

    return xr.concat(parts, dim, data_vars="minimal", coords="minimal", compat="override", join="exact").sortby(dim)
