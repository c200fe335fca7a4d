"""Darcy's law: pressure of a fluid in a porous square, from the logarithm of its permeability; not linear in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.operator import Operator
from sciflow.inverse.solves import solved

Positive = Annotated[float, Field(gt=0)]
STEEPEST = 15.0
"""Largest |log-permeability| that is solved for: contrasts of 10¹³ are what double precision resolves."""


def conductances(permeability: Tensor) -> tuple[Tensor, Tensor]:
    """Conductances of the faces across y, (…, n + 1, n), and across x, (…, n, n + 1).

    Between cells the harmonic mean 2 a a'/(a + a'), as for layers in series: fluxes are then exact for layered media.
    At the walls 2 a: half a cell lies between its centre and the wall.
    """

    def across(a: Tensor) -> Tensor:
        inner = 2 / (1 / a[..., 1:, :] + 1 / a[..., :-1, :])
        return torch.cat([2 * a[..., :1, :], inner, 2 * a[..., -1:, :]], -2)

    return across(permeability), across(permeability.transpose(-1, -2)).transpose(-1, -2)


def outflow(permeability: Tensor, pressure: Tensor) -> Tensor:
    """−∇·(a ∇p) of each cell by the fluxes through its faces, pressure zero on the walls, (…, n, n).

        (A p)_i = n² Σ_faces c_f (p_i − p_neighbour),   cells of side 1/n

    On a solution it is the source up to rounding; its mean is what flows through the walls.
    """
    down, right = conductances(permeability)
    padded = torch.nn.functional.pad(pressure, (1, 1, 1, 1))
    through_y = down * (padded[..., 1:, 1:-1] - padded[..., :-1, 1:-1])
    through_x = right * (padded[..., 1:-1, 1:] - padded[..., 1:-1, :-1])
    inflow = through_y[..., 1:, :] - through_y[..., :-1, :] + through_x[..., 1:] - through_x[..., :-1]
    return -(permeability.shape[-1] ** 2) * inflow


def _factored(permeability: Tensor) -> list[np.ndarray]:
    """Cholesky factors of the banded matrices of the rows; these are symmetric and positive definite."""
    from scipy.linalg import cholesky_banded

    n = permeability.shape[-1]
    down, right = (face.numpy() for face in conductances(permeability))
    bands = np.zeros((len(permeability), n + 1, n, n))  # lower form: bands[k, j] = A[j + k, j], cells in rows
    bands[:, 0] = down[:, :-1] + down[:, 1:] + right[..., :-1] + right[..., 1:]
    bands[:, 1, :, :-1] = -right[..., 1:-1]
    bands[:, n, :-1] = -down[:, 1:-1]
    flat = n**2 * bands.reshape(len(bands), n + 1, n * n)
    return [cholesky_banded(row, overwrite_ab=True, lower=True, check_finite=False) for row in flat]


class _Solve(torch.autograd.Function):
    """p = A(a)⁻¹ f; backward by one more solve with the factor that is there: λ = A⁻¹ g, ∂L/∂a = −λ ∂A/∂a p."""

    @staticmethod
    def forward(ctx: Any, permeability: Tensor, source: Tensor) -> Tensor:
        a, f = permeability.detach().double().cpu(), source.detach().double().cpu().expand(permeability.shape)
        ctx.factors = _factored(a)
        solution = _solved(ctx.factors, f)
        ctx.save_for_backward(a, solution)
        return solution.to(permeability)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        a, solution = ctx.saved_tensors
        adjoint = _solved(ctx.factors, gradients[0].double().cpu())
        with torch.enable_grad():
            again = a.requires_grad_()
            pairing = (adjoint * outflow(again, solution)).sum()
            (slope,) = torch.autograd.grad(pairing, again)
        a.requires_grad_(False)
        return -slope.to(gradients[0]), adjoint.to(gradients[0]) if ctx.needs_input_grad[1] else None


def _solved(factors: list[np.ndarray], right: Tensor) -> Tensor:
    from scipy.linalg import cho_solve_banded

    solved(len(factors))
    rows = [
        cho_solve_banded((factor, True), row.numpy().ravel(), check_finite=False)
        for factor, row in zip(factors, right, strict=True)
    ]
    return torch.as_tensor(np.stack(rows)).reshape(right.shape)


def pressure(permeability: Tensor, source: Tensor | float = 1.0) -> Tensor:
    """Solution of −∇·(a ∇p) = f on the unit square with p = 0 on its walls, at the centres of n × n cells.

    Exactness: second order in the cell for smooth a; fluxes exact for layers; a direct solve, residual at rounding
    Cost: a banded Cholesky factorisation, 3 n⁴/2 multiply-adds in float64 per row; a gradient adds one solve, 2 n³
    Bias: none beyond the grid
    Args:
        permeability: a > 0, (batch, n, n).
        source: f, a number, (n, n) or (batch, n, n).
    Raises:
        InputError: permeabilities that are not positive and finite, or not square.
    Source: Eymard, Gallouët and Herbin (2000), Finite volume methods, sections 9 and 11.
    """
    if permeability.ndim != 3 or permeability.shape[1] != permeability.shape[2] or permeability.shape[1] < 2:
        raise InputError(f"a permeability must be (batch, n, n) with n ≥ 2, got {tuple(permeability.shape)}.")
    if not bool((permeability > 0).all()) or not bool(permeability.isfinite().all()):
        low, high = float(permeability.min()), float(permeability.max())
        raise InputError(
            f"permeabilities must be positive and finite, got values from {low:.3g} to {high:.3g}. A log-permeability "
            "goes through exp first."
        )
    given = torch.as_tensor(source, dtype=permeability.dtype, device=permeability.device)
    return _Solve.apply(permeability, given.expand(permeability.shape))


@dataclass(frozen=True)
class CosineField:
    """A Gaussian random field on the unit square, by its cosine waves with independent standard normal coefficients.

        u(x, y) = Σ s_ij z_ij c_i(y) c_j(x),   c_0 = 1,   c_i(x) = √2 cos(πix),   z ~ N(0, 1)
        s_ij ∝ (π² (i² + j²) + rate²)^{−smoothness/2},   Σ s² = amplitude²

    That is the covariance (−Δ + rate²)^{−smoothness} with no flux through the walls, cut to its longest waves.

    Args:
        amplitude: root mean square of u over the square.
        smoothness: how fast waves fall off.
        rate: inverse length beyond which values are hardly related.
    Source: Li et al. (2021), Fourier neural operator, section 5.2: smoothness 2, rate 3.
    """

    amplitude: Positive = 1.0
    smoothness: Annotated[float, Field(gt=1)] = 2.0
    rate: Positive = 3.0

    def basis(self, n_modes: int, size: int) -> Tensor:
        """s_ij c_i(y) c_j(x) at the centres of size² cells, longest waves first, (n_modes, size, size), float64."""
        squares = [(i * i + j * j, i, j) for i in range(size) for j in range(size)]
        squared, i, j = torch.tensor(sorted(squares)[:n_modes], dtype=torch.float64).T
        places = (torch.arange(size, dtype=torch.float64) + 0.5) / size

        def waves(k: Tensor) -> Tensor:
            height = torch.ones_like(k).masked_fill(k > 0, math.sqrt(2))
            return height[:, None] * (math.pi * k[:, None] * places).cos()

        spread = (math.pi**2 * squared + self.rate**2) ** (-self.smoothness / 2)
        spread = self.amplitude * spread / spread.square().sum().sqrt()
        return spread[:, None, None] * waves(i)[:, :, None] * waves(j)[:, None, :]


@dataclass(frozen=True)
class Darcy(Operator):
    """Pressure at sensors in a porous square whose log-permeability has the coefficients z. Not linear.

        −∇·(e^u ∇p) = source,  p = 0 on the walls;   u = the random field of coefficients z;   y = p at the sensors

    Events are the coefficients of u, longest waves first, in any shape: under N(0, I) they make the random field.

    Exactness: finite volumes of second order; differentiable by the adjoint equation, to rounding.
    Cost: a factorisation per row, 3 size⁴/2 multiply-adds; a gradient adds one solve; `Solves` counts both.
    Bias: that of the grid; values of u beyond ±15 count as ±15, which matters for fields of large amplitude alone.
    Args:
        size: cells along a side.
        stride: sensors sit in the middle of squares of stride × stride cells.
        source: what is pumped in everywhere.
        field: the prior law of the log-permeability.
    Raises:
        InputError: events of more waves than there are cells, or a stride that does not divide the side.
    Source: Stuart (2010), Inverse problems: a Bayesian perspective, section 3.3; the equation is Darcy's.
    """

    size: Annotated[int, Field(ge=4)] = 16
    stride: Annotated[int, Field(gt=0)] = 4
    source: Positive = 10.0
    field: CosineField = CosineField()

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        if math.prod(shape) > self.size**2:
            raise InputError(
                f"darcy takes events of at most size² = {self.size**2} coefficients, got {math.prod(shape)} in shape "
                f"{shape}. Take fewer, or raise size."
            )
        if self.size % self.stride:
            raise InputError(f"the stride {self.stride} of sensors does not divide the {self.size} cells of a side.")

    @property
    def range_shape(self) -> tuple[int, ...]:
        return (self.size // self.stride, self.size // self.stride)

    @cached_property
    def waves(self) -> Tensor:
        """The field of each coefficient, (mode, size, size)."""
        return self.field.basis(math.prod(self.shape), self.size)

    def log_permeability(self, z: Tensor) -> Tensor:
        """u, (batch, *shape) → (batch, size, size)."""
        return torch.einsum("bk,kyx->byx", z.flatten(1), self.waves.to(z))

    def pressure(self, z: Tensor) -> Tensor:
        """p, (batch, *shape) → (batch, size, size)."""
        u = self.log_permeability(z)
        lost = u.isnan().any(2, keepdim=True).any(1, keepdim=True)  # a trajectory that has left the numbers
        solved = pressure(torch.where(lost, 0.0, u).clamp(-STEEPEST, STEEPEST).exp(), self.source)
        return solved.masked_fill(lost, math.nan)

    @cached_property
    def sensors(self) -> Tensor:
        """Places of the sensors, (m, 2) as y and x in the unit square."""
        line = (torch.arange(self.size // self.stride, dtype=torch.float64) + 0.5) * self.stride / self.size
        return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.pressure(x)
        if self.stride % 2:  # the middle of the square is the middle of a cell
            return cells[:, self.stride // 2 :: self.stride, self.stride // 2 :: self.stride].flatten(1)
        middle = self.stride // 2
        near = [
            cells[:, a :: self.stride, b :: self.stride] for a in (middle - 1, middle) for b in (middle - 1, middle)
        ]
        return torch.stack(near).mean(0).flatten(1)
