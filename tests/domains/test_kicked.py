"""Kicked fields: the law of the kicks, the certified error, and that the exact ensemble has the law of the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.domains.pde import kicked
from sciflow.domains.pde.equations import Advection, Burgers
from sciflow.domains.pde.kicked import Kicked
from sciflow.domains.pde.navier_stokes import NavierStokes
from sciflow.errors import InputError, NonFiniteError
from sciflow.random import Stream
from tests.tiny import FORECAST, Place, change

SMALL = Kicked(
    equation=Burgers(0.3), size=32, gust_width=0.6, gust_rate=1.0, n_times=2, kicks=2, spin_up=2.0, n_samples=60,
    n_observations=3, n_exact=2, test=0.1, validation=0.1,
)  # fmt: skip


def made(**options: object) -> xr.Dataset:
    return replace(SMALL, **options).simulate(Stream(1))


def test_kicks_that_nothing_damps_add_up_to_their_variance() -> None:
    """Advection moves kicks and keeps them: after K kicks the variance at a place is K τ (rate s² (E g² − ḡ²) + a²)."""
    law = replace(SMALL, equation=Advection(1.0), n_samples=3000, n_times=1, spin_up=0.5, stirring=0.7)
    ends = torch.as_tensor(law.simulate(Stream(2))["data"].to_numpy()[:, -1]).double()
    sharp = torch.tensor(1 / 0.6**2, dtype=torch.float64)
    gust = float(torch.special.i0e(2 * sharp) - torch.special.i0e(sharp) ** 2)
    expected = 4 * 0.25 * (1.0 * 2.0**2 * gust + 0.7**2)  # 2 kicks in the spin-up, 2 after it
    energies = ends.square().mean(1)  # independent from trajectory to trajectory
    assert abs(float(energies.mean()) - expected) < 4 * float(energies.std()) / math.sqrt(len(energies))
    assert float(ends.mean(1).abs().max()) < 1e-6  # kicks have no mean; rounding of float32 on disk


@pytest.mark.parametrize("equation", [Burgers(0.3), NavierStokes(viscosity=0.3)], ids=repr)
def test_stirring_and_gusts_have_their_mean_squares(equation: object) -> None:
    """One kick from rest: τ (rate s² (E g² − ḡ²) + a²) at each place, on a ring and on a torus."""
    law = replace(SMALL, equation=equation, size=16, stirring=0.7)
    kicks = law.kick(3000, Stream(4), 0).flatten(1)
    sharp, n_axes = torch.tensor(1 / 0.6**2, dtype=torch.float64), len(law.box.axes)
    gust = float(torch.special.i0e(2 * sharp) ** n_axes - torch.special.i0e(sharp) ** (2 * n_axes))
    energies = kicks.square().mean(1)  # independent from trajectory to trajectory
    expected = 0.25 * (1.0 * 2.0**2 * gust + 0.7**2)
    assert abs(float(energies.mean()) - expected) < 4 * float(energies.std()) / math.sqrt(len(energies))
    assert float(kicks.mean(1).abs().max()) < 1e-10  # no kick has a mean; a gust aliases by 5e-12 on 16 points


def test_stirred_vorticity_is_kicked_like_any_field() -> None:
    """Dims, the given field, and the balance of enstrophy in a linear flow: what kicks bring, decayed since."""
    law = replace(
        SMALL, equation=NavierStokes(viscosity=0.5), size=16, gust_rate=0.0, stirring=0.05, waves=2, spin_up=4.0,
        n_samples=400,
    )  # fmt: skip
    data = law.simulate(Stream(5))
    assert data["data"].dims == ("sample", "time", "y", "x") and data["exact"].dims[2:] == ("time", "y", "x")
    assert max(data.attrs[f"{name}_error"] for name in ("reference", "resolution")) < 1e-3
    modes = torch.tensor([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], dtype=torch.float64)  # |k|² of the six pairs of numbers
    decay = torch.exp(-2 * 0.5 * 0.25 * modes)  # of a square, from kick to kick
    expected = float((0.25 * 0.05**2 / 6 * decay / (1 - decay)).sum())  # stirring is so weak that the flow is linear
    energies = torch.as_tensor(data["data"].to_numpy()[:, -1]).double().flatten(1).square().mean(1)
    # 4 standard errors; 1 %: convection at velocities of 0.05
    gap = abs(float(energies.mean()) - expected)
    assert gap < 4 * float(energies.std()) / math.sqrt(400) + 0.01 * expected


def test_exact_members_have_the_number_of_their_truth() -> None:
    """Hardly stirred, nothing is uncertain: every exact member is the truth, at its own viscosity."""
    calm = {"gust_rate": 0.0, "stirring": 1e-9, "n_samples": 60}
    data = made(varied={"viscosity": (0.2, 0.6)}, **calm)
    seen, held = data["observed_parameter_viscosity"].to_numpy(), data["parameter_viscosity"].to_numpy()
    assert len(set(held.tolist())) == 60 and set(seen.tolist()) <= set(
        held[data["split"].to_numpy() == "test"].tolist()
    )
    assert held.min() >= 0.2 and held.max() <= 0.6
    law, n_exact = replace(SMALL, **calm), SMALL.n_exact
    start, own = law.box.places.sin().expand(2, -1), torch.tensor([0.2, 0.6], dtype=torch.float64)
    truth = law.follow(start, lambda k: torch.zeros(2, 32, dtype=torch.float64), 2, 0.05, {"viscosity": own})
    for one, viscosity in zip(truth, own.tolist(), strict=True):
        alone = replace(law, equation=Burgers(viscosity))
        found = alone.follow(start[:1], lambda k: torch.zeros(1, 32, dtype=torch.float64), 2, 0.05, {})[0]
        assert torch.allclose(one, found, atol=1e-13, rtol=0)  # the same steps, rounded alike but for vectorisation
    assert float((truth[0, -1] - truth[1, -1]).abs().max()) > 0.1
    exact = law.exact(truth, {"viscosity": own}, Stream(3))
    assert exact.shape == (2, n_exact, 3, 32)
    assert torch.allclose(exact, truth[:, None].expand_as(exact), atol=1e-7, rtol=0)  # what is left of the stirring


def test_numbers_of_gusts_are_poisson() -> None:
    """The share of kicks without any gust is e^{−rate τ}."""
    law, n = replace(SMALL, stirring=0.0), 20000
    calm = (law.kick(n, Stream(3), 0).abs().amax(1) == 0).double().mean()
    share = math.exp(-0.25)
    assert abs(float(calm) - share) < 4 * math.sqrt(share * (1 - share) / n)


def test_the_kick_of_a_trajectory_does_not_depend_on_the_others() -> None:
    assert torch.equal(SMALL.kick(40, Stream(1), 7)[:9], SMALL.kick(9, Stream(1), 7))


def test_the_truth_is_one_of_the_exact_ensemble_in_law() -> None:
    """Ranks of the truth among 19 exact members are uniform: z of their mean over 200 trajectories, at both times."""
    data = made(n_samples=2000, n_observations=200, n_exact=19)
    for time in (1, 2):
        truth, exact = (data[name].isel(time=time, x=5).to_numpy() for name in ("truth", "exact"))
        ranks = (exact < truth[:, None]).sum(1)
        spread = math.sqrt((20**2 - 1) / 12 / 200)  # of the mean of 200 uniform ranks 0 … 19
        assert abs(ranks.mean() - 9.5) < 4 * spread


def test_the_file_says_what_is_given_and_how_exact_it_is() -> None:
    data = made(n_given=2)
    assert data["data"].dims == ("sample", "time", "x") and data.sizes["time"] == 3
    given = data["truth"].to_numpy()[:, :2]
    np.testing.assert_array_equal(data["measured"].to_numpy(), given.reshape(3, -1))
    np.testing.assert_array_equal(data["exact"].to_numpy()[:, :, :2], np.repeat(given[:, None], 2, 1))
    errors = [made(step=step).attrs["reference_error"] for step in (0.0625, 0.03125)]
    assert 8 < errors[0] / errors[1] < 32  # order 4: a factor of 16, and what the leading term leaves out
    assert 0 < data.attrs["resolution_error"] < 0.01
    rows = {array.tobytes() for array in data["data"].to_numpy()[data["split"].to_numpy() != "test"]}
    assert not rows & {array.astype(np.float32).tobytes() for array in data["truth"].to_numpy()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"waves": 11}, "carry waves below 11"),
        ({"gust_rate": 5.0}, "Raise dataset.kicks"),
        ({"n_observations": 30}, "6 of 60 trajectories are held out"),
        ({"test": 0.5, "validation": 0.5}, "nothing to train on"),
        ({"n_given": 3}, "of 3 fields none is left to forecast"),
        ({"equation": Burgers(0.01), "gust_width": 0.3}, "resolution error of these fields is"),
        ({"step": 0.25}, "half of the time between kicks"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**options)


def test_steps_that_are_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit below what these steps leave: longer ones blow up before they err by a hundredth."""
    monkeypatch.setattr(kicked, "COARSEST", 1e-3)
    with pytest.raises(InputError, match=r"reference error of these fields is 0\.\d%. Lower dataset\.step"):
        made(step=0.125, gust_strength=5.0, gust_width=0.4)


def test_a_blow_up_names_a_step_that_does() -> None:
    """By the waves of the first strong gust, not by fields that are nonsense since; later gusts are as strong."""
    law, n = replace(SMALL, gust_strength=20.0), 60
    rest = torch.zeros(n, *law.box.shape, dtype=torch.float64)
    with pytest.raises(NonFiniteError, match=r"let waves of speed 1\d(\.\d)? cross") as blown:
        law.follow(rest, lambda k: law.kick(n, Stream(1), k), 4, 0.125, {})
    step = float(str(blown.value).rpartition(" ")[2].rstrip("."))
    assert bool(law.follow(rest, lambda k: law.kick(n, Stream(1), k), 4, step, {}).isfinite().all())
    with pytest.raises(
        NonFiniteError, match=r"twice dataset\.step.* of at most 0\.0\d+\. Half of that for dataset\.step"
    ):
        wave = lambda law, k: 20 * law.box.places.cos().expand(2, -1)  # noqa: E731
        replace(SMALL, step=0.06).errors(torch.zeros(2, 3, 32, dtype=torch.float64), wave, {})


@pytest.mark.slow
def test_a_stirred_flow_is_forecast_from_a_run_file(place: Place) -> None:
    """Vorticity with Kolmogorov's forcing and random stirring, through all stages."""
    flow = {"kind": "navier_stokes", "viscosity": 0.05, "drag": 0.1, "amplitude": 0.2, "waves": 2}
    network = {"kind": "fno", "width": 8, "modes": 4, "depth": 2}
    changes = {"equation": flow, "gust_rate": 0.0, "stirring": 0.5}
    results = place.build(
        change(FORECAST, {**{f"dataset.{key}": value for key, value in changes.items()}, "train.network": network})
    )
    with xr.open_dataset(results / "samples.nc") as drawn:
        assert drawn["samples"].dims[-3:] == ("time", "y", "x") and bool(np.isfinite(drawn["samples"]).all())
    table = (results / "metrics.csv").read_text()
    assert all(f"run,{name},crps," in table for name in ("ensemble", "twin", "exact draws"))
    assert (results / "report.html").read_text().count("data:image/png") >= 5
