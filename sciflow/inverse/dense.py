"""Operators given by a matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import LinearOperator
from sciflow.inverse.singular import SingularSystem
from sciflow.random import Stream
from sciflow.types import placed


@dataclass(frozen=True)
class Dense(LinearOperator):
    """A matrix, drawn for each observation or given (`Dense.of(matrix)`).

        y = A x,   A = U S Vᵀ

    Exactness: adjoint, A⁺ and all solves by singular values.
    Cost: one matrix product; one singular value decomposition per operator.
    Bias: none.
    Args:
        n_measurements: m, rows of A.
        rows: "gaussian": entries N(0, 1/d); "unit": the same with rows of length one; "spectral": U and V uniform on
            the orthogonal matrices, singular values uniform on [0, 1].
    Raises:
        InputError: more measurements than the event has numbers, or a matrix of another shape.
    Source: Cardoso et al. (2024), Monte Carlo guided diffusion for Bayesian linear inverse problems, for "spectral".
    """

    n_measurements: Annotated[int, Field(gt=0)] = 1
    rows: Literal["gaussian", "unit", "spectral"] = "gaussian"

    @classmethod
    def of(cls, matrix: Tensor, shape: tuple[int, ...] | None = None) -> Dense:
        """The operator of a given matrix (m, d), on events of shape (d,) unless said otherwise."""
        if matrix.ndim != 2:
            raise InputError(f"a dense operator needs a matrix (m, d), got shape {tuple(matrix.shape)}.")
        return cls(len(matrix)).bind({"matrix": matrix}, shape or (matrix.shape[1],))

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        d = math.prod(shape)
        if self.rows not in ("gaussian", "unit", "spectral"):
            raise InputError(f"dense rows must be 'gaussian', 'unit' or 'spectral', got {self.rows!r}.")
        if not 1 <= self.n_measurements <= d and "matrix" not in parameters:
            raise InputError(f"dense can draw 1 to {d} measurements of events {shape}, got {self.n_measurements}.")
        matrix = parameters.get("matrix")
        if matrix is not None and tuple(matrix.shape) != (self.n_measurements, d):
            raise InputError(f"dense needs a matrix of shape ({self.n_measurements}, {d}), got {tuple(matrix.shape)}.")

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Dense:
        if "matrix" not in parameters:
            raise InputError("dense needs the parameter 'matrix'. Call draw(shape, stream), or use Dense.of(matrix).")
        return super().bind(parameters, shape)

    def sample_parameters(self, shape: tuple[int, ...], stream: Stream) -> dict[str, Tensor]:
        """`matrix`, float64, (m, d)."""
        m, d = self.n_measurements, math.prod(shape)
        matrix = stream.child("matrix").normal(m, (d,), dtype=torch.float64) / math.sqrt(d)
        if self.rows == "unit":
            matrix = matrix / matrix.norm(dim=1, keepdim=True)
        elif self.rows == "spectral":
            left = _orthogonal(m, stream.child("left"))
            right = _orthogonal(d, stream.child("right"))[:, :m]
            singular = stream.child("singular").uniform(m, dtype=torch.float64).sort(descending=True).values
            matrix = (left * singular) @ right.T
        return {"matrix": matrix}

    @property
    def range_shape(self) -> tuple[int, ...]:
        return (self.n_measurements,)

    @cached_property
    def matrix(self) -> Tensor:
        """A, float64, (m, d)."""
        return self._bound().parameters()["matrix"].double()

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.linalg.svd(self.matrix, full_matrices=True)

    @cached_property
    def gram_spectrum(self) -> Tensor:
        singular = self._factors[1]
        return torch.cat([singular**2, singular.new_zeros(self.n_measurements - len(singular))])

    @cached_property
    def singular_system(self) -> SingularSystem:
        return SingularSystem.of_gram(self.gram_spectrum, self._factors[0])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ placed(self.matrix, x.device, x.dtype).T

    def backward(self, y: Tensor) -> Tensor:
        return (y @ placed(self.matrix, y.device, y.dtype)).reshape(-1, *self.shape)

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        u = placed(self._factors[0], v.device, v.dtype)
        return (v @ u / (scale * placed(self.gram_spectrum, v.device, v.dtype) + ridge)) @ u.T

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        tolerance = torch.finfo(y.dtype).eps * max(self.matrix.shape)
        inverse = torch.linalg.pinv(self.matrix, rtol=tolerance).to(y.device, y.dtype)
        return (y @ inverse.T).reshape(-1, *self.shape)


def _orthogonal(n: int, stream: Stream) -> Tensor:
    """An orthogonal matrix from the uniform law, (n, n).

    Source: Mezzadri (2007), How to generate random matrices from the classical compact groups.
    """
    q, r = torch.linalg.qr(stream.normal(n, (n,), dtype=torch.float64))
    return q * r.diagonal().sign()
