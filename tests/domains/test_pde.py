"""Domain pde: what the data set holds, that its exact posterior is exact, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from sciflow.domains.pde.boxes import Ring, Torus
from sciflow.domains.pde.equations import Advection, Burgers, KortewegDeVries, semilinear
from sciflow.domains.pde.evolve import check_step, fields
from sciflow.domains.pde.forecast_figures import space_time_gallery
from sciflow.domains.pde.navier_stokes import NavierStokes
from sciflow.domains.pde.simulate import Evolving
from sciflow.errors import InputError, NonFiniteError
from sciflow.inverse.inpainting import Inpainting
from sciflow.inverse.likelihood import GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.sensors import Sensors
from sciflow.random import Stream
from tests.tiny import PDE, Place, change

COUNTS = {"n_samples": 40, "n_observations": 2, "n_exact": 4000, "test": 0.1, "validation": 0.1}
SMALL = Evolving(equation=Burgers(0.3), size=16, waves=3, duration=0.5, **COUNTS)


def sensors(stride: int, channels: int = 1, sigma: float = 0.3) -> Observation:
    return Observation(Sensors(stride, channels), GaussianNoise(sigma))


def made(**options: object) -> xr.Dataset:
    return replace(SMALL, **options).simulate(Stream(1))


def test_exact_draws_have_the_posterior_of_a_linear_equation() -> None:
    """Advection by v t moves the whole law: at every time the posterior is Gaussian, with moments by conditioning."""
    data = made(equation=Advection(1.0), observation=sensors(4))
    basis, ring = SMALL.basis(), SMALL.box
    for i in range(2):
        seen, y = basis[::4], torch.as_tensor(data["measured"].to_numpy()[i]).double()
        gain = seen.T @ torch.linalg.inv(seen @ seen.T + 0.3**2 * torch.eye(4, dtype=torch.float64))
        mean, covariance = gain @ y, torch.eye(6, dtype=torch.float64) - gain @ seen
        for k, t in enumerate((0.0, 0.5)):
            angles = (ring.places - t)[:, None] * torch.arange(1, 4)
            spread = basis.square().sum(0)[:3].mul(2 / 16).sqrt()  # of a cosine over the ring: its mean square is ½
            moved = torch.cat([spread * angles.cos(), spread * angles.sin()], 1)
            drawn = torch.as_tensor(data["exact"].to_numpy()[i, :, k])
            variance = (moved @ covariance * moved).sum(1)
            error = (variance / 4000).sqrt()  # standard error of a mean; √2 times the relative one of a variance
            assert ((drawn.mean(0) - moved @ mean).abs() < 4 * error).all()
            assert ((drawn.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / 4000)).all()


def test_the_truth_is_one_of_the_exact_draws_in_law() -> None:
    """Ranks of the truth among the exact draws are uniform: z of their mean over 200 events at one place."""
    data = made(n_samples=2000, n_observations=200, n_exact=19, observation=sensors(8), equation=Burgers(0.3))
    truth, exact = (data[name].isel(time=1, x=5).to_numpy() for name in ("truth", "exact"))
    ranks = (exact < truth[:, None]).sum(1)
    spread = math.sqrt((20**2 - 1) / 12 / 200)  # of the mean of 200 uniform ranks 0 … 19
    assert abs(ranks.mean() - 9.5) < 4 * spread


def test_later_readings_have_no_exact_answer() -> None:
    assert "exact" not in made(observation=sensors(4, channels=2)).variables
    assert "exact" in made(observation=sensors(4), n_exact=2).variables


def test_the_file_says_where_sensors_are_and_how_exact_it_is() -> None:
    data = made(n_times=2, n_exact=2, observation=sensors(4))
    assert data["data"].dims == ("sample", "time", "x") and data.sizes["time"] == 3
    places, times = data["sensor_x"].to_numpy(), data["sensor_time"].to_numpy()
    assert np.allclose(places, 2 * math.pi * np.arange(0, 16, 4) / 16) and (times == 0).all()
    assert 0 < data.attrs["reference_error"] < 1e-5
    assert data.attrs["reference_error"] > made(n_exact=2, step=0.01).attrs["reference_error"]
    assert 0 < data.attrs["resolution_error"] < 0.01
    finer = made(n_times=2, n_exact=2, observation=sensors(8), size=32)
    assert finer.attrs["resolution_error"] < 0.1 * data.attrs["resolution_error"]  # spectral: a digit and more
    assert set(data["split"].to_numpy()) == {"train", "validation", "test"}
    rows = {array.tobytes() for array in data["data"].to_numpy()[data["split"].to_numpy() == "train"]}
    assert not rows & {array.astype(np.float32).tobytes() for array in data["truth"].to_numpy()}


def test_masks_of_its_own_are_conditioned_on_too() -> None:
    """An operator that draws its parameters: those of each observation count."""
    data = made(observation=Observation(Inpainting(0.5), GaussianNoise(0.05)), n_times=1, n_exact=2)
    assert "exact" not in data.variables  # pixels of both times are seen


def test_trajectories_with_a_speed_of_their_own_move_at_it() -> None:
    """Every wave of a trajectory of advection is shifted by its own speed times the time; so are its exact draws."""
    data = made(equation=Advection(), varied={"speed": (0.2, 2.0)}, observation=sensors(4), n_exact=3)
    ring, speeds = SMALL.box, torch.as_tensor(data["parameter_speed"].to_numpy())
    assert float(speeds.min()) >= 0.2 and float(speeds.max()) <= 2.0 and len(set(speeds.tolist())) == 40
    fields_made = torch.as_tensor(data["data"].to_numpy()).double()
    modes = ring.modes(fields_made[:, 0]) * torch.exp(-0.5j * speeds[:, None] * ring.wavenumbers)
    # 1e-6: rounding of float32 on disk of fields below 3
    assert torch.allclose(ring.values(modes), fields_made[:, 1], atol=1e-6, rtol=0)
    seen = torch.as_tensor(data["observed_parameter_speed"].to_numpy())
    start, end = torch.as_tensor(data["exact"].to_numpy()).unbind(2)
    moved = ring.values(ring.modes(start) * torch.exp(-0.5j * seen[:, None, None] * ring.wavenumbers))
    assert torch.allclose(moved, end, atol=1e-12, rtol=0)  # float64
    truth = torch.as_tensor(data["truth"].to_numpy())
    moved = ring.values(ring.modes(truth[:, 0]) * torch.exp(-0.5j * seen[:, None] * ring.wavenumbers))
    assert torch.allclose(moved, truth[:, 1], atol=1e-12, rtol=0)  # float64


def test_vorticity_on_a_torus_is_a_data_set_like_any_other() -> None:
    """Axes, sensors and errors of the file; exact draws start from the posterior, not from the law."""
    flow = NavierStokes(viscosity=0.05, amplitude=0.3, waves=2)
    data = made(equation=flow, varied={"viscosity": (0.02, 0.1)}, observation=sensors(4), n_exact=200)
    assert data["data"].dims == ("sample", "time", "y", "x") and data["data"].shape[1:] == (2, 16, 16)
    assert np.allclose(np.unique(data["sensor_y"].to_numpy()), 2 * math.pi * np.arange(0, 16, 4) / 16)
    assert 0 < data.attrs["reference_error"] < 1e-4 and 0 < data.attrs["resolution_error"] < 0.01
    start, truth = data["exact"].to_numpy()[:, :, 0], data["truth"].to_numpy()[:, None, 0]
    # 28 numbers seen at 16 places with noise 0.3: the posterior is narrower than the prior, of variance 0.25
    assert np.square(start - start.mean(1, keepdims=True)).mean() < 0.7 * 0.25
    assert np.square(start.mean(1, keepdims=True) - truth).mean() < 0.25
    read = (start[..., ::4, ::4] - data["measured"].to_numpy().reshape(2, 1, 4, 4)).std()
    assert 0.2 < read < 0.45  # of the order of the noise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"varied": {"viscosty": (0.1, 0.2)}}, r"names 'viscosty', but this equation has the numbers \['viscosity'\]"),
        ({"varied": {"viscosity": (0.2, 0.1)}}, "needs the lower value first"),
        ({"varied": {"viscosity": (-0.2, 0.1)}}, "Input should be greater than 0. Give another range"),
        ({"waves": 6}, "carry waves below 5"),
        ({"n_observations": 30}, "4 of 40 trajectories are held out"),
        ({"test": 0.5, "validation": 0.5}, "nothing to train on"),
        ({"observation": sensors(4, channels=3)}, "sensors in 3 channels do not fit"),
        ({"equation": Burgers(0.005), "duration": 3.0}, "does not resolve these fields: twice as many move them by"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**options)


def advised(error: pytest.ExceptionInfo[Exception]) -> float:
    """The step at the end of a message."""
    return float(re.search(r"Take steps of at most ([\d.e-]+)\.$", str(error.value))[1])  # type: ignore[index]


def test_a_step_too_long_for_the_waves_is_refused_with_the_longest_that_is_safe() -> None:
    options = {"equation": KortewegDeVries(), "amplitude": 5.0, "waves": 1, "size": 64, "duration": 0.004, "n_exact": 2}
    with pytest.raises(InputError, match=r"cells; at most 1.3 are stable") as refused:
        made(step=0.005, **options)
    assert made(step=advised(refused), **options).attrs["reference_error"] < 1e-3


@pytest.mark.parametrize("speed", [0.3, 1.7, 15.0, 999.0])
def test_the_step_that_is_advised_is_taken(speed: float) -> None:
    box = Ring(2 * math.pi, 64)
    with pytest.raises(InputError, match=r"lets waves .* at most 1\.3 are stable") as refused:
        check_step(box, 5.0, speed)
    check_step(box, advised(refused), speed)
    with pytest.raises(InputError, match=r"at most 1\.3 are stable"):
        check_step(box, 1.2 * advised(refused), speed)  # two digits: it is no more than 10 % too short


def vortices(torus: Torus) -> Tensor:
    """Of vorticity 40, and speed 10: the vorticity is no speed."""
    return 40 * (2 * torus.places.cos()[:, None] + (3 * torus.places).sin())[None] / 3


@pytest.mark.parametrize(
    ("equation", "start", "step"),
    [
        (KortewegDeVries(), lambda ring: 10 * ring.places.cos()[None], 0.1),
        (NavierStokes(viscosity=0.01), vortices, 1.0),
    ],
    ids=["factor 6", "vorticity"],
)
def test_a_blow_up_names_a_step_that_does(equation: Any, start: Callable[[Any], Tensor], step: float) -> None:
    box = equation.box(2 * math.pi, 32)
    dynamics, times = equation.dynamics(box), [0.0, 10 * step]
    speed = equation.fastest(box, start(box))
    with pytest.raises(NonFiniteError, match=r"between t = 0 and \d+, with values up to (10|40) before") as blown:
        fields(dynamics, box, start(box), times, step, speed=speed)
    assert bool(fields(dynamics, box, start(box), [0.0, step], advised(blown), speed=speed).isfinite().all())


def test_a_blow_up_by_waves_that_came_up_on_the_way_names_half_the_step() -> None:
    ring = Ring(2 * math.pi, 32)
    with pytest.raises(NonFiniteError, match="faster waves came up on the way") as blown:
        fields(semilinear(KortewegDeVries(), ring), ring, 40 * ring.places.cos()[None], [0.0, 4.0], 0.5)
    assert advised(blown) == 0.25


def test_the_exact_posterior_is_scored_beside_the_samplers(place: Place) -> None:
    results = place.build(change(PDE, {"evaluate.metrics": ["rmse", "crps", "coverage"]}))
    table = (results / "metrics.csv").read_text()
    assert "exact draws,crps," in table and "PiGDM,crps," in table
    report = (results / "report.html").read_text()
    assert "One held-out event" in report and report.count("data:image/png") >= 2


def test_fields_of_a_plane_are_shown_at_a_few_times() -> None:
    """Of the trajectory that changes most: truth, mean, spread and two members, a line for each of four times."""
    values = np.random.default_rng(0).normal(size=(2, 6, 7, 4, 8))  # observation, member, time, y, x
    values[1] *= 10
    dims = ("time", "y", "x")
    axes = {"time": np.arange(7.0), "y": np.arange(4.0), "x": np.arange(8.0)}
    data = xr.Dataset(
        {"data": (("sample", *dims), values[:, 0]), "truth": (("observation", *dims), values[:, 0])}, axes
    )
    members = (("posterior", "observation", "member", *dims), values[None])
    samples = xr.Dataset({"samples": members}, {**axes, "posterior": ["law"]})
    drawn = space_time_gallery(SimpleNamespace(data=data, samples=samples))  # type: ignore[arg-type]
    assert drawn is not None
    shown = [image.get_array() for image in drawn.axes.images]
    assert len(shown) == 20  # four times, five columns
    chosen = values[1][:, [0, 2, 4, 6]]
    expected = [chosen[0], chosen.mean(0), chosen.std(0, ddof=1), chosen[0], chosen[1]]
    np.testing.assert_allclose(shown, np.concatenate(expected), rtol=1e-12)
    assert {f"t = {k}" for k in (0, 2, 4, 6)} <= {text.get_text() for text in drawn.axes.texts}
