"""What terms of a force field share: how they add energies and forces, and a box with its images.

Positions are (atom, axis, batch) here: rows of a batch lie next to each other, so that picking atoms and adding
forces to them copies whole lines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

LARGEST = (
    1 << 27
)  # numbers of one array, 1 GB in float64: a force field holds some ten of the pairs', and makes as many


class Term(Protocol):
    """A part of the energy."""

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        """Energy of each row (batch,) of positions (atom, axis, batch); its force is added to `force`."""
        ...

    def to(self, like: Tensor) -> Self:
        """The same with its numbers in the dtype and on the device of `like`."""
        ...


class Numbers:
    """A frozen dataclass of tensors, and of other such dataclasses, that can change their dtype."""

    def to(self, like: Tensor) -> Self:
        """Floating numbers in the dtype of `like`, all on its device."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(like) if value.is_floating_point() else value.to(like.device)
            elif isinstance(value, Numbers):
                moved[name] = value.to(like)
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Box(Numbers):
    """A periodic box in reduced form: each atom has images at x + n_a a + n_b b + n_c c.

        a = (a_x, 0, 0),   b = (b_x, b_y, 0),   c = (c_x, c_y, c_z);   |b_x| ≤ a_x/2, |c_x| ≤ a_x/2, |c_y| ≤ b_y/2

    Args:
        vectors: rows a, b, c [nm], (3, 3).
    Source: Eastman et al., OpenMM User Guide, section on periodic boundary conditions.
    """

    vectors: Tensor

    @property
    def volume(self) -> float:
        """[nm³]."""
        return float(self.vectors.diagonal().prod())

    @property
    def width(self) -> float:
        """The least of a_x, b_y, c_z [nm]: no cutoff may be longer than half of it."""
        return float(self.vectors.diagonal().min())

    @property
    def is_sheared(self) -> bool:
        """Whether it is triclinic, and not rectangular."""
        return bool((self.vectors != self.vectors.diagonal().diag()).any())

    def nearest(self, d: Tensor) -> Tensor:
        """Vectors (n, axis, batch) to the nearest image, in place of `d`; exact for lengths up to half the width."""
        for axis in (2, 1, 0):
            turns = (d[:, axis] / self.vectors[axis, axis]).round_()
            d[:, : axis + 1] -= self.vectors[axis, : axis + 1, None] * turns[:, None]
        return d

    def fractional(self, x: Tensor) -> Tensor:
        """Places (n, axis, batch) in [0, 1) along a, b, c, of the image in the box."""
        s = torch.einsum("ac,nab->ncb", torch.linalg.inv(self.vectors), x)
        return s.sub_(s.floor())


def between(x: Tensor, i: Tensor, j: Tensor, box: Box | None) -> Tensor:
    """Vectors from atoms j to atoms i, (n, axis, batch); of the nearest images where there is a box."""
    d = x[i] - x[j]
    return d if box is None else box.nearest(d)


@dataclass(frozen=True, eq=False)
class Constant(Numbers):
    """An energy that positions do not change.

    Args:
        value: [kJ/mol], ().
    """

    value: Tensor

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        return self.value.expand(x.shape[2])
