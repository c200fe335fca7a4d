"""Objects of ellipses as a data set, measured by formula; one slice of a head beside photographs of other things."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from sciflow.domains.imaging.ellipses import EllipseImages, measured, random_ellipses
from sciflow.domains.imaging.head_slice import HeadSlice
from sciflow.domains.imaging.patches import head
from sciflow.errors import InputError
from sciflow.inverse import CartesianMRI, FanBeam, GaussianBlur, GaussianNoise, ParallelBeam
from sciflow.inverse.observe import Observation
from sciflow.inverse.operator import Operator
from sciflow.random import Stream

STREAM, SIDE, N = Stream(0).child("dataset"), 24, 30
OPERATORS = {
    "parallel": ParallelBeam(12, pixel_size=0.2, first_angle=7.0),
    "fan": FanBeam(12),
    "k-space": CartesianMRI(2.0),
}
operators = pytest.mark.parametrize("name", OPERATORS)


def simulated(operator: Operator, measured_by: str = "formula", size: int = SIDE, noise: float = 0.1) -> xr.Dataset:
    observation = Observation(operator, GaussianNoise(noise))
    recipe = EllipseImages(size=size, n_images=N, n_observations=3, measured_by=measured_by, observation=observation)  # type: ignore[arg-type]
    return recipe.simulate(STREAM)


def test_objects_lie_in_their_body_with_values_from_zero_to_one() -> None:
    numbers = Stream(1).uniform(200, (7, 6), dtype=torch.float64).numpy()
    objects = [random_ellipses(rows) for rows in numbers]
    assert {len(one.rows) for one in objects} == set(range(2, 8))  # 200 draws of six numbers: one missing in 10^15
    images = np.stack([one.image(16, 2) for one in objects])
    assert images.min() >= -1e-12 and images.max() <= 1 + 1e-12  # sums of seven numbers, rounded
    for one in objects:
        (_, a, b, *_), *parts = one.rows
        assert all(np.hypot(x, y) + max(p, q) < min(a, b) for _, p, q, x, y, _ in parts)


@operators
def test_the_formula_takes_the_place_of_the_operator_and_of_nothing_else(name: str) -> None:
    """Images, splits, lines and noise are the same; what was measured without noise is that of the object."""
    ours, theirs = (simulated(OPERATORS[name], by) for by in ("formula", "operator"))
    xr.testing.assert_identical(ours.drop_vars("measured"), theirs.drop_vars("measured"))
    numbers = STREAM.child("objects").uniform(N, (7, 6), dtype=torch.float64).numpy()
    for i in range(3):
        drawn = {"lines": torch.as_tensor(ours["operator_lines"].to_numpy()[i])} if name == "k-space" else {}
        bound = OPERATORS[name].bind(drawn, (1, SIDE, SIDE)) if drawn else OPERATORS[name].on((1, SIDE, SIDE))
        exact = measured(random_ellipses(numbers[int(ours["observed_sample"][i])]), bound)
        of_image = bound(torch.as_tensor(ours["truth"].to_numpy()[i])[None])[0].double()
        difference = torch.as_tensor((ours["measured"] - theirs["measured"]).to_numpy()[i]).double()
        assert torch.allclose(difference, exact - of_image, atol=3e-5)  # float32 of line integrals below 24 pixels
        assert 1e-3 < float((exact - of_image).norm() / exact.norm()) < 0.2  # it errs by its pixels


@operators
def test_the_operator_tends_to_the_formula_with_smaller_pixels(name: str) -> None:
    """Of order one in the pixel at edges, as tests/domains/test_phantoms.py has it for a head; k-space at low lines."""
    one, errors = random_ellipses(Stream(2).uniform(1, (7, 6), dtype=torch.float64).numpy()[0]), []
    for side in (16, 64):
        recipe = CartesianMRI(side / 8, 8 / side) if name == "k-space" else OPERATORS[name]  # eight lines in the middle
        bound = recipe.draw((1, side, side), Stream(3))
        exact, found = measured(one, bound), bound(torch.as_tensor(one.image(side, 8))[None, None])[0]
        errors.append(float((exact - found).norm() / exact.norm()))
    assert errors[1] < errors[0] / 2.5 and errors[1] < 0.05  # four times smaller pixels, half an order of luck


def test_what_has_no_formula_is_refused() -> None:
    for operator in (GaussianBlur(), CartesianMRI(n_coils=4)):
        with pytest.raises(InputError, match="knows parallel_beam, fan_beam, and cartesian_mri of one coil"):
            EllipseImages(observation=Observation(operator))
        EllipseImages(observation=Observation(operator), measured_by="operator")
    with pytest.raises(InputError, match="no formula is known for what GaussianBlur"):
        measured(random_ellipses(np.zeros((2, 6))), GaussianBlur().on((1, 8, 8)))


def test_a_slice_is_measured_whole_and_nothing_of_it_is_learned() -> None:
    operator = CartesianMRI(4.0, n_coils=2)
    data = HeadSlice(n_observations=2, observation=Observation(operator, GaussianNoise(0.02))).simulate(STREAM)
    assert data["data"].shape == (7, 1, 256, 256)
    assert data["split"].to_numpy().tolist() == ["train"] * 5 + ["validation", "test"]
    np.testing.assert_array_equal(data["truth"].to_numpy()[:, 0], np.stack([head().astype(np.float32)] * 2))
    assert not np.array_equal(data["operator_lines"][0], data["operator_lines"][1])
    assert data["measured"].shape == (2, 2 * 2 * 256 * 64)
    assert float(data["data"].min()) >= 0 and float(data["data"].max()) <= 1
    assert (data["data"][:6].std(("channel", "y", "x")) > 0.03).all(), "a photograph without contrast"


def test_a_slice_of_coarser_pixels() -> None:
    data = HeadSlice(reduction=8, observation=Observation(noise=GaussianNoise(0.02))).simulate(STREAM)
    expected = head().reshape(32, 8, 32, 8).mean((1, 3)).astype(np.float32)
    np.testing.assert_array_equal(data["truth"].to_numpy()[0, 0], expected)
    with pytest.raises(InputError, match="must divide 256, got 3"):
        HeadSlice(reduction=3)
