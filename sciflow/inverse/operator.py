"""Measurement maps A: x ↦ y; of linear ones the transposes, and the solves that posteriors need.

An operator comes in two states. As written in a run file it is a recipe (`Inpainting(missing=0.5)`); `draw` gives it an
event shape and draws what differs between observations (which pixels are missing), `bind` restores what was drawn.
Measurements are vectors (batch, m); `range_shape` is the shape they have as an array, where they have one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from sciflow.errors import InputError
from sciflow.inverse.conjugate_gradient import conjugate_gradient
from sciflow.inverse.singular import SingularSystem
from sciflow.random import Stream

PRECISION = 0.75
"""Iterative solves stop at a relative residual of (machine epsilon)^PRECISION: 2e-12 in float64, 6e-6 in float32."""


class Operator:
    """A measurement map; a new one needs `forward` only.

        y = A(x)

    Attributes:
        shape: event shape that it is bound to; () is a recipe.
        range_shape: shape of one measurement as an array; its product is the length m.
    """

    shape: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """A(x) for a bound operator, (batch, *shape) → (batch, m)."""
        raise TypeError(f"{type(self).__name__} has no `forward`. Define it: (batch, *shape) → (batch, m).")

    def sample_parameters(self, shape: tuple[int, ...], stream: Stream) -> dict[str, Tensor]:
        """What differs between observations, drawn; nothing by default."""
        return {}

    def parameters(self) -> dict[str, Tensor]:
        """What was drawn for this observation, to be stored beside it; `bind` takes it back."""
        return dict(self.__dict__.get("_parameters", {}))

    @property
    def is_random(self) -> bool:
        """Whether something is still to be drawn: the operator cannot be used before."""
        return not self.shape and type(self).sample_parameters is not Operator.sample_parameters

    def check(self, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> None:
        """Raise InputError where the operator does not fit events of this shape, or parameters do not fit it."""

    def draw(self, shape: tuple[int, ...], stream: Stream) -> Self:
        """This operator on events of `shape`, with freshly drawn parameters."""
        self.check(tuple(shape), {})
        return self.bind(self.sample_parameters(tuple(shape), stream), shape)

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Self:
        """This operator on events of `shape`, with the parameters of one observation.

        Raises:
            InputError: the operator does not fit the shape, or parameters are missing or of the wrong shape.
        """
        if not shape or min(shape) < 1:
            raise InputError(f"{type(self).__name__} needs a non-empty event shape, got {tuple(shape)}.")
        self.check(tuple(shape), parameters)
        bound = copy.copy(self)
        for name in [name for name in bound.__dict__ if isinstance(getattr(type(self), name, None), cached_property)]:
            del bound.__dict__[name]
        object.__setattr__(bound, "shape", tuple(shape))
        object.__setattr__(bound, "_parameters", dict(parameters))
        return bound

    def on(self, shape: tuple[int, ...]) -> Self:
        """This operator on events of `shape`, if that needs no drawing.

        Raises:
            InputError: it is bound to another shape, or has parameters that nobody drew.
        """
        shape = tuple(shape)
        if self.shape and self.shape == shape:
            return self
        if self.shape:
            raise InputError(f"{type(self).__name__} is bound to events of shape {self.shape}, got {shape}.")
        if self.is_random:
            raise InputError(
                f"{type(self).__name__} has not been drawn yet. Call draw(shape, stream), or bind(parameters, shape) "
                "with the parameters stored beside the observation."
            )
        return self.bind({}, shape)

    @cached_property
    def range_shape(self) -> tuple[int, ...]:
        return (self.forward(torch.zeros((1, *self.shape))).shape[1],)

    @property
    def n_measurements(self) -> int:
        """m, the length of one measurement."""
        return math.prod(self._bound().range_shape)

    def _bound(self) -> Self:
        if not self.shape:
            raise InputError(f"{type(self).__name__} has no event shape yet. Call on(shape) or draw(shape, stream).")
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """A(x), (batch, *shape) → (batch, m)."""
        return self.on(tuple(x.shape[1:])).forward(x)


class LinearOperator(Operator):
    """A linear map; a new one needs `forward` only, and gains in speed from each method it overrides.

    y = A x,   ⟨A x, v⟩ = ⟨x, Aᵀ v⟩
    """

    def backward(self, y: Tensor) -> Tensor:
        """Aᵀ y for a bound operator, (batch, m) → (batch, *shape). By autograd unless overridden, so exact."""
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros((len(y), *self.shape), dtype=y.dtype, device=y.device, requires_grad=True)
            return torch.autograd.grad(self.forward(x), x, y.clone(), create_graph=y.requires_grad)[0]

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, (batch, m) → (batch, *shape)."""
        self._bound()
        if y.ndim != 2 or y.shape[1] != self.n_measurements:
            raise InputError(
                f"{type(self).__name__}.adjoint needs y of shape (batch, {self.n_measurements}), got {tuple(y.shape)}."
            )
        return self.backward(y)

    def gram(self, v: Tensor) -> Tensor:
        """A Aᵀ v, (batch, m) → (batch, m)."""
        return self.forward(self.backward(v))

    @cached_property
    def gram_spectrum(self) -> Tensor:
        """Eigenvalues of A Aᵀ, float64, (m,)."""
        matrix = self.gram(torch.eye(self.n_measurements, dtype=torch.float64))
        return torch.linalg.eigvalsh(0.5 * (matrix + matrix.T)).clamp_min(0)

    @cached_property
    def gram_basis(self) -> tuple[Tensor, Tensor]:
        """g (m,) and U (m, m) of A Aᵀ = U diag(g) Uᵀ, float64; O(m³), once."""
        matrix = self.gram(torch.eye(self.n_measurements, dtype=torch.float64))
        values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.T))
        return values.clamp_min(0), vectors

    @cached_property
    def singular_system(self) -> SingularSystem:
        """S and U of A = U S Vᵀ; from `gram_basis` unless an operator knows better."""
        return SingularSystem.of_gram(*self.gram_basis)

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """(scale A Aᵀ + ridge I)⁻¹ v, (batch, m) → (batch, m); conjugate gradients unless overridden.

        Args:
            v: right-hand sides.
            ridge: > 0, a number or (batch, 1).
            scale: ≥ 0, a number or (batch, 1).
        """
        tolerance = torch.finfo(v.dtype).eps ** PRECISION
        limit = 4 * self.n_measurements + 16
        return conjugate_gradient(lambda p: scale * self.gram(p) + ridge * p, v, tolerance, limit).x

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y, the shortest least-squares solution, (batch, m) → (batch, *shape)."""
        return self.adjoint(self.gram_solve(y, 0.0))

    def __matmul__(self, inner: LinearOperator) -> Composition:
        return Composition(self, inner)


class OrthonormalRows(LinearOperator):
    """What operators share whose A Aᵀ is the identity: they choose coordinates and change none."""

    @property
    def gram_spectrum(self) -> Tensor:
        return torch.ones(self.n_measurements, dtype=torch.float64)

    @cached_property
    def singular_system(self) -> SingularSystem:
        return SingularSystem(self.gram_spectrum, torch.clone, torch.clone)

    def gram_solve(self, v: Tensor, ridge: float | Tensor, scale: float | Tensor = 1.0) -> Tensor:
        return v / (scale + ridge)


@dataclass(frozen=True)
class Identity(OrthonormalRows):
    """Every number is observed.

        y = x

    Exactness: A = Aᵀ = A⁺ = I.
    Cost: none.
    Bias: none.
    Source: definition.
    """

    @property
    def range_shape(self) -> tuple[int, ...]:
        return self.shape

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def backward(self, y: Tensor) -> Tensor:
        return y.reshape(-1, *self.shape)


@dataclass(frozen=True)
class Composition(LinearOperator):
    """One operator after another; also written `outer @ inner`.

        y = A_outer A_inner x

    Exactness: adjoint exact; A Aᵀ systems by conjugate gradients to (machine epsilon)^0.75.
    Cost: the sum of both.
    Bias: none.
    Args:
        outer: acts on what `inner` measures, in the array shape that this has.
        inner: acts on the event.
    Source: definition.
    """

    outer: LinearOperator = field(default_factory=Identity)
    inner: LinearOperator = field(default_factory=Identity)

    def __post_init__(self) -> None:
        check_linear(self.outer, "a composition")
        check_linear(self.inner, "a composition")

    @property
    def is_random(self) -> bool:
        return self.outer.is_random or self.inner.is_random

    def sample_parameters(self, shape: tuple[int, ...], stream: Stream) -> dict[str, Tensor]:
        inner = _drawn(self.inner, shape, stream.child("inner"))
        outer = _drawn(self.outer, inner.range_shape, stream.child("outer"))
        pairs = (("inner", inner), ("outer", outer))
        return {f"{part}_{name}": value for part, operator in pairs for name, value in operator.parameters().items()}

    def bind(self, parameters: Mapping[str, Tensor], shape: tuple[int, ...]) -> Self:
        bound = super().bind(parameters, shape)
        for side in ("inner", "outer"):
            part = getattr(self, side)
            own = {name.removeprefix(f"{side}_"): v for name, v in parameters.items() if name.startswith(f"{side}_")}
            event = shape if side == "inner" else bound.inner.range_shape
            object.__setattr__(bound, side, part.bind(own, event) if own else part.on(event))
        return bound

    @property
    def range_shape(self) -> tuple[int, ...]:
        return self.outer.range_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x).reshape(-1, *self.inner.range_shape))

    def backward(self, y: Tensor) -> Tensor:
        return self.inner.backward(self.outer.backward(y).flatten(1))


def check_linear(operator: object, user: str) -> None:
    """Raise InputError if an operator is not linear."""
    if not isinstance(operator, LinearOperator):
        raise InputError(
            f"{user} needs a linear operator, got {type(operator).__name__}. For another take the likelihood "
            "nonlinear_gaussian, and a posterior that asks for its value or gradient alone: das, tds with twist "
            "'denoised', fk_steering, svdd or tempered."
        )


def _drawn(operator: LinearOperator, shape: tuple[int, ...], stream: Stream) -> LinearOperator:
    """A part of a composition: what is bound already stays as it is."""
    return operator.on(shape) if operator.shape else operator.draw(shape, stream)


def check_adjoint(operator: LinearOperator, shape: tuple[int, ...], stream: Stream | None = None) -> float:
    """How far an operator is from its own transpose: 0 up to rounding, for a right pair.

        |⟨A x, v⟩ − ⟨x, Aᵀ v⟩| / max(‖A x‖ ‖v‖, ‖x‖ ‖Aᵀ v‖),   x and v standard normal, in float64

    Args:
        operator: the operator to check; drawn here if it has not been.
        shape: event shape.
        stream: random numbers.

    Raises:
        InputError: what it measures is complex.
    """
    stream = stream or Stream(0, ("check adjoint",))
    if not operator.shape:
        operator = operator.draw(shape, stream.child("operator"))
    x = stream.child("x").normal(1, shape, dtype=torch.float64)
    measured = operator(x)
    if measured.is_complex():
        raise InputError(
            f"{type(operator).__name__} gives {measured.dtype} for events of {x.dtype}, but measurements are real. Let "
            "`forward` return the real and the imaginary part one after the other, `torch.view_as_real(y).flatten(1)`."
        )
    v = stream.child("v").normal(1, measured.shape[1:], dtype=torch.float64)
    returned = operator.adjoint(v)
    difference = (measured * v).sum() - (x * returned).sum()
    size = torch.maximum(measured.norm() * v.norm(), x.norm() * returned.norm())
    return float(difference.abs() / size.clamp_min(1e-300))


LARGEST_MISMATCH = 1e-5
"""Of an operator from its transpose: an operator that works in float32 inside is within 1e-6."""


def check_users(operator: Operator) -> None:
    """Hold an operator that is not of this package against its own transpose, before anything is sampled with it.

    Raises:
        InputError: it measures complex numbers, is not linear, or its `backward` is not the transpose of its
            `forward`; with the mismatch.
    """
    if type(operator).__module__.startswith("sciflow.") or not isinstance(operator, LinearOperator):
        return
    mismatch = check_adjoint(operator, operator.shape)
    if not mismatch <= LARGEST_MISMATCH:
        raise InputError(
            f"{type(operator).__name__} does not match its adjoint: |⟨A x, v⟩ − ⟨x, Aᵀ v⟩| is {mismatch:.2g} of "
            f"‖A x‖ ‖v‖, more than {LARGEST_MISMATCH:g}. Make `forward` linear, and mend `backward` or leave it out: "
            "it is then derived from `forward`."
        )
