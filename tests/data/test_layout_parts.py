"""Parts of files of simulations, larger ones than the memory too, and what describes others and is no field."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from sciflow.data.layouts import CF, PDEBench, Simulations, layout_of
from sciflow.data.layouts.simulations import Part
from sciflow.errors import InputError
from tests.data.simulated import (
    FLOW,
    TS,
    N,
    T,
    X,
    Y,
    burgers,
    compressible,
    darcy,
    incompressible,
    seeds,
    weather,
    well,
)


def test_pdebench_incompressible_flows(tmp_path: Path) -> None:
    path = incompressible(tmp_path / "a.h5")
    found = layout_of(path).read(path)
    assert [*found.fields] == ["particles", "velocity_x", "velocity_y"] and found.facts["config"] == "NU: 0.01"
    for i, name in enumerate(("velocity_x", "velocity_y", "particles")):
        assert (found.fields[name] == FLOW[..., i]).all()
    assert (found.constants["force_y"] == FLOW[:, 0, ..., 2]).all() and (found.time == TS).all()
    assert found.space["y"].tolist() == [(i + 0.5) / Y for i in range(Y)]
    with h5py.File(path, "a") as file:
        file["t"][1] = TS * 2
    with pytest.raises(InputError, match="`t` differs from sample to sample"):
        layout_of(path).read(path)
    assert layout_of(path).read(path, part=Part(samples=slice(1))).shape == (1, T, X, Y)


@pytest.mark.parametrize("look_inside", [True, False])
@pytest.mark.parametrize("make", [burgers, compressible, darcy, seeds, well, incompressible])
def test_a_part_is_that_part_of_the_whole(tmp_path: Path, make, look_inside: bool) -> None:
    """Of every field, alone, some samples and some times; a limit counts what is read."""
    path = make(tmp_path / "a.h5")
    layout = layout_of(path)
    whole = layout.read(path)
    for name in whole.fields:
        part = Part((name,), slice(2), slice(None, 3, 2))
        found = layout.read(path, look_inside, part)
        wanted = whole.fields[name][:2, :3:2]
        assert [*found.fields] == [name] and found.shape == wanted.shape
        assert (found.time == whole.time[:3:2]).all() and set(found.constants) == set(whole.constants)
        for key, values in whole.parameters.items():
            assert (found.parameters[key] == values[:2]).all()
        if look_inside:
            assert (found.fields[name] == wanted).all()
            assert all((found.constants[key] == values[:2]).all() for key, values in whole.constants.items())
    assert {name: layout.read(path, part=Part((name,))).shape for name in whole.fields} == dict.fromkeys(
        whole.fields, whole.shape
    )
    with pytest.raises(InputError, match="no field 'heat', found"):
        layout.read(path, look_inside, Part(("heat",)))


def test_a_file_that_is_larger_than_the_limit_is_read_in_part(tmp_path: Path) -> None:
    """A terabyte by its header, of which nothing is stored: what is asked for is read, the whole is refused."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("tensor", (1_000_000, 1000, 256), "f4", chunks=(1, 10, 256))
        file["x-coordinate"], file["t-coordinate"] = np.arange(256) / 256, np.arange(1001.0)
        file["tensor"][1, :10] = 1.0
    with pytest.raises(InputError, match="the limit is 8 GB"):
        PDEBench().read(path)
    found = PDEBench(max_gigabytes=1e-3).read(path, part=Part(("tensor",), slice(3), slice(None, 40, 8)))
    assert found.shape == (3, 5, 256) and found.fields["tensor"].sum() == 2 * 256


def test_what_describes_the_cells_of_a_netcdf_file_is_no_field(tmp_path: Path, caplog) -> None:
    """Bounds are left out, other variables with a word; units stay, there and back."""
    found = CF().read(weather(tmp_path / "a.nc"))
    assert (
        [*found.fields] == ["tas", "pr"]
        and not found.parameters
        and (found.fields["pr"][0] == 2 * FLOW[0, ..., 0]).all()
    )
    (said,) = [record.getMessage() for record in caplog.records]
    assert "left out {'co2': ('time',), 'levels': ('plev',), 'run': ('time',)}" in said
    assert found.units["tas"] == "K" and found.units["x"] == "degrees_east"
    part = Part(("pr",), times=slice(1, None, 2))
    alone = CF().read(tmp_path / "a.nc", part=part)
    assert [*alone.fields] == ["pr"] and alone.time.tolist() == TS[1::2].tolist()
    named = alone.to_dataset()
    assert named["data"].attrs["units"] == "kg m-2 s-1" and named["time"].attrs["units"] == "days since 2000-01-01"
    assert "units" not in found.to_dataset()["data"].attrs, "two fields of different units have none together"
    CF().write(tmp_path / "b.nc", Simulations.of(named))
    again = CF().read(tmp_path / "b.nc")
    assert (again.units["pr"], again.units["y"]) == ("kg m-2 s-1", "degrees_north")
    with pytest.raises(InputError, match=r"no field 'tax', found \['tas', 'pr'\]. Did you mean 'tas'"):
        CF().read(tmp_path / "a.nc", part=Part(("tax",)))


@pytest.mark.parametrize("part", [Part(), Part(("tas",), times=slice(1))])
@pytest.mark.parametrize("name", ["tas", "lat"])
def test_dims_that_lie_about_what_is_stored_are_refused(name: str, part: Part, tmp_path: Path) -> None:
    """Terabytes along dims of a few points: a slice in time would read all of the other axes."""
    path = weather(tmp_path / "a.nc")
    shape = {"tas": (T, 10**6, 10**6), "lat": (10**12,)}[name]
    with h5py.File(path, "r+") as file:
        del file[name]
        stored = file.create_dataset(name, shape, "f4", chunks=(1, 64, 64)[-len(shape) :])
        for axis, scale in enumerate(("time", "lat", "lon") if name == "tas" else ()):
            stored.dims[axis].attach_scale(file[scale])
        if name == "lat":
            stored.make_scale(name)
    with pytest.raises(InputError, match=r"its dims say|takes 4e\+03 GB, the limit is"):
        CF().read(path, part=part)


def test_our_own_layout_without_names_of_channels_is_read(tmp_path: Path) -> None:
    """`data` with channels that have numbers, or nothing."""
    named = layout_of(seeds(tmp_path / "a.h5")).read(tmp_path / "a.h5").to_dataset()
    for k, given in enumerate((named.assign_coords(channel=[0, 1]), named.drop_vars("channel"))):
        given.to_netcdf(tmp_path / f"{k}.nc", engine="h5netcdf")
        found = CF().read(tmp_path / f"{k}.nc")
        assert found.shape == (N, T, X, Y) and [*found.fields] == [["0", "1"], ["u0", "u1"]][k]
        second = [*found.fields][1]
        alone = CF().read(tmp_path / f"{k}.nc", part=Part((second,)))
        assert [*alone.fields] == [second] and (alone.fields[second] == FLOW[..., 1]).all()
