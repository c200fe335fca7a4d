"""Files of simulations: each layout as others write it, read with named dims; written and read again; refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from sciflow.data.layouts import CF, LAYOUTS, PDEBench, PDEBenchSeeds, Simulations, TheWell, check_uniform, layout_of
from sciflow.data.measured import read_measured
from sciflow.errors import InputError
from sciflow.types import facts
from tests.data.simulated import (
    FLOW,
    TS,
    XS,
    YS,
    N,
    T,
    U,
    X,
    Y,
    burgers,
    climate,
    compressible,
    darcy,
    incompressible,
    seeds,
    well,
)


def test_pdebench_flat_files(tmp_path: Path) -> None:
    found = layout_of(burgers(tmp_path / "a.hdf5")).read(tmp_path / "a.hdf5").to_dataset()
    assert found["data"].dims == ("sample", "time", "channel", "x") and found["channel"].values.tolist() == ["tensor"]
    assert (found["data"].to_numpy()[:, :, 0] == U).all() and (found["time"].to_numpy() == TS).all()
    assert found["parameter_Nu"].to_numpy().tolist() == [0.01] * N
    still = PDEBench().read(darcy(tmp_path / "b.hdf5")).to_dataset()
    assert dict(still["data"].sizes) == {"sample": N, "time": 1, "channel": 1, "y": Y, "x": X}
    assert (still["constant_nu"].transpose("sample", "x", "y").to_numpy() == FLOW[:, 1, ..., 1]).all()
    gas = PDEBench().read(compressible(tmp_path / "c.h5"))
    assert [*gas.fields] == ["density", "pressure", "Vx", "Vy"] and (gas.fields["Vx"] == FLOW[..., 2]).all()


def test_pdebench_files_of_seeds(tmp_path: Path) -> None:
    found = layout_of(seeds(tmp_path / "a.h5")).read(tmp_path / "a.h5")
    assert [*found.fields] == ["u0", "u1"] and (found.fields["u1"] == FLOW[..., 1]).all()
    assert found.parameters["k"].tolist() == [0.005, 0.01, 0.015] and found.parameters["Du"].tolist() == [1e-3] * N
    assert "name: fhn" in found.facts["config"] and set(found.parameters) == {"k", "Du"}


def test_the_well(tmp_path: Path) -> None:
    found = layout_of(well(tmp_path / "a.hdf5")).read(tmp_path / "a.hdf5")
    stresses = [f"stress_{a}{b}" for a in "xy" for b in "xy"]
    assert [*found.fields] == ["tracer", "velocity_x", "velocity_y", *stresses]
    assert (found.fields["velocity_y"] == FLOW[..., 2]).all() and (found.fields["stress_xy"] == FLOW[..., 1]).all()
    assert (found.fields["stress_yx"] == FLOW[..., 2]).all()
    assert (
        found.constants["profile"].shape == (N, X, Y)
        and (found.constants["profile"][2, 5] == FLOW[0, 0, 0, :, 1]).all()
    )
    assert found.boundary == {"x": "periodic", "y": "wall"}
    assert found.parameters["Re"].tolist() == [1, 2, 3] and found.parameters["Sc"].tolist() == [0.5] * N
    named = found.to_dataset()
    assert named["data"].dims == ("sample", "time", "channel", "y", "x") and named.sizes["channel"] == 7


def test_netcdf_by_the_attributes_of_its_axes(tmp_path: Path) -> None:
    found = layout_of(climate(tmp_path / "a.nc")).read(tmp_path / "a.nc")
    assert found.shape == (1, T, X, Y) and (found.fields["u"][0] == FLOW[0, ..., 0]).all()
    assert (found.constants["height"] == XS[None, :, None]).all() and (found.time == TS).all()


def example(layout: str) -> Simulations:
    """Simulations that a layout has a place for."""
    if layout == "pdebench_incompressible":
        flow = {"particles": FLOW[..., 0], "velocity_x": FLOW[..., 1], "velocity_y": FLOW[..., 2]}
        cells = {axis: (np.arange(n) + 0.5) / n for axis, n in (("x", X), ("y", Y))}
        return Simulations(flow, TS, cells, {"force_x": FLOW[:, 0, ..., 0], "force_y": FLOW[:, 0, ..., 1]})
    fields = {"pdebench": {"tensor": FLOW[..., 0]}, "pdebench_seeds": {"u0": FLOW[..., 0], "u1": FLOW[..., 1]}}
    others = {"density": FLOW[..., 0], "velocity_x": FLOW[..., 1]}
    constants = {} if layout == "pdebench_seeds" else {"nu": FLOW[:, 0, ..., 2]}
    numbers = np.full(N, 0.25) if layout == "pdebench" else np.array([0.25, 0.5, 0.75])
    boundary = {"x": "periodic", "y": "wall"} if layout in ("cf", "the_well") else {}
    space = {"x": XS, "y": YS}
    return Simulations(fields.get(layout, others), TS, space, constants, {"viscosity": numbers}, boundary)


@pytest.mark.parametrize(
    ("layout", "suffix"), [*((name, "nc" if name == "cf" else "h5") for name in LAYOUTS), ("cf", "zarr")]
)
def test_what_is_written_is_read_again(tmp_path: Path, layout: str, suffix: str) -> None:
    """Bit for bit, and once more over the file that is there, and by way of named dims."""
    if suffix == "zarr":
        pytest.importorskip("zarr")
    path, given = tmp_path / f"a.{suffix}", example(layout)
    LAYOUTS[layout]().write(path, given)
    LAYOUTS[layout]().write(path, Simulations.of(given.to_dataset()))
    found = layout_of(path).read(path)
    assert type(layout_of(path)) is LAYOUTS[layout]
    assert [*found.fields] == [*given.fields] and found.boundary == given.boundary
    for part in ("fields", "constants", "parameters", "space"):
        wanted, read = getattr(given, part), getattr(found, part)
        assert set(read) == set(wanted)
        assert all(np.array_equal(read[name], wanted[name]) for name in wanted), part
    assert np.array_equal(found.time, given.time)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing is left beside it


@pytest.mark.parametrize("make", [burgers, darcy, seeds, well, incompressible, climate])
def test_headers_are_enough_to_check(tmp_path: Path, make) -> None:
    path = make(tmp_path / ("a.nc" if make is climate else "a.h5"))
    whole, header = (layout_of(path).read(path, look_inside=look) for look in (True, False))
    assert header.shape == whole.shape and [*header.fields] == [*whole.fields]
    assert all((values == 0).all() for values in header.fields.values())


def test_other_layouts_are_refused_with_what_was_found_and_what_is_known(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["velocity"], file["dt"] = U, 0.1
    with pytest.raises(InputError) as caught:
        layout_of(tmp_path / "a.h5")
    said = str(caught.value)
    assert "found the keys [dt, velocity]" in said
    assert all(
        word in said for word in ("pdebench: `tensor`", "pdebench_seeds: groups `0000`", "the_well: `t0_fields`")
    )
    xr.Dataset({"u": (("a", "b"), U[0])}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(InputError, match=r"has the dims \['a', 'b'\] and variables \['u'\], but needs variables with"):
        CF().read(tmp_path / "a.nc")


def spoilt(path: Path, change) -> Path:
    with h5py.File(path, "a") as file:
        change(file)
    return path


def replaced(file: h5py.File, name: str, values: np.ndarray) -> None:
    kept = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(kept)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (burgers, lambda f: replaced(f, "x-coordinate", XS[:-1]), r"'tensor' has shape \(3, 4, 8\), its axes say"),
        (burgers, lambda f: replaced(f, "tensor", np.where(U[1, 2, 3] == U, np.nan, U)),
         r"'tensor' has 1 of 96 values NaN or infinite, the first at \(sample 1, time 2, x 3\)"),
        (burgers, lambda f: replaced(f, "tensor", U[:0]), "the fields are empty"),
        (seeds, lambda f: replaced(f, "0001/data", FLOW[0, :2, ..., :2]), "'0001' has shape"),
        (seeds, lambda f: f.__delitem__("0002/grid"), "group '0002' has no `data` or `grid/x`"),
        (well, lambda f: f["scalars/Re"].attrs.update(time_varying=True), "scalar 'Re' varies in time"),
        (well, lambda f: f["dimensions/x"].attrs.update(sample_varying=True), "coordinates of 'x' vary"),
        (well, lambda f: f["dimensions"].attrs.update(spatial_dims=["theta", "phi"]), r"axes are \['theta', 'phi'\]"),
        (well, lambda f: f["t0_fields/tracer"].attrs.update(time_varying=False), "its attributes say"),
        (well, lambda f: f["t1_fields"].attrs.update(field_names=["speed"]), "no HDF5 file of this layout, or damaged"),
    ],
)  # fmt: skip
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, make, change, message: str) -> None:
    path = spoilt(make(tmp_path / "a.h5"), change)
    with pytest.raises(InputError, match=message):
        layout_of(path).read(path)


@pytest.mark.parametrize("make", [burgers, seeds, well, incompressible])
def test_damaged_and_large_files_are_refused(tmp_path: Path, make) -> None:
    path = make(tmp_path / "a.h5")
    layout = layout_of(path)
    with pytest.raises(InputError, match="the limit is 1e-09 GB"):
        type(layout)(max_gigabytes=1e-9).read(path)
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 8):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            layout.read(path)


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        (PDEBench(), {"parameters": {"Nu": np.arange(3.0)}}, "one 'Nu' for a file, got 3 values"),
        (PDEBench(), {"fields": {"a": U, "b": U}}, "holds one field or"),
        (PDEBenchSeeds(), {"constants": {"nu": U[:, 0]}}, "no place for"),
    ],
)
def test_what_a_layout_has_no_place_for_is_refused(tmp_path: Path, layout, changes, message: str) -> None:
    given = {"fields": {"u": U}, "time": TS, "space": {"x": XS}, **changes}
    with pytest.raises(InputError, match=message):
        layout.write(tmp_path / "a.h5", Simulations(**given))
    assert not (tmp_path / "a.h5").exists()


def test_grids_that_are_not_uniform_are_told() -> None:
    check_uniform(
        "a.h5", {"x": XS, "one": XS[:1], "fine": np.linspace(0, 1, 1001, dtype=np.float32)}, "a Fourier network"
    )
    with pytest.raises(InputError, match=r"a.h5: a Fourier network needs equal steps, but those of 'x' go from 1 to 5"):
        check_uniform("a.h5", {"x": np.array([0.0, 1.0, 4.0, 9.0])}, "a Fourier network")


@pytest.mark.parametrize(("layout", "suffix"), [("pdebench", "h5"), ("cf", "nc"), ("the_well", "hdf5")])
def test_first_fields_are_what_a_forecaster_is_given(tmp_path: Path, layout: str, suffix: str) -> None:
    """Two of them, at the times it learned from; the number of each trajectory comes along."""
    path, number = tmp_path / f"a.{suffix}", 0.25
    fields, shape = {"u": FLOW[..., 0]}, (T, Y, X)
    parameters = {"viscosity": np.full(N, number)}
    LAYOUTS[layout]().write(path, Simulations(fields, TS, {"x": XS, "y": YS}, parameters=parameters))
    given = (TS[:2] - TS[0]).tolist()
    read = read_measured(path, shape, given=given)
    assert np.array_equal(read["measured"], FLOW[:, :2, ..., 0].transpose(0, 1, 3, 2).reshape(N, -1))
    assert np.array_equal(read["observed_parameter_viscosity"], np.full(N, number))
    with pytest.raises(InputError, match=r"counted from the first, but the model learned from fields at \[0.0, 7.0\]"):
        read_measured(path, shape, given=[0.0, 7.0])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_states_its_facts(name: str) -> None:
    assert {"summary", "exactness", "cost", "bias", "source"} <= set(facts(LAYOUTS[name]))


def test_what_the_well_writes_has_what_its_loader_asks_for(tmp_path: Path) -> None:
    TheWell().write(tmp_path / "a.hdf5", example("the_well"))
    with h5py.File(tmp_path / "a.hdf5") as file:
        asked = {"dataset_name", "grid_type", "n_spatial_dims", "n_trajectories", "simulation_parameters"}
        assert asked <= set(file.attrs)
        groups = {"dimensions", "boundary_conditions", "scalars", "t0_fields", "t1_fields", "t2_fields"}
        assert groups <= set(file)
        assert [*file["t0_fields"].attrs["field_names"]] == ["density", "velocity_x", "nu"]
        for stored in file["t0_fields"].values():
            assert {"dim_varying", "sample_varying", "time_varying"} <= set(stored.attrs)
        assert file["boundary_conditions/y_wall"].attrs["bc_type"] == "WALL"
