"""Classical reconstructions, against phantoms and against solutions that are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from sciflow.domains.imaging.phantoms import Ellipses
from sciflow.errors import InputError
from sciflow.inverse import CartesianMRI, FanBeam, GaussianLikelihood, Identity, ParallelBeam
from sciflow.inverse.reconstruction import (
    filtered_back_projection,
    least_squares,
    short_scan,
    total_variation,
)
from sciflow.random import Stream

DISC = Ellipses(((1.0, 0.7, 0.5, 0.1, -0.1, 20.0),))


def test_back_projection_of_many_views_is_the_object() -> None:
    """Exact line integrals of an ellipse: the value inside, and the error falls with pixel and angle."""
    errors = []
    for side, options in ((32, {"arc": 180.0, "pixel_size": 0.3}), (64, {"arc": 360.0, "spacing": 0.8})):
        operator = ParallelBeam(3 * side, **options).on((1, side, side))
        integrals = DISC.line_integrals(operator.rays((side, side)), side) * operator.pixel_size
        found = filtered_back_projection(operator, torch.as_tensor(integrals).reshape(1, -1))[0, 0].numpy()
        truth = DISC.image(side)
        assert abs(found[truth == 1].mean() - 1) < 0.01  # the ramp's band limit leaves ripples that average out
        errors.append(np.sqrt(((found - truth) ** 2).mean()))
    assert errors[1] < 0.9 * errors[0] < 0.06  # edges: the error falls like √pixel


def fan(operator: FanBeam, side: int, change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> np.ndarray:
    """What back projection makes of the exact line integrals of the ellipse, or of what `change` makes of those."""
    bound = operator.on((1, side, side))
    integrals = change(DISC.line_integrals(bound.rays((side, side)), side)) * operator.pixel_size
    return filtered_back_projection(bound, torch.as_tensor(integrals.copy()).reshape(1, -1))[0, 0].numpy()


def deviation(found: np.ndarray) -> float:
    """The largest from 1 inside of the ellipse, two pixels or more from its edge."""
    inside = DISC.image(len(found)) == 1
    kept = inside[2:-2, 2:-2] & inside[:-4, 2:-2] & inside[4:, 2:-2] & inside[2:-2, :-4] & inside[2:-2, 4:]
    return float(np.abs(found[2:-2, 2:-2][kept] - 1).max())


@pytest.mark.parametrize(
    ("source_distance", "arc"), [(0.75, 360), (1.5, 360), (4.0, 360), (0.75, 264), (1.5, 219), (4.0, 300)]
)
@pytest.mark.parametrize("detector", ["flat", "arc"])
def test_a_fan_of_many_views_gives_the_object(
    detector: Literal["flat", "arc"], source_distance: float, arc: float
) -> None:
    """The value inside to 1.5 %, from a fan of 42° to either side as from one of 7°; edges blurred over a bin.

    Also from hardly more than the least part of a turn, 180° and the width of the fan.
    """
    operator = FanBeam(6 * 64, detector=detector, source_distance=source_distance, arc=arc, pixel_size=0.3)
    found, truth = fan(operator, 64), DISC.image(64)
    edge = float(((truth > 0) & (truth < 1)).mean())
    # inside only ripples of the cut ramp are left: 9 % of the jump at the edge, falling as 1/distance; 1.3 % here
    assert deviation(found) < 0.015
    # a mean over a bin, as wide as one to two pixels, is off by 1/4 on average where the edge passes, on twice as many
    assert np.sqrt(((found - truth) ** 2).mean()) < 0.25 * np.sqrt(2 * edge)
    assert abs(found.sum() / truth.sum() - 1) < 0.005  # the mass, which no blur changes


@pytest.mark.parametrize("arc", [360.0, 264.0])
@pytest.mark.parametrize("detector", ["flat", "arc"])
def test_a_fan_that_begins_elsewhere_turns_back_is_wider_and_off_its_centre(
    detector: Literal["flat", "arc"], arc: float
) -> None:
    """Each alone, and all of them; to the same errors as without, since a bin is hardly wider."""
    options: dict[str, Any] = {"detector": detector, "source_distance": 1.5, "arc": arc, "pixel_size": 0.3}
    aside: dict[str, Any] = {"offset": 2.0, "fan_angle": 44.0}
    for change in (
        {"first_angle": 37.0},
        {"clockwise": True},
        aside,
        {"first_angle": 37.0, "clockwise": True, **aside},
    ):
        operator = FanBeam(6 * 64, **options, **change)
        assert deviation(fan(operator, 64)) < 0.015, change
        for name in change:  # what it would be if one were not heeded
            forgotten = {key: getattr(FanBeam(), key) for key in (name, *(["offset"] if name == "fan_angle" else []))}
            lost = replace(operator, **forgotten).on((1, 64, 64))
            y = DISC.line_integrals(operator.on((1, 64, 64)).rays((64, 64)), 64) * operator.pixel_size
            wrong = filtered_back_projection(lost, torch.as_tensor(y).reshape(1, -1))[0, 0].numpy()
            assert deviation(wrong) > 0.04, name


def test_a_scan_backwards_has_the_views_of_one_forwards_in_another_order() -> None:
    """From 120° in 6 steps back to 20° is from 20° on; a detector that is a bin off is one bin further."""
    back = FanBeam(6, arc=120.0, first_angle=120.0, clockwise=True, n_detectors=9).rays((8, 8))
    forth = FanBeam(6, arc=120.0, first_angle=20.0, n_detectors=9).rays((8, 8))
    assert np.allclose(back.points[::-1], forth.points) and np.allclose(back.directions[::-1], forth.directions)
    shifted = FanBeam(6, arc=120.0, first_angle=20.0, n_detectors=9, offset=1.0).rays((8, 8))
    assert np.allclose(shifted.directions[:, :-1], forth.directions[:, 1:])


def test_a_fan_that_is_narrower_than_the_image_is_not_inverted() -> None:
    with pytest.raises(InputError, match=r"a fan of 38\.94 degrees at least, got arc = 360 and a fan of 20"):
        filtered_back_projection(FanBeam(8, fan_angle=20.0).on((1, 8, 8)), torch.zeros(1, 8 * 12))
    edge = FanBeam(8, arc=270.0, fan_angle=90.0, offset=0.5, detector="arc").on((1, 8, 8))  # a ray at the very end
    assert bool(filtered_back_projection(edge, torch.ones(1, 8 * 12)).isfinite().all())


@pytest.mark.parametrize("detector", ["flat", "arc"])
def test_the_errors_of_a_fan_fall_with_its_views_and_bins(detector: Literal["flat", "arc"]) -> None:
    truth = DISC.image(64)
    errors = [np.sqrt(((fan(FanBeam(n, detector=detector), 64) - truth) ** 2).mean()) for n in (8, 16, 32, 64, 128)]
    # streaks carry the energy that the gaps between views leave out: a share of 1/n to 1/n², by amplitude √2 to 2
    assert all(1.3 < more / fewer < 2.2 for more, fewer in itertools.pairwise(errors))
    fine = FanBeam(256, n_detectors=182, detector=detector)
    assert deviation(fan(fine, 64)) < 0.5 * deviation(fan(FanBeam(256, detector=detector), 64))


def test_a_weight_or_a_side_that_is_wrong_would_be_seen() -> None:
    operator = FanBeam(6 * 64, source_distance=0.75)
    assert deviation(fan(operator, 64, lambda y: y[:, ::-1])) > 0.5, "mirrored bins"
    assert deviation(fan(operator, 64, lambda y: y[::-1])) > 0.5, "sources the other way around"
    n = operator.on((1, 64, 64)).range_shape[2]
    gamma = np.arctan((2 * np.arange(n) + 1 - n) / n * math.tan(operator.half_angle))
    assert deviation(fan(operator, 64, lambda y: y / np.cos(gamma))) > 0.04, "no cosine"
    assert deviation(fan(operator, 64, lambda y: y * np.cos(gamma))) > 0.04, "twice the cosine"
    short = FanBeam(6 * 64, arc=264.0, source_distance=0.75)
    weight = short_scan(math.radians(264), torch.as_tensor(short.turns)[:, None], torch.as_tensor(gamma)).numpy()
    mirrored = deviation(fan(short, 64, lambda y: y * weight[:, ::-1] / np.maximum(weight, 1e-3)))
    assert mirrored > 0.04, "weights of the mirrored fan"
    with pytest.raises(InputError, match=r"needs sources over 218\.9 degrees and .*, got arc = 200"):
        filtered_back_projection(FanBeam(8, arc=200.0).on((1, 8, 8)), torch.zeros(1, 8 * 12))


@pytest.mark.parametrize("arc", [219.0, 300.0, 359.0])
def test_both_sightings_of_a_line_count_together_as_two(arc: float) -> None:
    """Ray γ of the source at β is ray −γ of that at β + π + 2γ; if that is off the arc, the first counts twice."""
    turn = math.radians(arc)
    beta = torch.linspace(0.0, turn, 401, dtype=torch.float64)[:, None]
    gamma = torch.linspace(-0.339, 0.339, 67, dtype=torch.float64)
    there = (beta + math.pi + 2 * gamma) % (2 * math.pi)
    total = short_scan(turn, beta, gamma) + short_scan(turn, there, -gamma)
    assert torch.allclose(total, torch.full_like(total, 2.0), rtol=0, atol=1e-12)  # sin² + cos²: rounding
    assert torch.equal(short_scan(turn, beta[[0, -1]], gamma)[1], torch.zeros(67).double()), "it ends where sources end"


def test_a_fan_is_inverted_channel_by_channel_and_row_by_row() -> None:
    operator = FanBeam(24, pixel_size=0.5).on((2, 12, 9))
    x = Stream(1).normal(3, (2, 12, 9), dtype=torch.float64)
    y = operator(x)
    alone = FanBeam(24, pixel_size=0.5).on((1, 12, 9))
    each = [filtered_back_projection(alone, part[None]) for part in y.reshape(6, -1)]
    # the same sums in another order
    assert torch.allclose(filtered_back_projection(operator, y).reshape(6, 1, 12, 9), torch.cat(each), atol=1e-12)
    assert torch.allclose(filtered_back_projection(operator, 2 * y), 2 * filtered_back_projection(operator, y))


def test_total_variation_moves_two_halves_towards_each_other() -> None:
    """A = I: two halves lose weight × length of the edge over their areas, and keep their edge."""
    image = torch.zeros(1, 8, 8, dtype=torch.float64)
    image[..., 4:] = 1
    likelihood = GaussianLikelihood(image.flatten(), Identity().on((1, 8, 8)), 0.5)
    found = total_variation(likelihood, weight=2.0, n_iterations=4, n_inner=500)[0]
    lost = 2.0 * 0.25 * 8 / 32  # weight σ² × edge/area
    assert torch.allclose(found[:, :4], torch.tensor(lost).double(), atol=0.01)  # the dual iteration is slow at its end
    assert torch.allclose(found[:, 4:], torch.tensor(1 - lost).double(), atol=0.01)


def test_least_squares_of_all_of_k_space_is_the_image() -> None:
    operator = CartesianMRI(1.0, n_coils=3).draw((2, 8, 8), Stream(0))
    x = Stream(1).normal(1, (2, 8, 8), dtype=torch.float64)
    likelihood = GaussianLikelihood(operator(x)[0], operator, 0.1)
    assert torch.allclose(least_squares(likelihood, ridge=0.0), x[0], atol=1e-5)  # solved to a residual of 1e-6


def test_coils_unfold_what_one_coil_cannot() -> None:
    x = torch.as_tensor(np.stack([DISC.image(32), 0 * DISC.image(32)]))[None]
    errors = []
    for n_coils in (1, 6):
        operator = CartesianMRI(2.0, 0.1, "equispaced", n_coils).draw((2, 32, 32), Stream(0))
        found = least_squares(GaussianLikelihood(operator(x)[0], operator, 0.01), 1e-4, 60)
        errors.append(float((found - x[0]).norm() / x.norm()))
    assert errors[1] < 0.1 < errors[0]
