"""Files of simulations as others write them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import xarray as xr

N, T, X, Y = 3, 4, 8, 6
DRAWN = np.random.default_rng(0)
U = DRAWN.normal(size=(N, T, X)).astype(np.float32)
FLOW = DRAWN.normal(size=(N, T, X, Y, 3)).astype(np.float32)
XS, YS, TS = (np.arange(n, dtype=np.float32) / 8 for n in (X, Y, T))


def burgers(path: Path) -> Path:
    """PDEBench's 1-D files: one time too many, the viscosity at the root."""
    with h5py.File(path, "w") as file:
        file["tensor"], file["x-coordinate"] = U, XS
        file["t-coordinate"] = np.arange(T + 1, dtype=np.float32) / 8
        file.attrs["Nu"] = 0.01
    return path


def darcy(path: Path) -> Path:
    """PDEBench's Darcy files: no times, the permeability beside the solution."""
    with h5py.File(path, "w") as file:
        file["tensor"], file["nu"] = FLOW[:, :1, ..., 0], FLOW[:, 1, ..., 1]
        file["x-coordinate"], file["y-coordinate"] = XS, YS
        file.attrs["beta"] = 1.0
    return path


def compressible(path: Path) -> Path:
    """PDEBench's 2-D compressible flows."""
    with h5py.File(path, "w") as file:
        for i, name in enumerate(("density", "pressure", "Vx")):
            file[name] = FLOW[..., i]
        file["Vy"] = FLOW[..., 0] * 2
        file["x-coordinate"], file["y-coordinate"] = XS, YS
        file["t-coordinate"] = np.arange(T + 1, dtype=np.float32) / 8
        file.attrs["eta"], file.attrs["zeta"], file.attrs["M"] = 1e-2, 1e-2, 0.1
    return path


def seeds(path: Path) -> Path:
    """PDEBench's diffusion-reaction files: a group for each seed, with its configuration."""
    with h5py.File(path, "w") as file:
        for i in range(N):
            group = file.create_group(f"{i:04d}")
            group.create_dataset("data", data=FLOW[i, ..., :2], compression="lzf")
            group["grid/x"], group["grid/y"], group["grid/t"] = XS, YS, TS
            group.attrs["config"] = f"sim:\n  k: {0.005 * (i + 1)}\n  Du: 1e-3\n  name: fhn\nseed: {i}\n"
    return path


def well(path: Path) -> Path:
    """The Well: scalars, a vector, a field that does not move, a scalar for each sample, walls and periodic ends."""
    with h5py.File(path, "w") as file:
        file.attrs["dataset_name"], file.attrs["grid_type"] = "example", "cartesian"
        file.attrs["n_spatial_dims"], file.attrs["n_trajectories"] = 2, N
        file.attrs["simulation_parameters"] = ["Re", "Sc"]
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = ["x", "y"]
        for name, values in (("time", TS), ("x", XS), ("y", YS)):
            dims[name] = values
            dims[name].attrs["sample_varying"] = False
        conditions = file.create_group("boundary_conditions")
        for axis, kind in (("x", "PERIODIC"), ("y", "WALL")):
            one = conditions.create_group(f"{axis}_{kind.lower()}")
            one.attrs["associated_dims"], one.attrs["bc_type"] = [axis], kind
            one["mask"] = np.zeros(len(XS if axis == "x" else YS), dtype=bool)
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["Re", "Sc"]
        scalars["Re"], scalars["Sc"] = np.array([1.0, 2.0, 3.0]), np.float32(0.5)
        for name, varies in (("Re", True), ("Sc", False)):
            scalars[name].attrs["sample_varying"], scalars[name].attrs["time_varying"] = varies, False
        fields = {
            "t0_fields/tracer": (FLOW[..., 0], True, True, [True, True]),
            "t0_fields/profile": (FLOW[0, 0, 0, :, 1], False, False, [False, True]),
            "t1_fields/velocity": (FLOW[..., 1:], True, True, [True, True]),
            "t2_fields/stress": (np.stack([FLOW[..., 1:]] * 2, -1), True, True, [True, True]),
        }
        for name, (values, by_sample, in_time, by_axis) in fields.items():
            stored = file.create_dataset(name, data=values)
            stored.attrs["sample_varying"], stored.attrs["time_varying"] = by_sample, in_time
            stored.attrs["dim_varying"] = by_axis
        file["t0_fields"].attrs["field_names"] = ["tracer", "profile"]
        file["t1_fields"].attrs["field_names"] = ["velocity"]
        file["t2_fields"].attrs["field_names"] = ["stress"]
    return path


def climate(path: Path) -> Path:
    """A netCDF file of another program: other names, attributes that say the axes, a packed variable."""
    coords = {
        "ncells": ("ncells", XS, {"axis": "X"}),
        "row": ("row", YS, {"standard_name": "projection_y_coordinate"}),
        "t": ("t", TS, {"units": "days since 2000-01-01", "axis": "T"}),
    }
    fields = {"u": (("t", "row", "ncells"), FLOW[0, ..., 0].transpose(0, 2, 1), {"units": "m s-1"}),
              "height": (("ncells",), XS)}  # fmt: skip
    xr.Dataset(fields, coords).to_netcdf(path, engine="h5netcdf", encoding={"u": {"dtype": "f4"}})
    return path


def incompressible(path: Path) -> Path:
    """PDEBench's incompressible flows: times for each sample, no coordinates."""
    with h5py.File(path, "w") as file:
        file["velocity"], file["particles"], file["force"] = FLOW[..., :2], FLOW[..., 2:], FLOW[:, 0, ..., 1:]
        file["t"] = np.tile(TS, (N, 1))
        file.attrs["config"], file.attrs["latestIndex"] = "NU: 0.01", N - 1
    return path


def weather(path: Path) -> Path:
    """As climate models write it: bounds of cells and of times, a projection, a scalar series, words, two units."""
    coords = {
        "lon": ("lon", XS, {"units": "degrees_east", "bounds": "lon_bnds"}),
        "lat": ("lat", YS, {"units": "degrees_north"}),
        "time": ("time", TS, {"units": "days since 2000-01-01", "bounds": "time_bnds"}),
        "type": ((), np.array(b"land area")),
    }
    values = FLOW[0, ..., 0].transpose(0, 2, 1)
    fields = {
        "tas": (("time", "lat", "lon"), values, {"units": "K", "grid_mapping": "crs"}),
        "pr": (("time", "lat", "lon"), 2 * values, {"units": "kg m-2 s-1"}),
        "time_bnds": (("time", "bnds"), np.stack([TS, TS + 1], 1)),
        "lon_bnds": (("lon", "bnds"), np.stack([XS, XS], 1)),
        "crs": ((), 0), "co2": (("time",), TS), "levels": (("plev",), np.arange(3.0)), "run": (("time",), ["a"] * T),
    }  # fmt: skip
    xr.Dataset(fields, coords).to_netcdf(path, engine="h5netcdf")
    return path
