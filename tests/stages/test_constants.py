"""Fields that do not change, and ends of axes, told to a surrogate: what they teach, and where they come from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from sciflow.data.layouts import CF, Simulations
from sciflow.data.measured import read_measured
from sciflow.diffusion.forecast import ConditionalDiffusion, Forecaster, Forecasts, PDERefiner, Regression
from sciflow.diffusion.model import load, pack
from sciflow.diffusion.one_step import RegressionModel, Scale, places, told
from sciflow.domains.pde.files import SimulationFile
from sciflow.errors import InputError
from sciflow.inverse.likelihood import GaussianLikelihood, GaussianNoise
from sciflow.inverse.observe import Observation
from sciflow.inverse.rollout import Rollout
from sciflow.inverse.sensors import Sensors
from sciflow.networks.fourier import FNO
from sciflow.networks.mlp import Network
from sciflow.networks.unet import UNet
from sciflow.random import Stream
from sciflow.stages.artefact import Job
from sciflow.stages.rows import bounded, constants, rows
from sciflow.stages.train import ForecastTraining
from sciflow.training.checkpoint import save
from sciflow.training.optimisation import Optimisation
from tests.tiny import FORECAST, GIVEN, Place, change

SIZE, N = 16, 600
X = (np.arange(SIZE) + 0.5) / SIZE  # middles of cells on [0, 1]
SEEN = Observation(Sensors(1, 1), GaussianNoise(0.01))


def waves(n: int, highest: int, stream: Stream) -> Tensor:
    """Random periodic fields of unit variance, whose law is the same wherever the ring is cut, (n, x), float64."""
    angles = 2 * math.pi * torch.arange(1, highest + 1, dtype=torch.float64)[:, None] * torch.as_tensor(X)
    a, b = stream.normal(2 * n, (highest,), dtype=torch.float64).chunk(2)
    return (a @ angles.cos() + b @ angles.sin()) / math.sqrt(highest)


def heat(start: Tensor, diffusivity: Tensor, time: float, is_cold: bool) -> Tensor:
    """Solutions of u_t = (κ u_x)_x by finite volumes, exact in time, (n, x).

    Walls let nothing through, or are kept at u = 0.
    """
    left, right = diffusivity[:, :-1], diffusivity[:, 1:]
    face, i = 2 * left * right / (left + right), torch.arange(SIZE - 1)
    matrix = torch.zeros(len(start), SIZE, SIZE, dtype=torch.float64)
    matrix[:, i, i + 1] = matrix[:, i + 1, i] = face
    matrix -= torch.diag_embed(matrix.sum(-1))
    if is_cold:  # half a cell from the wall
        matrix[:, 0, 0] -= 2 * diffusivity[:, 0]
        matrix[:, -1, -1] -= 2 * diffusivity[:, -1]
    return torch.einsum("nij,nj->ni", torch.matrix_exp(time * SIZE**2 * matrix), start)


def simulations(n: int = N, n_times: int = 2, spread: float = 1.0, is_cold: bool = False) -> Simulations:
    """Heat between two walls, from random starts, in media whose diffusivity differs."""
    stream = Stream(1)
    diffusivity = (spread * waves(n, 2, stream.child("medium"))).exp()
    path, time = [waves(n, 3 if is_cold else 4, stream.child("start"))], 2e-3 if is_cold else 3e-3
    for _ in range(n_times - 1):
        path.append(heat(path[-1], diffusivity, time, is_cold))
    fields = {"u": torch.stack(path, 1).numpy().astype(np.float32)}
    held = {"diffusivity": diffusivity.numpy().astype(np.float32)}
    return Simulations(fields, time * np.arange(n_times), {"x": X}, held, boundary={"x": "wall"})


def data_of(folder: Path, made: Simulations) -> xr.Dataset:
    CF().write(folder / "own.nc", made)
    return SimulationFile(str(folder / "own.nc"), n_observations=3, test=0.3, observation=SEEN).simulate(Stream(1))


def trained(
    data: xr.Dataset,
    network: Network,
    n_steps: int,
    forecasters: dict[str, Forecaster] | None = None,
    file: Path = Path("model.pt"),
    **asked: Any,
) -> Forecasts:
    """Forecasters that are told of what is asked, as they come back from their file."""
    options = Optimisation(n_steps=n_steps, batch_size=32, learning_rate=5e-3, warm_up=10, validate_every=n_steps)
    training = ForecastTraining(network, forecasters or {"mean": Regression()}, 1, options, **asked)
    learned = training.learn(Job("r", "train", "pde", 0, "", "", file), data, None)
    save(file, learned.model, "model")
    found = load(file)  # weights_only
    assert isinstance(found, Forecasts)
    return found


def of_test(data: xr.Dataset, name: str) -> Tensor:
    return torch.as_tensor(data[name].to_numpy()[data["split"].to_numpy() == "test"].copy())


def errors(forecasts: Forecasts, data: xr.Dataset, where: slice | list[int] = slice(None)) -> Tensor:
    """Mean square error of one step over that of the increment, of each held-out trajectory, at some points."""
    fields, model = rows(data, "test")[:, :, None], forecasts.named("mean")
    maps = model.scale.maps({name: of_test(data, f"constant_{name}") for name in model.scale.constants})
    with torch.no_grad():
        left = model.mean(told(fields[:, :1], None, maps)) - fields[:, 1]
    moved = (fields[:, 1] - fields[:, 0])[..., where].square().mean()
    return left[..., where].square().flatten(1).mean(1) / moved


def surely_less(less: Tensor, more: Tensor, factor: float) -> bool:
    """Whether one error is less than another by a factor, paired by trajectory, at 4 standard errors."""
    gap = more / factor - less
    return float(gap.mean()) > 4 * float(gap.std()) / math.sqrt(len(gap))


@pytest.mark.parametrize(("network", "n_steps"), [(FNO(16, 6, 3), 300), (UNet((8, 16)), 150)], ids=["fno", "unet"])
def test_a_surrogate_that_is_told_the_medium_learns_more(network: Network, n_steps: int, tmp_path: Path) -> None:
    """One field does not show how fast heat flows where. Both know the walls.

    Of the squared increment the Fourier network leaves 3.4 ± 0.4 %, without the field 15.6 ± 1.0 %; the U-Net 3.2 ± 0.4
    and 16.0 ± 1.1 %. With two other seeds the gap at a factor of two was 8 standard errors or more.
    """
    data = data_of(tmp_path, simulations())
    found = [
        errors(trained(data, network, n_steps, None, tmp_path / "model.pt", boundary=True, constants=names), data)
        for names in ((), ("diffusivity",))
    ]
    assert surely_less(found[1], found[0], 2)


@pytest.mark.parametrize("network", [FNO(12, 5, 2), UNet((8, 16), padding="circular")], ids=["fno", "unet"])
def test_a_network_that_joins_the_ends_is_told_where_they_are(network: Network, tmp_path: Path) -> None:
    """Starts look the same everywhere, and only at the cold walls the field drops. The four points next to them.

    Of the squared increment there the Fourier network leaves 3.0 ± 0.4 %, without the places 24 ± 3 %; the U-Net 1.9 ±
    0.4 and 25 ± 3 %. With two other seeds the gap at a factor of four was 5 standard errors or more.
    """
    data, near = data_of(tmp_path, simulations(spread=0.0, is_cold=True)), [0, 1, SIZE - 2, SIZE - 1]
    found = [
        errors(trained(data, network, 150, None, tmp_path / "model.pt", boundary=is_told), data, near)
        for is_told in (False, True)
    ]
    assert surely_less(found[1], found[0], 4)


EVERY: dict[str, Forecaster] = {"mean": Regression(), "law": ConditionalDiffusion(), "refined": PDERefiner(2)}


def test_a_field_that_never_differs_changes_nothing(tmp_path: Path) -> None:
    """To the last bit, for every forecaster, and other values of it are refused."""
    data = data_of(tmp_path, simulations(60, spread=0.0))
    found = [trained(data, UNet((4,)), 3, EVERY, tmp_path / "a.pt", constants=n) for n in ((), ("diffusivity",))]
    for name in EVERY:
        plain, told_of = (each.named(name).module.state_dict() for each in found)
        assert plain.keys() == told_of.keys() and all(torch.equal(plain[key], told_of[key]) for key in plain)
    found[1].given({}, {"diffusivity": torch.ones(SIZE)})
    with pytest.raises(InputError, match="trained with diffusivity = 1 everywhere, and cannot tell of other values"):
        found[1].given({}, {"diffusivity": torch.linspace(1, 1.1, SIZE)})


def test_a_model_says_nothing_of_what_it_is_not_told(tmp_path: Path) -> None:
    """Files of models without constants hold what they held before there were any."""
    data = data_of(tmp_path, simulations(60))
    trained(data, UNet((4,)), 1, None, tmp_path / "a.pt")
    stored = torch.load(tmp_path / "a.pt", weights_only=True)["models"]["mean"]["scale"]
    assert set(stored) == {"mean", "std", "step", "parameters"}


def test_a_model_comes_back_with_what_it_is_told(tmp_path: Path) -> None:
    module = UNet((4,)).build((3, 8)).eval().requires_grad_(False)
    torch.nn.init.normal_(module.last[-1].weight)  # it starts as zero
    scale = Scale(0.5, 2.0, 0.1, {}, {"depth": (2.0, 0.5), "level": (1.0, 0.0)}, (0,))
    model = RegressionModel(module, (1, 8), 1, scale)
    save(tmp_path / "a.pt", pack(Forecasts({"mean": model}, (3, 8)), UNet((4,))), "model")
    found = load(tmp_path / "a.pt")
    assert isinstance(found, Forecasts) and found.scale == scale
    past = told(Stream(1).normal(3, (1, 1, 8)), None, scale.maps({"depth": Stream(2).normal(3, (8,))}))
    assert torch.equal(found.named("mean").mean(past), model.mean(past))


@pytest.mark.parametrize("name", EVERY)
def test_members_are_the_same_in_any_company(name: str, tmp_path: Path) -> None:
    """And the field that is told of changes them."""
    data = data_of(tmp_path, simulations(60, n_times=3))
    asked = {"constants": ("diffusivity",), "boundary": True}
    forecasts = trained(data, UNet((4,)), 3, EVERY, tmp_path / "a.pt", **asked)
    medium = of_test(data, "constant_diffusivity")
    y = torch.as_tensor(data["measured"].to_numpy())[0, :SIZE].float()
    likelihood = GaussianLikelihood(y, Sensors(1, 1).draw((3, SIZE), Stream(0)), 0.01)

    def members(field: Tensor, n: int) -> Tensor:
        told_of = forecasts.given({}, {"diffusivity": field})
        return Rollout(name)(told_of, likelihood, [0.1, 0.5, 0.9], n, Stream(3, tile=4)).x

    whole = members(medium[0], 6)
    assert torch.equal(members(medium[0], 3), whole[:3])
    assert not torch.equal(members(medium[1], 3), whole[:3])


def test_places_go_from_one_end_to_the_other_and_are_told_of_bounded_axes_alone() -> None:
    """A network that answers with its last channel; on a grid (y, x) of which x does not join its ends."""

    class Last(torch.nn.Module):
        def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
            return x[:, -1:].expand(-1, x.shape[1], -1, -1)

    scale = Scale(constants={"depth": (2.0, 0.5)}, bounded=(1,))
    depth = torch.full((2, 3, 5), 3.0)
    past = told(torch.zeros(2, 1, 1, 3, 5), None, scale.maps({"depth": depth}))
    assert scale.n_told == 1 and scale.n_beside == 2 and torch.equal(past[:, 0, 1], torch.full((2, 3, 5), 2.0))
    found = RegressionModel(Last(), (1, 3, 5), 1, scale).increment(past)
    assert torch.equal(found, torch.tensor([-1, -0.5, 0, 0.5, 1]).expand(2, 1, 3, 5))
    assert torch.equal(places((3, 5), (0,), past)[0, :, 0], torch.tensor([-1.0, 0, 1]))


def field_data(**changes: Any) -> xr.Dataset:
    """Twenty fields on a plane, with a depth."""
    variables = {"data": (("sample", "time", "y", "x"), np.zeros((20, 2, 3, 4)))}
    variables["constant_depth"] = changes.get("depth", (("sample", "y", "x"), np.ones((20, 3, 4))))
    return xr.Dataset(variables, {"split": ("sample", np.full(20, "train"))})


@pytest.mark.parametrize(
    ("name", "depth", "message"),
    [
        ("deth", None, r"asks for 'deth', but data.nc knows \['depth'\]. Did you mean 'depth'\? A file has them as"),
        (
            "depth",
            (("sample", "y"), np.ones((20, 3))),
            r"dims \('sample', 'y'\), needs \('sample', 'y', 'x'\)",
        ),
        (
            "depth",
            (("sample", "y", "x"), np.full((20, 3, 4), np.nan)),
            "constant_depth in data.nc has numbers that",
        ),
    ],
)
def test_constants_that_are_not_there_are_refused(name: str, depth: Any, message: str) -> None:
    data = field_data(**({} if depth is None else {"depth": depth}))
    with pytest.raises(InputError, match=message):
        constants(data, (name,))


def test_the_axes_of_a_constant_are_those_of_the_data() -> None:
    """Whatever their order in the file."""
    values = np.arange(240.0).reshape(20, 4, 3)
    found, moments = constants(field_data(depth=(("sample", "x", "y"), values)), ("depth",))
    assert torch.equal(found["depth"], torch.as_tensor(values).transpose(1, 2))
    assert moments["depth"] == pytest.approx((119.5, values.std()), rel=1e-12)  # double precision


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        ({}, "the data say: nothing. Leave it out, or say in the file which axis is a `wall` or `open`"),
        ({"y": "periodic", "x": "periodic"}, "the data say: x is periodic, y is periodic"),
    ],
)
def test_ends_that_are_not_there_are_refused(boundary: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bounded(boundary, ("y", "x"))
    assert bounded({"x": "open", "y": "wall"}, ("y", "x")) == (0, 1) and bounded({"x": "wall"}, ("y", "x")) == (1,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {},
            r"constant fields \['depth'\], but for this state 'depth' is missing; known are \[\]. Give finite",
        ),
        (
            {"depth": torch.zeros(4)},
            r"'depth' is of shape \(4,\); known are \['depth'\]. Give finite .* \(8,\)",
        ),
        ({"depth": torch.full((8,), math.nan)}, "'depth' is not finite everywhere"),
    ],
)
def test_fields_that_are_missing_are_refused(given: dict[str, Tensor], message: str) -> None:
    model = RegressionModel(torch.nn.Identity(), (1, 8), 1, Scale(constants={"depth": (2.0, 0.5)}))
    forecasts = Forecasts({"mean": model}, (2, 8))
    with pytest.raises(InputError, match=message):
        forecasts.given({}, given)
    with pytest.raises(InputError, match="'depth' is missing"):
        Rollout()(forecasts, GaussianLikelihood(torch.zeros(8), Sensors(1, 1), 0.1), [0.1, 0.9], 2, Stream(0))


def walled_run(place: Place, **changes: Any) -> dict[str, Any]:
    """The tiny forecast, of heat between walls in a file."""
    CF().write(place.folder / "heat.nc", simulations(40, n_times=3))
    dataset = {
        "kind": "simulations", "path": "heat.nc", "n_observations": 3,
        "observation": {"operator": GIVEN, "noise": {"kind": "gaussian", "sigma": 0.01}},
    }  # fmt: skip
    asked = {"train.constants": ["diffusivity"], "train.boundary": True}
    return change(FORECAST, {"dataset": dataset, **asked, **changes})


def applied(place: Place, file: str) -> xr.DataArray:
    outcome = place.sciflow("apply", "run.yaml", file, "--out", "own.out.nc")
    assert outcome.status == 0, outcome.text
    return xr.load_dataset(place.folder / "own.out.nc")["samples"]


def test_a_state_of_ones_own_comes_with_its_fields(place: Place) -> None:
    """The recorded state and medium give the recorded forecast, another medium another; none, or half, is refused."""
    results = place.build(walled_run(place))
    with xr.open_dataset(results / "data.nc") as data:
        state, medium = data["measured"].to_numpy(), data["observed_constant_diffusivity"].to_numpy()
    whole = xr.load_dataset(results / "samples.nc")["samples"]
    own = place.folder / "own.npz"
    np.savez(own, measured=state, constant_diffusivity=medium, constant_else=np.full(3, np.nan))  # nobody asks for that
    np.testing.assert_array_equal(applied(place, "own.npz"), whole)
    np.savez(own, measured=state[1], constant_diffusivity=medium[1])
    first = applied(place, "own.npz")
    np.savez(own, measured=state[[1, 1]], constant_diffusivity=medium[1])  # one for all
    np.testing.assert_array_equal(applied(place, "own.npz")[:, :1], first)
    np.savez(own, measured=state, constant_diffusivity=medium[::-1])
    assert bool((applied(place, "own.npz") != whole).isel(observation=0, time=-1).any())
    half = {"constant_diffusivity": medium[:, :8]}
    for values, said in (({}, "'diffusivity' is missing"), (half, "has shape (3, 8),")):
        np.savez(own, measured=state, **values)
        outcome = place.sciflow("apply", "run.yaml", "own.npz", "--out", "none.nc")
        assert outcome.status == 2 and said in outcome.text, outcome.text
    assert "needs (x) = (16,), or (3, 16) for one of each observation. Give it on the model's grid." in outcome.text


def test_simulations_bring_their_own_fields(place: Place) -> None:
    """The same states as a file of simulations; other boundaries are refused."""
    place.build(walled_run(place))
    some = simulations(4, n_times=3)
    CF().write(place.folder / "state.nc", replace(some, space={"x": X + 7.0}))  # where an axis starts does not matter
    np.savez(
        place.folder / "own.npz",
        measured=some.fields["u"][:, 0],
        constant_diffusivity=some.constants["diffusivity"],
    )
    np.testing.assert_array_equal(applied(place, "state.nc"), applied(place, "own.npz"))
    CF().write(place.folder / "ring.nc", replace(some, boundary={"x": "periodic"}))
    outcome = place.sciflow("apply", "run.yaml", "ring.nc", "--out", "none.nc")
    said = "the boundary of 'x' is 'periodic', but the model learned from fields with 'wall'."
    assert outcome.status == 2 and said in outcome.text, outcome.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train.constants": ["diffusivty"]},
            "train.constants asks for 'diffusivty', but the data have ['diffusivity']. Did you mean 'diffusivity'?",
        ),
        (
            {"dataset": FORECAST["dataset"]},
            "train.constants asks for 'diffusivity', but the data have no constant fields.",
        ),
        (
            {"dataset": FORECAST["dataset"], "train.constants": []},
            "train.boundary asks where the ends of the axes are, but of those the data say: x is periodic. Leave",
        ),
    ],
)
def test_check_says_which_fields_and_ends_the_data_have(changes: dict[str, Any], message: str, place: Place) -> None:
    assert place.sciflow("check", place.write(walled_run(place))).status == 0
    outcome = place.sciflow("check", place.write(walled_run(place, **changes)))
    assert outcome.status == 2 and message in outcome.text, outcome.text


def test_a_field_on_another_grid_is_left_out_and_then_refused(place: Place) -> None:
    run = walled_run(place)
    with xr.load_dataset(place.folder / "heat.nc") as file:
        coarse = file["diffusivity"][:, ::2].rename(x="cell").drop_vars("cell")
        file.drop_vars("diffusivity").assign(diffusivity=coarse).to_netcdf(place.folder / "heat.nc")
    outcome = place.sciflow("check", place.write(run))
    said = "train.constants asks for 'diffusivity', but the data have no constant fields."
    assert outcome.status == 2 and said in outcome.text, outcome.text


def test_fields_of_a_plane_keep_their_axes(tmp_path: Path) -> None:
    """From the file to what is observed, and from a state of one's own: (y, x), whatever their order there."""
    drawn, depth = np.random.default_rng(0).normal(size=(20, 2, 3, 4)), np.arange(240.0).reshape(20, 3, 4)
    axes = {"x": np.arange(3.0), "y": np.arange(4.0)}
    made = Simulations({"u": drawn}, np.arange(2.0), axes, {"depth": depth}, {"nu": np.arange(20.0)})
    data = data_of(tmp_path, made)
    chosen = data["observed_parameter_nu"].to_numpy().astype(int)
    assert data["observed_constant_depth"].dims == ("observation", "y", "x")
    assert np.array_equal(data["observed_constant_depth"], depth.transpose(0, 2, 1)[chosen])
    read = read_measured(tmp_path / "own.nc", (2, 4, 3), given=[0.0], trained=data, constants=("depth",))
    assert read["observed_constant_depth"].dims == ("observation", "y", "x")
    assert np.array_equal(read["observed_constant_depth"], depth.transpose(0, 2, 1))
    assert "observed_constant_depth" not in read_measured(tmp_path / "own.nc", (2, 4, 3), given=[0.0], trained=data)
