"""Every violation of a schema is named, with what was got and what is needed, all at once."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from sciflow.data.schema import DATA, SAMPLES, Schema, Variable, check
from sciflow.errors import InputError

SCHEMA = Schema(
    "velocity file",
    (
        Variable("velocity", ("sample", "time", "*event"), units="m s-1"),
        Variable("forcing", ("sample", "*event"), is_required=False),
        Variable("count", ("sample",), kind="integer", is_required=False),
    ),
)


def velocity(
    dims: tuple[str, ...] = ("sample", "time", "x"), units: str | None = "m s-1", **more: object
) -> xr.Dataset:
    values = np.ones([2, 3, 4, 5][: len(dims)])
    return xr.Dataset({"velocity": (dims, values, {} if units is None else {"units": units}), **more})


@pytest.mark.parametrize("dims", [("sample", "time"), ("sample", "time", "x"), ("sample", "time", "y", "x")])
def test_any_event_will_do(dims):
    assert check(velocity(dims), SCHEMA) is None


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            xr.Dataset({"velocty": 1.0}),
            r"f.nc: variable 'velocity' is missing, found \['velocty'\]. Did you mean 'velocty'",
        ),
        (
            velocity(("time", "sample", "x")),
            r"'velocity' has dims \('time', 'sample', 'x'\), needs \('sample', 'time', '\*event'\)",
        ),
        (velocity(("sample",)), "needs .*'time'"),
        (velocity(units="km h-1"), "has units 'km h-1', needs 'm s-1'. Convert it"),
        (velocity(units=None), "has no units, needs 'm s-1'"),
        (
            velocity(forcing=(("sample", "y"), np.ones((2, 4)))),
            r"'forcing' has dims \('sample', 'y'\), needs \('sample', 'x'\)",
        ),
        (velocity(count=("sample", [0.5, 1.0])), "'count' holds float64, needs integer values"),
        (velocity().isel(sample=slice(0)), "'velocity' is empty: sizes {'sample': 0"),
        (
            velocity().where(lambda d: d.x != 2),
            r"6 of 24 values NaN or infinite, the first at \(sample 0, time 0, x 2\)",
        ),
    ],
)
def test_each_violation_is_named(dataset, message):
    with pytest.raises(InputError, match=message):
        check(dataset, SCHEMA, "f.nc")


def test_all_violations_come_at_once():
    bad = velocity(units="km h-1", count=("sample", [0.5, 1.0]), forcing=(("sample", "y"), np.full((2, 4), np.inf)))
    with pytest.raises(InputError) as caught:
        check(bad, SCHEMA)
    assert len(str(caught.value).splitlines()) == 4
    assert all(line.startswith("velocity file: ") for line in str(caught.value).splitlines())


def test_headers_alone_do_not_show_nan():
    bad = velocity().where(lambda d: d.x != 2).assign(velocity=lambda d: d.velocity.assign_attrs(units="m s-1"))
    assert check(bad, SCHEMA, look_inside=False) is None
    with pytest.raises(InputError, match="NaN"):
        check(bad, SCHEMA)


def test_the_artefacts_of_a_run_have_schemas():
    split = ("sample", np.array(["train", "test"]))
    data = xr.Dataset({"data": (("sample", "y", "x"), np.ones((2, 3, 3)))}, coords={"split": split})
    assert check(data, DATA) is None
    with pytest.raises(InputError, match=r"'truth' has dims .*'dimension'.*needs .*'y', 'x'"):
        check(data.assign(truth=(("observation", "dimension"), np.ones((1, 3)))), DATA)
    samples = xr.Dataset(
        {
            "samples": (("posterior", "observation", "member", "x"), np.ones((1, 2, 3, 4))),
            "nfe": (("posterior", "observation"), np.full((1, 2), 30)),
        },
        coords={"posterior": ["twisted SMC"]},
    )
    assert check(samples, SAMPLES) is None
