"""⟨A x, v⟩ = ⟨x, Aᵀ v⟩ for every operator, and every solve agrees with the dense matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse import (
    NONLINEAR_OPERATORS,
    OPERATORS,
    CartesianMRI,
    Composition,
    Dense,
    Downsampling,
    FanBeam,
    GaussianBlur,
    Inpainting,
    MotionBlur,
    Operator,
    ParallelBeam,
)
from sciflow.inverse.counts import Weighted
from sciflow.inverse.likelihood import GaussianLikelihood
from sciflow.inverse.operator import LinearOperator, check_adjoint, check_users
from sciflow.inverse.singular import MeasuredDirections
from sciflow.random import Stream

SHAPES = [(12,), (1, 8, 6), (2, 6, 8), (3, 4, 10)]


class Differences(LinearOperator):
    """What a user writes: one method. Second differences along the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., 2:] - 2 * x[..., 1:-1] + x[..., :-2]).flatten(1)


VARIANTS: dict[str, LinearOperator] = {
    **{kind: cls() for kind, cls in OPERATORS.items()},
    "inpainting most": Inpainting(0.8),
    "wide blur": GaussianBlur(3.0),  # its kernel is longer than the grid: mirror images of mirror images
    "dense unit": Dense(7, "unit"),
    "dense spectral": Dense(5, "spectral"),
    "blur and downsample": Downsampling(2) @ GaussianBlur(1.0),
    "blur and lose pixels": Composition(Inpainting(0.3), GaussianBlur(0.7)),
    "limited angle": ParallelBeam(5, n_detectors=6, spacing=1.5, arc=90.0, pixel_size=0.2, first_angle=10.0),
    "fan on an arc": FanBeam(5, detector="arc", source_distance=0.8),
    "fan off its centre": FanBeam(5, fan_angle=30.0, first_angle=200.0, clockwise=True, offset=0.25),
    "three coils": CartesianMRI(2.0, n_coils=3, pattern="equispaced"),
    "motion along x": MotionBlur(3.0, 0.0),
    "user": Differences(),
}


def fits(operator: Operator, shape: tuple[int, ...]) -> bool:
    """Whether an operator accepts events of a shape: some take images only."""
    try:
        operator.check(shape, {})
    except InputError:
        return False
    return True


def drawn(name: str, shape: tuple[int, ...]) -> LinearOperator:
    return VARIANTS[name].draw(shape, Stream(3, (name,)))


def smallest(name: str) -> LinearOperator:
    """Drawn for the first shape that it accepts."""
    return drawn(name, next(shape for shape in SHAPES if fits(VARIANTS[name], shape)))


def matrix(operator: LinearOperator) -> Tensor:
    """A as a dense matrix (m, d), column by column."""
    d = math.prod(operator.shape)
    return operator(torch.eye(d, dtype=torch.float64).reshape(d, *operator.shape)).T


CASES = [(name, shape) for name, operator in VARIANTS.items() for shape in SHAPES if fits(operator, shape)]
cases = pytest.mark.parametrize(("name", "shape"), CASES, ids=lambda part: str(part))
names = pytest.mark.parametrize("name", VARIANTS)


@cases
def test_adjoint(name: str, shape: tuple[int, ...]) -> None:
    operator = drawn(name, shape)
    assert check_adjoint(operator, shape) < 1e-13  # rounding of sums of at most 192 terms
    m = operator.n_measurements
    assert operator(torch.zeros(2, *shape)).shape == (2, m)
    assert math.prod(operator.range_shape) == m
    returned = operator.adjoint(torch.eye(m, dtype=torch.float64)).flatten(1)
    assert torch.allclose(returned, matrix(operator), atol=1e-13)  # the transpose entry by entry


@cases
def test_linear(name: str, shape: tuple[int, ...]) -> None:
    operator = drawn(name, shape)
    x, y = (Stream(i).normal(4, shape, dtype=torch.float64) for i in range(2))
    # rounding of sums of at most 192 terms of size ≤ 20
    assert torch.allclose(operator(2 * x - 3 * y), 2 * operator(x) - 3 * operator(y), atol=1e-12)


@cases
def test_autograd_gives_the_adjoint(name: str, shape: tuple[int, ...]) -> None:
    operator = drawn(name, shape)
    x = Stream(0).normal(3, shape, dtype=torch.float64).requires_grad_()
    measured = operator(x)
    v = Stream(1).normal(3, measured.shape[1:], dtype=torch.float64)
    assert torch.allclose(torch.autograd.grad(measured, x, v)[0], operator.adjoint(v), atol=1e-13)  # rounding


@cases
def test_gram_solve_and_spectrum(name: str, shape: tuple[int, ...]) -> None:
    """(s A Aᵀ + r I) w = v with one r and s per row, against a dense solve."""
    operator = drawn(name, shape)
    gram = matrix(operator) @ matrix(operator).T
    v = Stream(2).normal(3, (operator.n_measurements,), dtype=torch.float64)
    ridge, scale = torch.tensor([[0.3], [1.0], [0.05]]).double(), torch.tensor([[0.0], [2.0], [1.0]]).double()
    system = scale[..., None] * gram + ridge[..., None] * torch.eye(len(gram), dtype=torch.float64)
    exact = torch.linalg.solve(system, v)
    # conjugate gradients stop at a relative residual of 2e-12; the condition number is at most 16/0.05
    assert torch.allclose(operator.gram_solve(v, ridge, scale), exact, rtol=1e-9, atol=1e-9)
    assert torch.allclose(operator.gram_spectrum.sort().values, torch.linalg.eigvalsh(gram), atol=1e-12)  # rounding


@names
def test_pseudo_inverse(name: str) -> None:
    """A⁺ y is the shortest least-squares solution: A A⁺ A x = A x, and A⁺ A x lies in the row space."""
    operator = smallest(name)
    measured = operator(Stream(0).normal(2, operator.shape, dtype=torch.float64))
    x = operator.pseudo_inverse(measured)
    # conjugate gradients without ridge, condition up to 1e5
    assert torch.allclose(operator(x), measured, atol=1e-7)
    pinv = torch.linalg.pinv(matrix(operator), rtol=1e-7)  # A Aᵀ is known to rounding, so A to its root
    assert torch.allclose(x.flatten(1), measured @ pinv.T, atol=1e-5)  # the same condition, and its own cut


@names
def test_float32_adjoint(name: str) -> None:
    operator = smallest(name)
    x, v = Stream(0).normal(1, operator.shape), Stream(1).normal(1, (operator.n_measurements,))
    left, right = (operator(x) * v).sum(), (x * operator.adjoint(v)).sum()
    assert operator(x).dtype == operator.adjoint(v).dtype == torch.float32
    largest = max(1.0, float(torch.linalg.matrix_norm(matrix(operator), 2)))
    assert abs(left - right) < 1e-5 * largest * x.norm() * v.norm()  # up to 200 products rounded to 6e-8


@cases
def test_parameters_restore_the_operator(name: str, shape: tuple[int, ...]) -> None:
    operator = drawn(name, shape)
    again = VARIANTS[name].bind(operator.parameters(), shape)
    assert torch.equal(matrix(again), matrix(operator))


def test_a_wrong_transpose_is_noticed() -> None:
    class Wrong(Differences):
        def backward(self, y: Tensor) -> Tensor:
            return torch.nn.functional.pad(y, (1, 1)).reshape(-1, *self.shape)

    assert check_adjoint(Wrong(), (12,)) > 1e-2


def test_complex_measurements_are_refused_with_both_dtypes() -> None:
    class Spectrum(Differences):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x)

    with pytest.raises(InputError, match=r"Spectrum gives torch.complex128 for events of torch.float64, but"):
        check_users(Spectrum().on((12,)))


def test_every_operator_fits_some_shape() -> None:
    """And those that refuse vectors take images, so that no law above passes by having no case."""
    assert {name for name, _ in CASES} == set(VARIANTS)


def test_weights_on_the_measurements() -> None:
    inner = ParallelBeam(4).on((1, 6, 6))
    operator = Weighted(inner, torch.linspace(0.1, 3, inner.n_measurements, dtype=torch.float64)).on((1, 6, 6))
    assert check_adjoint(operator, (1, 6, 6)) < 1e-13  # rounding
    gram = matrix(operator) @ matrix(operator).T
    v = Stream(2).normal(3, (len(gram),), dtype=torch.float64)
    exact = torch.linalg.solve(2 * gram + 0.3 * torch.eye(len(gram), dtype=torch.float64), v.T).T
    assert torch.allclose(operator.gram_solve(v, 0.3, 2.0), exact, rtol=1e-9, atol=1e-10)  # condition about 1e4


def test_the_gradient_of_a_gradient_goes_through_the_sparse_product() -> None:
    operator = FanBeam(3).on((1, 4, 4))
    x = Stream(0).normal(2, (1, 4, 4), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(operator, x)
    assert torch.autograd.gradgradcheck(lambda x: operator(x) ** 2, x)


@pytest.mark.parametrize("columns", [8, 9, 11, 12])
@pytest.mark.parametrize("shape", [(2, 5, 8), (1, 4, 7)], ids=str)
def test_an_image_in_the_middle_of_a_wider_field(shape: tuple[int, ...], columns: int) -> None:
    """Columns of k-space beyond those of the image are those of the image with nothing beside it."""
    lines = torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0][:columns], dtype=torch.uint8)
    operator = CartesianMRI(n_coils=3).bind({"lines": lines}, shape)
    assert check_adjoint(operator, shape) < 1e-13  # rounding
    before = columns // 2 - shape[2] // 2
    wide = torch.zeros(3, *shape[:2], columns, dtype=torch.float64)
    x = Stream(4).normal(3, shape, dtype=torch.float64)
    wide[..., before : before + shape[2]] = x
    maps = torch.zeros(3, 2, shape[1], columns, dtype=torch.float64)
    maps[..., before : before + shape[2]] = torch.view_as_real(operator.maps).movedim(-1, 1)
    whole = CartesianMRI(n_coils=3).bind({"lines": lines, "maps": maps}, wide.shape[1:])
    assert torch.allclose(operator(x), whole(wide), atol=1e-14)
    single = CartesianMRI().bind({"lines": lines}, shape)
    v = Stream(5).normal(2, (single.n_measurements,), dtype=torch.float64)
    gram = matrix(single) @ matrix(single).T
    exact = torch.linalg.solve(2 * gram + 0.3 * torch.eye(len(gram), dtype=torch.float64), v.T).T
    assert torch.allclose(single.gram_solve(v, 0.3, 2.0), exact, rtol=1e-6, atol=1e-8)  # conjugate gradients stop there
    assert torch.allclose(single.gram_spectrum.sort().values, torch.linalg.eigvalsh(gram).clamp_min(0), atol=1e-10)


@pytest.mark.parametrize("kind", NONLINEAR_OPERATORS)
@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 3, 4)], ids=str)
def test_operators_that_are_not_linear_have_the_right_gradient(kind: str, shape: tuple[int, ...]) -> None:
    operator = NONLINEAR_OPERATORS[kind]().draw(shape, Stream(0))
    x = Stream(1).normal(2, shape, dtype=torch.float64)
    assert operator(x).shape == (2, math.prod(operator.range_shape))
    assert not torch.allclose(operator(2 * x) - operator(x), operator(x) - operator(0 * x)) or not torch.allclose(
        operator(-x), -operator(x)
    )
    assert torch.autograd.gradcheck(operator, x.requires_grad_())


@cases
def test_singular_system(name: str, shape: tuple[int, ...]) -> None:
    """A V = U S with orthonormal columns of V, and what is not measured is left alone."""
    operator = drawn(name, shape)
    y = Stream(5).normal(operator.n_measurements, dtype=torch.float64)
    directions, system = MeasuredDirections(GaussianLikelihood(y, operator, 0.1)), operator.singular_system
    kept = directions.noise.isfinite()
    c = torch.where(kept, Stream(6).normal(2, (len(y),), dtype=torch.float64), 0)
    x = directions.event(c)
    # rounding, divided by singular values down to 1e-6 of the largest (twice, for the columns of V)
    rounding = 1e-13 * float(directions.noise[kept].max() / directions.noise[kept].min()) ** 2
    assert torch.allclose(operator(x), system.rotate_back(system.values * c), atol=1e-10)
    assert torch.allclose((x**2).flatten(1).sum(1), (c**2).sum(1), atol=max(rounding, 1e-10))
    assert torch.allclose(directions.coordinates(x), c, atol=max(rounding, 1e-10))
    assert torch.allclose(system.rotate_back(system.rotate(y[None])), y, atol=1e-12)
    assert int(kept.sum()) == int(torch.linalg.matrix_rank(matrix(operator), rtol=1e-6))
