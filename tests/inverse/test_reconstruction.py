"""Classical reconstructions, against phantoms and against solutions that are known."""

from __future__ import annotations

import numpy as np
import torch

from sciflow.domains.imaging.phantoms import Ellipses
from sciflow.inverse import CartesianMRI, GaussianLikelihood, Identity, ParallelBeam
from sciflow.inverse.reconstruction import filtered_back_projection, least_squares, total_variation
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
