"""Scanners against objects whose measurements are known in closed form: what no operator of ours made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sciflow.domains.imaging.phantoms import Ellipses
from sciflow.inverse import CartesianMRI, FanBeam, ParallelBeam
from sciflow.inverse.mri import spectrum
from sciflow.random import Stream

SCANNERS = {
    "parallel": ParallelBeam(20),
    "limited angle, coarse bins": ParallelBeam(20, spacing=1.5, arc=120.0),
    "fan, flat": FanBeam(20),
    "fan, arc": FanBeam(20, detector="arc", source_distance=0.8),
}
scanners = pytest.mark.parametrize("name", SCANNERS)


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square error over root mean square."""
    return float(np.sqrt((np.abs(found - truth) ** 2).mean() / (np.abs(truth) ** 2).mean()))


def slope(sides: tuple[int, ...], errors: list[float]) -> float:
    """Order of convergence from the first to the last grid."""
    return math.log(errors[0] / errors[-1]) / math.log(sides[-1] / sides[0])


@scanners
def test_line_integrals_of_a_smooth_object_converge(name: str) -> None:
    """A Gaussian blob off the centre, narrow enough to end inside the image (4.1 widths from the border).

    Oblique rays cross pixels at all places and err by O(pixel²); those within a pixel of an axis err by O(pixel), and
    are O(pixel) of a fan, so the root mean square has order 3/2. Parallel rays meet an axis at the middles of pixels.
    """
    sides, errors = (16, 128), []
    for side in sides:
        operator = SCANNERS[name].on((1, side, side))
        rays, width, centre = operator.rays((side, side)), 0.08 * side, np.array([0.1, -0.17]) * side
        aside = rays.points - centre
        aside = aside - (aside * rays.directions).sum(-1, keepdims=True) * rays.directions
        truth = math.sqrt(2 * math.pi) * width * np.exp(-0.5 * (aside**2).sum(-1) / width**2)
        place = np.arange(side) + 0.5 - side / 2
        squared = (place[None] - centre[0]) ** 2 + (place[:, None] - centre[1]) ** 2
        image = torch.as_tensor(np.exp(-0.5 * squared / width**2))[None, None]
        errors.append(relative(operator(image).reshape(truth.shape).numpy(), truth))
    assert slope(sides, errors) > (1.85 if isinstance(SCANNERS[name], ParallelBeam) else 1.4)  # 2 and 3/2, see above
    assert errors[-1] < 3e-3


@scanners
def test_line_integrals_of_a_head_converge_with_order_one(name: str) -> None:
    """Edges cost one order: a ray may run along one, a pixel to either side."""
    phantom, sides, errors = Ellipses(), (32, 128), []
    for side in sides:
        operator = SCANNERS[name].on((1, side, side))
        truth = phantom.line_integrals(operator.rays((side, side)), side)
        found = operator(torch.as_tensor(phantom.image(side))[None, None]).reshape(truth.shape).numpy()
        errors.append(relative(found, truth))
    assert 0.8 < slope(sides, errors) < 1.5  # one, and half an order of luck in where the edges lie
    assert errors[-1] < 0.04


def test_a_disc_has_the_chords_of_a_circle() -> None:
    side, radius = 64, 0.7
    rays = ParallelBeam(3).rays((side, side))
    found = Ellipses(((2.0, radius, radius, 0.0, 0.0, 33.0),)).line_integrals(rays, side)
    offset = np.arange(found.shape[1]) - (found.shape[1] - 1) / 2
    chord = 2 * np.sqrt(np.maximum((radius * side / 2) ** 2 - offset**2, 0))
    assert np.allclose(found, 2 * chord, atol=1e-9)  # rounding


@scanners
def test_a_ray_is_as_long_as_its_way_through_the_image(name: str) -> None:
    """Sums of the rows of A, against the way through a square; also where rays run along the edges of pixels."""
    side = 12
    operator = SCANNERS[name].on((1, side, side))
    rays, half = operator.rays((side, side)), side / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        walls = (np.array([-half, half])[:, None, None, None] - rays.points) / rays.directions
    inside = np.abs(rays.points) < half
    parallel = np.abs(rays.directions) < 1e-9
    entry = np.where(parallel, np.where(inside, -np.inf, np.inf), walls.min(0)).max(-1)
    leave = np.where(parallel, np.where(inside, np.inf, -np.inf), walls.max(0)).min(-1)
    truth = np.maximum(leave - entry, 0)
    edge = (parallel & np.isclose(np.abs(rays.points), half)).any(-1)
    truth[edge] = half  # half of a ray along the border is inside
    found = operator(torch.ones(1, 1, side, side, dtype=torch.float64)).reshape(truth.shape).numpy()
    assert np.allclose(found, truth, atol=4e-6)  # rays along edges are split by 1e-6 pixels to either side


def test_pixel_size_and_channels() -> None:
    x = Stream(0).normal(2, (3, 8, 8), dtype=torch.float64)
    one = ParallelBeam(4).on((1, 8, 8))
    three = ParallelBeam(4, pixel_size=0.25).on((3, 8, 8))
    by_channel = torch.cat([one(x[:, c : c + 1]) for c in range(3)], 1)
    assert torch.allclose(three(x), 0.25 * by_channel)
    assert three.range_shape == (3, 4, 12)  # twelve bins over a diagonal of 11.3 pixels


def test_views_start_at_the_first_angle() -> None:
    half, whole = (ParallelBeam(n).on((1, 8, 8)).rays((8, 8)) for n in (4, 8))
    turned = ParallelBeam(4, first_angle=22.5).rays((8, 8))
    assert np.allclose(whole.directions[::2], half.directions, rtol=0, atol=1e-15)  # rounding of sines, below 1
    assert np.allclose(whole.directions[1::2], turned.directions, rtol=0, atol=1e-15)
    assert np.allclose(whole.points[1::2], turned.points, rtol=0, atol=1e-14)  # and of points, below 8


@pytest.mark.parametrize("odd", [0, 1])
def test_the_spectrum_of_a_head_converges_with_order_two(odd: int) -> None:
    """Low frequencies, of even and of odd grids, whose origins differ by half a pixel."""
    phantom, sides, errors = Ellipses(), (16 + odd, 64 + odd), []
    for side in sides:
        truth, found = phantom.spectrum(side), spectrum(torch.as_tensor(phantom.image(side)) + 0j).numpy()
        low = slice(side // 2 - 4, side // 2 + 5)
        errors.append(relative(found[low, low], truth[low, low]))
    assert slope(sides, errors) > 1.75  # two: means over pixels lose sin(x)/x of a frequency
    assert errors[-1] < 6e-3


@pytest.mark.parametrize("n_coils", [1, 5])
def test_all_columns_of_k_space_give_the_image_back(n_coils: int) -> None:
    operator = CartesianMRI(1.0, n_coils=n_coils).draw((2, 9, 8), Stream(0))
    x = Stream(1).normal(2, (2, 9, 8), dtype=torch.float64)
    assert torch.allclose(operator.adjoint(operator(x)), x, atol=1e-13)  # Σ|S|² = 1 and F unitary: rounding
    assert torch.allclose(operator(x).norm(dim=1), x.flatten(1).norm(dim=1))


@pytest.mark.parametrize("pattern", ["random", "equispaced"])
def test_columns_of_k_space(pattern: str) -> None:
    operators = [CartesianMRI(4.0, 0.1, pattern).draw((2, 10, 80), Stream(seed)) for seed in range(5)]
    for operator in operators:
        lines = operator.parameters()["lines"]
        assert lines.sum() == 20 and lines[36:44].all()  # 80/4 in all, 8 of them in the middle, around 80 // 2
        assert operator.range_shape == (1, 2, 10, 20)
    assert not torch.equal(operators[0].parameters()["lines"], operators[1].parameters()["lines"])


def test_coils_of_your_own_take_the_place_of_the_synthetic_ones() -> None:
    recipe, shape = CartesianMRI(1.0, n_coils=2), (2, 4, 4)
    maps = torch.zeros(2, 2, 4, 4, dtype=torch.float64)
    maps[0, 0], maps[1, 1] = 1, 1  # the second coil sees i times the image
    operator = recipe.bind({"lines": torch.ones(4), "maps": maps}, shape)
    x = Stream(0).normal(1, shape, dtype=torch.float64)
    seen = torch.view_as_complex(operator(x).reshape(2, 2, 4, 4).movedim(1, -1).contiguous())
    assert torch.allclose(seen[1], 1j * seen[0])
    assert torch.allclose(seen[0], spectrum(torch.complex(x[0, 0], x[0, 1])))
