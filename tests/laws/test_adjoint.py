"""⟨A x, v⟩ = ⟨x, Aᵀ v⟩ for every operator, and every solve agrees with the dense matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.inverse import OPERATORS, Composition, Dense, Downsampling, GaussianBlur, Inpainting
from sciflow.inverse.operator import LinearOperator, check_adjoint
from sciflow.random import Stream

SHAPES = [(12,), (1, 8, 6), (3, 4, 10)]


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
    "user": Differences(),
}


def drawn(name: str, shape: tuple[int, ...]) -> LinearOperator:
    return VARIANTS[name].draw(shape, Stream(3, (name,)))


def matrix(operator: LinearOperator) -> Tensor:
    """A as a dense matrix (m, d), column by column."""
    d = math.prod(operator.shape)
    return operator(torch.eye(d, dtype=torch.float64).reshape(d, *operator.shape)).T


cases = pytest.mark.parametrize("shape", SHAPES, ids=str)
names = pytest.mark.parametrize("name", VARIANTS)


@names
@cases
def test_adjoint(name: str, shape: tuple[int, ...]) -> None:
    operator = drawn(name, shape)
    assert check_adjoint(operator, shape) < 1e-13  # rounding of sums of at most 192 terms
    m = operator.n_measurements
    assert operator(torch.zeros(2, *shape)).shape == (2, m)
    assert math.prod(operator.range_shape) == m
    returned = operator.adjoint(torch.eye(m, dtype=torch.float64)).flatten(1)
    assert torch.allclose(returned, matrix(operator), atol=1e-13)  # the transpose entry by entry


@names
@cases
def test_linear(name: str, shape: tuple[int, ...]) -> None:
    operator = drawn(name, shape)
    x, y = (Stream(i).normal(4, shape, dtype=torch.float64) for i in range(2))
    # rounding of sums of at most 192 terms of size ≤ 20
    assert torch.allclose(operator(2 * x - 3 * y), 2 * operator(x) - 3 * operator(y), atol=1e-12)


@names
@cases
def test_autograd_gives_the_adjoint(name: str, shape: tuple[int, ...]) -> None:
    operator = drawn(name, shape)
    x = Stream(0).normal(3, shape, dtype=torch.float64).requires_grad_()
    measured = operator(x)
    v = Stream(1).normal(3, measured.shape[1:], dtype=torch.float64)
    assert torch.allclose(torch.autograd.grad(measured, x, v)[0], operator.adjoint(v), atol=1e-13)  # rounding


@names
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
    operator = drawn(name, (12,))
    measured = operator(Stream(0).normal(2, (12,), dtype=torch.float64))
    x = operator.pseudo_inverse(measured)
    assert torch.allclose(operator(x), measured, atol=1e-7)  # conjugate gradients without ridge, condition up to 1e5
    pinv = torch.linalg.pinv(matrix(operator))
    assert torch.allclose(x, measured @ pinv.T, atol=1e-5)  # the same condition, and its own cut of small values


@names
def test_float32_adjoint(name: str) -> None:
    operator = drawn(name, (12,))
    x, v = Stream(0).normal(1, (12,)), Stream(1).normal(1, (operator.n_measurements,))
    left, right = (operator(x) * v).sum(), (x * operator.adjoint(v)).sum()
    assert operator(x).dtype == operator.adjoint(v).dtype == torch.float32
    assert abs(left - right) < 1e-5 * x.norm() * v.norm()  # 12 products rounded to 6e-8, times ‖A‖ ≤ 4


@names
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
