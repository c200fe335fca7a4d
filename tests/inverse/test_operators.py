"""What each operator measures, what it draws, and what it refuses. Adjoints and solves are in tests/laws."""

from __future__ import annotations

import pytest
import torch

from sciflow.errors import InputError
from sciflow.inverse import OPERATORS, Composition, Dense, Downsampling, GaussianBlur, Identity, Inpainting
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


@pytest.mark.parametrize("kind", OPERATORS)
def test_every_kind_works_without_options(kind: str) -> None:
    operator = OPERATORS[kind]().draw((1, 8, 8), Stream(0))
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
        (lambda: Identity().on((4,))(torch.zeros(1, 5)), r"bound to events of shape \(4,\)"),
        (lambda: Identity().adjoint(torch.zeros(1, 5)), "no event shape yet"),
        (lambda: Identity().on((4,)).adjoint(torch.zeros(1, 5)), r"y of shape \(batch, 4\)"),
        (lambda: Identity().on(()), "non-empty event shape"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
