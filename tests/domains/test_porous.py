"""Domain pde, porous squares: what the file says of itself, what is refused, and a whole inverse run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import xarray as xr

from sciflow.diffusion.schedule import Cosine
from sciflow.domains.pde.network import closed_form
from sciflow.domains.pde.porous import PorousSquare, is_porous, log_permeability
from sciflow.errors import InputError
from sciflow.inverse.darcy import Darcy, pressure
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.inverse.solves import tallied
from sciflow.random import Stream
from tests.tiny import PDE, Place, change

SMALL = PorousSquare(n_modes=6, n_samples=20, n_observations=3)


def test_the_file_holds_fields_that_obey_the_equation() -> None:
    data = SMALL.simulate(Stream(1))
    assert is_porous(data) and data.attrs["residual"] < 1e-10  # as the project asks
    assert 0 < data.attrs["resolution_error"] < 0.05
    again = log_permeability(data, torch.as_tensor(data["truth"].to_numpy()))
    assert torch.allclose(again, torch.as_tensor(data["log_permeability"].to_numpy()))
    readings = Darcy()(torch.as_tensor(data["truth"].to_numpy()))
    noise = torch.as_tensor(data["measured"].to_numpy()) - readings
    assert (
        abs(float(noise.square().mean().sqrt()) / 0.05 - 1) < 4 / (2 * 48) ** 0.5
    )  # relative error of 48 squares' root
    assert data.sizes["measurement"] == len(data["sensor_x"]) == 16


def test_a_finer_grid_says_a_smaller_error() -> None:
    errors = [
        replace(SMALL, observation=Observation(Darcy(size=n, stride=n // 4), GaussianNoise(0.05)))
        .simulate(Stream(1))
        .attrs["resolution_error"]
        for n in (16, 32)
    ]
    assert 3 < errors[0] / errors[1] < 5  # order two


def test_the_prior_is_the_law_of_the_coefficients() -> None:
    denoiser = closed_form(SMALL.simulate(Stream(1)), Cosine())
    x = Stream(0).normal(4, (6,), dtype=torch.float64)
    alpha, sigma = Cosine().alpha(0.3), Cosine().sigma(0.3)
    assert torch.allclose(denoiser(x, 0.3), alpha * x / (alpha**2 + sigma**2))


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (Observation(Sensors(), GaussianNoise(0.1)), "must be of kind 'darcy' for porous squares, got Sensors"),
        (
            Observation(Darcy(size=4, stride=2), GaussianNoise(1e-3)),
            "moves readings by .*, more than their noise, 0.001",
        ),
        (Observation(Darcy(size=16, stride=5), GaussianNoise(0.1)), "stride 5 of sensors does not divide the 16 cells"),
    ],
)
def test_what_does_not_fit_is_refused(observation: Observation, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, observation=observation).simulate(Stream(1))


def test_solves_are_counted_forwards_and_by_the_adjoint() -> None:
    a = (Stream(3).normal(3, (6, 6), dtype=torch.float64)).exp().requires_grad_()
    with tallied() as solves:
        found = pressure(a)
        assert solves.rows == 3
        with tallied() as inner:
            found.sum().backward()
        assert (solves.rows, inner.rows) == (3, 3)
        pressure(a[:2])
    pressure(a)  # nobody counts
    assert solves.rows == 5


def test_a_whole_run(place: Place) -> None:
    """Tempering and a guided sampler, scored as fields, with both figures."""
    darcy = {"kind": "darcy", "size": 8, "stride": 4}
    values: dict[str, Any] = change(
        PDE,
        {
            "dataset": {
                "kind": "porous_square", "n_modes": 4, "n_samples": 20, "n_observations": 2,
                "observation": {"operator": darcy, "noise": {"kind": "gaussian", "sigma": 0.1}},
            },
            "sample.likelihood": {"kind": "nonlinear_gaussian", "operator": darcy, "sigma": 0.1},
            "sample.posteriors": {
                "tempering": {"kind": "tempered", "n_particles": 16, "n_moves": 1, "n_temperatures": 4},
                "guided": {"kind": "das", "n_particles": 16, "twist": "denoised"},
            },
            "evaluate.metrics": ["rmse", "coverage"],
            "report.figures": ["permeability", "pressures", "calibration"],
        },
    )  # fmt: skip
    results = place.build(values)
    table = (results / "metrics.csv").read_text()
    assert "tempering,rmse," in table and "guided,coverage_90," in table
    report = (results / "report.html").read_text()
    assert "the true log-permeability" in report and "zero on the walls" in report
    assert "<th>equations solved per draw</th>" in report
    with xr.open_dataset(results / "samples.nc") as samples:
        assert samples["samples"].dims == ("posterior", "observation", "member", "mode")
        solves, nfe = (samples[name].sel(posterior="tempering") for name in ("solves", "nfe"))
        assert bool((nfe == 0).all())  # its density is known: without the solves it would seem to cost nothing
        # each of 16 particles moves at 4 temperatures, asking for a value and a gradient, two solves; 4 draws
        assert bool((solves >= 16 * 4 * 2 / 4).all()) and bool((samples["solves"] > 0).all())
