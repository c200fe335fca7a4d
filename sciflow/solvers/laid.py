"""Coefficients laid beside a state, so that a step is real multiply-adds in its buffers wherever that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from sciflow.solvers.dynamics import Coefficient

Numbers = TypeVar("Numbers", bound=tuple)


class Laid(NamedTuple, Generic[Numbers]):
    """Coefficients, and the layout of the states that they multiply.

    Attributes:
        numbers: floats, or tensors in the dtype and on the device of the layout.
        flat: a state, or a value like it → its numbers in the layout: (…, 2 n) real for (…, n) complex.
        back: a state from its numbers.
    """

    numbers: Numbers
    flat: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


def laid(numbers: Any, x: Tensor) -> Laid:
    """The coefficients beside states like x.

    A real coefficient multiplies real and imaginary part alike: where none is complex, a complex state is taken as real
    numbers, which halves the work of a product.

    Args:
        numbers: a named tuple of coefficients that broadcast with x.
        x: a state.
    """
    tensors = [number for number in numbers if isinstance(number, Tensor)]
    if not x.is_complex() or any(number.is_complex() for number in tensors):
        cast = lambda number: number.to(x.device, x.dtype) if isinstance(number, Tensor) else number  # noqa: E731
        return Laid(type(numbers)(*map(cast, numbers)), _same, _same)
    real = x.dtype.to_real()

    def doubled(number: Coefficient) -> Coefficient:
        if not isinstance(number, Tensor):
            return number
        number = number.to(x.device, real)
        return number.repeat_interleave(2, -1) if number.ndim and number.shape[-1] == x.shape[-1] else number

    return Laid(type(numbers)(*map(doubled, numbers)), _real, _complex)


def _same(x: Tensor) -> Tensor:
    return x


def _real(x: Tensor) -> Tensor:
    if torch.is_grad_enabled() or not x.is_contiguous():
        return torch.view_as_real(x).flatten(-2)
    return x.view(x.dtype.to_real())  # the same numbers in one call, which autograd does not know


def _complex(x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return x.view(x.dtype.to_complex())


def scaled(x: Tensor, factor: Coefficient) -> Tensor:
    """P x, in the buffer of x when autograd is off."""
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def plus(x: Tensor, weight: Coefficient, value: Tensor, is_kept: bool = False) -> Tensor:
    """x + W F, in the buffer of x when autograd is off, unless x is kept."""
    in_place = not (is_kept or torch.is_grad_enabled())
    if isinstance(weight, float):  # of the plain type: a third of the price
        return x.add_(value, alpha=weight) if in_place else x.add(value, alpha=weight)
    return x.addcmul_(weight, value) if in_place else x.addcmul(weight, value)
