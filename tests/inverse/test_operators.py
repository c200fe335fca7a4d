"""What each operator measures, what it draws, and what it refuses. Adjoints and solves are in tests/laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse import (
    MEASUREMENTS,
    Bicubic,
    BoxInpainting,
    CartesianMRI,
    Composition,
    Dense,
    Downsampling,
    FanBeam,
    GaussianBlur,
    GaussianNoise,
    Identity,
    Inpainting,
    LinearOperator,
    MotionBlur,
    ParallelBeam,
    PhaseRetrieval,
)
from sciflow.inverse.observe import Observation
from sciflow.random import Stream


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("shape", [(64,), (1, 8, 8), (3, 5, 7)])
def test_exactly_the_share_is_missing(shape: tuple[int, ...], missing: float) -> None:
    masks = [Inpainting(missing).draw(shape, Stream(seed)).parameters()["mask"] for seed in range(5)]
    pixels = masks[0][0].numel() if len(shape) == 3 else masks[0].numel()
    for mask in masks:
        assert mask.shape == shape and mask.dtype == torch.uint8
        per_channel = mask.reshape(-1, pixels)
        assert (per_channel == per_channel[0]).all()  # a missing pixel is missing in every channel
        assert (per_channel[0] == 0).sum() == round(missing * pixels)
    assert missing < 0.1 or not torch.equal(masks[0], masks[1])  # another observation, another mask


def test_inpainting_lists_the_observed_pixels() -> None:
    operator = Inpainting(0.5).draw((1, 4, 4), Stream(0))
    mask = operator.parameters()["mask"].bool()
    x = torch.arange(32.0).reshape(2, 1, 4, 4)
    assert torch.equal(operator(x), x[:, mask])
    assert torch.equal(operator.adjoint(operator(x)), x * mask)
    assert operator.range_shape == (8,)


def test_blur_keeps_the_mean_and_constants() -> None:
    operator = GaussianBlur(1.5)
    x = Stream(0).normal(2, (2, 9, 12), dtype=torch.float64)
    blurred = operator(x).reshape(x.shape)
    assert torch.allclose(blurred.mean((2, 3)), x.mean((2, 3)))  # mirrored borders lose nothing
    assert torch.allclose(operator(torch.ones_like(x)), torch.ones(2, 216, dtype=torch.float64))
    assert blurred.var() < 0.2 * x.var()


def test_blur_of_a_point_is_the_kernel() -> None:
    x = torch.zeros(1, 31, dtype=torch.float64)
    x[0, 15] = 1
    offset = torch.arange(31, dtype=torch.float64) - 15
    kernel = torch.exp(-0.5 * (offset / 2) ** 2) * (offset.abs() <= 8)
    assert torch.allclose(GaussianBlur(2.0)(x)[0], kernel / kernel.sum(), atol=1e-15)


def test_downsampling_takes_block_means() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    operator = Downsampling(2).on((1, 4, 4))
    assert operator(x).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert operator.range_shape == (1, 2, 2)
    constant = operator.pseudo_inverse(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert torch.allclose(constant[0, 0, :2, :2], torch.ones(2, 2))


@pytest.mark.parametrize("factor", [2, 3])
def test_bicubic_is_that_of_an_image_library(factor: int) -> None:
    """Pillow's, away from the borders, which it cuts off and we mirror."""
    x = Stream(0).normal(1, (1, 30, 36))
    size = (36 // factor, 30 // factor)
    theirs = np.asarray(Image.fromarray(x[0, 0].numpy()).resize(size, Image.Resampling.BICUBIC))
    ours = Bicubic(factor)(x).reshape(size[::-1]).numpy()
    assert np.allclose(ours[2:-2, 2:-2], theirs[2:-2, 2:-2], atol=1e-5)  # float32
    assert torch.allclose(Bicubic(factor)(torch.ones(1, 1, 30, 36)), torch.ones(1))


def test_motion_blur_moves_a_point_along_its_path() -> None:
    x = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    x[0, 0, 7, 7] = 1
    along = MotionBlur(4.0, 0.0)(x).reshape(15, 15)
    middle = torch.tensor([0.125, 0.25, 0.25, 0.25, 0.125], dtype=torch.float64)  # pixels as tents, two wide
    assert torch.allclose(along[7, 5:10], middle, atol=2e-3)  # a path of 8 points a pixel
    assert float(along.sum()) == pytest.approx(1)
    assert torch.allclose(MotionBlur(4.0, 90.0)(x).reshape(15, 15), along.T, atol=1e-12)
    oblique = MotionBlur(6.0, 45.0)(x).reshape(15, 15)
    assert torch.allclose(oblique, oblique.T, atol=1e-12) and float(oblique[5, 9]) < 1e-9 < float(oblique[9, 9])


def test_a_box_is_missing() -> None:
    masks = [BoxInpainting(0.5, margin=1).draw((3, 8, 10), Stream(seed)).parameters()["mask"] for seed in range(9)]
    for mask in masks:
        missing = (mask == 0).nonzero()
        first, last = missing.amin(0).tolist(), missing.amax(0).tolist()
        assert (first[0], last[0]) == (0, 2) and len(missing) == 3 * 4 * 5
        assert (last[1] - first[1], last[2] - first[2]) == (3, 4)  # a full box
        assert min(first[1:]) >= 1 and last[1] <= 6 and last[2] <= 8
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 4


def test_phase_retrieval_does_not_see_mirror_image_and_sign() -> None:
    x = Stream(0).normal(1, (1, 6, 8), dtype=torch.float64)
    operator = PhaseRetrieval()
    assert operator.on((1, 6, 8)).range_shape == (1, 12, 16)
    assert torch.allclose(operator(x), operator(-x.flip(2, 3)))
    assert not torch.allclose(operator(x), operator(x.flip(2)))
    assert float(operator(x).square().sum()) == pytest.approx(float(x.square().sum()))  # the transform is unitary


class HalfHearted(LinearOperator):
    """A user's operator with a transpose that forgets the gain."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * x.flatten(1)

    def backward(self, y: Tensor) -> Tensor:
        return y.reshape(-1, *self.shape)


class NotLinear(LinearOperator):
    """A user's operator that is no such thing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square() + x.flatten(1)


@pytest.mark.parametrize("operator", [HalfHearted(), NotLinear()], ids=lambda o: type(o).__name__)
def test_an_operator_of_your_own_that_does_not_match_its_adjoint_is_refused(operator: LinearOperator) -> None:
    observation = Observation(operator, GaussianNoise(0.1))
    with pytest.raises(InputError, match=r"does not match its adjoint: .* is 0\.\d+ of"):
        observation.record(torch.ones(2, 1, 4, 4), Stream(0))


def test_dense_rows() -> None:
    unit = Dense(5, "unit").draw((3, 4), Stream(0))
    assert torch.allclose(unit.matrix.norm(dim=1), torch.ones(5, dtype=torch.float64))
    singular = torch.linalg.svdvals(Dense(5, "spectral").draw((12,), Stream(1)).matrix)
    assert (singular <= 1).all() and (singular > 0).all()
    rows = torch.cat([Dense(20).draw((50,), Stream(seed)).matrix for seed in range(20)])
    # 20 000 entries N(0, 1/50): relative standard error of their variance √(2/20000) = 1 %
    assert abs(rows.var() * 50 - 1) < 0.04


def test_composition_by_matmul_and_parts_that_are_bound_stay() -> None:
    mask = Inpainting(0.5).draw((1, 4, 4), Stream(0))
    both = mask @ GaussianBlur(1.0)
    assert not both.is_random
    x = Stream(1).normal(2, (1, 4, 4))
    assert torch.allclose(both(x), mask(GaussianBlur(1.0)(x).reshape(2, 1, 4, 4)))
    random = Composition(Inpainting(0.5), GaussianBlur(1.0))
    drawn = random.draw((1, 4, 4), Stream(2))
    assert list(drawn.parameters()) == ["outer_mask"]
    again = random.bind(drawn.parameters(), (1, 4, 4))
    assert torch.equal(drawn(x), again(x))


def test_binding_to_another_shape_forgets_the_first() -> None:
    small = GaussianBlur(1.0).on((8,))
    assert small.n_measurements == 8 and small.gram_spectrum.shape == (8,)
    large = small.bind({}, (12,))
    assert large.n_measurements == 12 and large.gram_spectrum.shape == (12,)
    assert small.n_measurements == 8


@pytest.mark.parametrize("kind", MEASUREMENTS)
def test_every_kind_works_without_options(kind: str) -> None:
    operator = MEASUREMENTS[kind]().draw((1, 8, 8), Stream(0))
    assert operator(torch.zeros(2, 1, 8, 8)).shape == (2, operator.n_measurements)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inpainting(1.0).draw((8,), Stream(0)), "leaves none of 8 pixels"),
        (lambda: Inpainting(0.97).draw((8,), Stream(0)), "leaves none of 8 pixels"),
        (lambda: Inpainting()(torch.zeros(1, 8)), "has not been drawn yet"),
        (lambda: Inpainting().bind({}, (8,)), "needs the parameter 'mask'"),
        (lambda: Inpainting().bind({"mask": torch.ones(4)}, (8,)), r"mask of shape \(8,\)"),
        (lambda: Inpainting().bind({"mask": torch.zeros(8)}, (8,)), "not all zero"),
        (lambda: GaussianBlur(0.0).on((8,)), "width > 0"),
        (lambda: GaussianBlur(float("nan")).on((8,)), "width > 0"),
        (lambda: Downsampling(3).on((1, 9, 8)), "does not divide"),
        (lambda: Dense(9).draw((8,), Stream(0)), "1 to 8 measurements"),
        (lambda: Dense(2, "uniform").draw((8,), Stream(0)), "rows must be"),
        (lambda: Dense.of(torch.zeros(3)), "needs a matrix"),
        (lambda: Dense.of(torch.zeros(3, 4), (5,)), r"shape \(3, 5\)"),
        (lambda: BoxInpainting(0.9, margin=2).draw((1, 8, 8), Stream(0)), "does not fit the grid"),
        (lambda: BoxInpainting().bind({}, (1, 8, 8)), "needs the parameter 'mask'"),
        (lambda: Bicubic(3).on((1, 9, 8)), "bicubic by 3 does not divide"),
        (lambda: MotionBlur(9.0).on((1, 8, 8)), "1 ≤ length ≤ 8"),
        (lambda: MotionBlur().on((64,)), "images"),
        (lambda: ParallelBeam().on((64,)), "images"),
        (lambda: FanBeam(20_000).on((1, 512, 512)), "may take 594 GB, the limit is 8 GB"),
        (lambda: ParallelBeam(pixel_size=0.0).on((1, 8, 8)), "pixel_size > 0"),
        (lambda: CartesianMRI().draw((3, 8, 8), Stream(0)), "complex images as two channels"),
        (lambda: CartesianMRI(8.0, 0.5).draw((2, 8, 8), Stream(0)), "4 columns in the middle are more than the 1"),
        (lambda: CartesianMRI().bind({}, (2, 8, 8)), "needs the parameter 'lines'"),
        (lambda: CartesianMRI().bind({"lines": torch.ones(4)}, (2, 8, 8)), r"`lines` of shape \(8,\)"),
        (
            lambda: CartesianMRI().bind({"lines": torch.ones(8), "maps": torch.ones(1, 8, 8) + 0j}, (2, 8, 8)),
            r"`maps` of shape \(1, 2, 8, 8\) .* of torch.complex64",
        ),
        (lambda: PhaseRetrieval().on((64,)), "images"),
        (lambda: Composition(PhaseRetrieval(), Identity()), "needs a linear operator, got PhaseRetrieval"),
        (lambda: Identity().on((4,))(torch.zeros(1, 5)), r"bound to events of shape \(4,\)"),
        (lambda: Identity().adjoint(torch.zeros(1, 5)), "no event shape yet"),
        (lambda: Identity().on((4,)).adjoint(torch.zeros(1, 5)), r"y of shape \(batch, 4\)"),
        (lambda: Identity().on(()), "non-empty event shape"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
