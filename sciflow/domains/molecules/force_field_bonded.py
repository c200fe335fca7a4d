"""Terms of a force field between atoms that are bonded: bonds, angles, torsions, with their forces in closed form.

Positions are (atom, axis, batch) here: rows of a batch lie next to each other, so that picking atoms and adding
forces to them copies whole lines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


class Term(Protocol):
    """A part of the energy."""

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        """Energy of each row (batch,) of positions (atom, axis, batch); its force is added to `force`."""
        ...

    def to(self, like: Tensor) -> Self:
        """The same with its numbers in the dtype and on the device of `like`."""
        ...


class Numbers:
    """A frozen dataclass of tensors that can change their dtype."""

    def to(self, like: Tensor) -> Self:
        """Floating numbers in the dtype of `like`, all on its device."""
        moved = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(like) if value.is_floating_point() else value.to(like.device)
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Of vectors along axis 1, (n, 3, batch) → (n, batch)."""
    return (a * b).sum(1)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Of vectors along axis 1."""
    (ax, ay, az), (bx, by, bz) = a.unbind(1), b.unbind(1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], 1)


@dataclass(frozen=True, eq=False)
class Bonds(Numbers):
    """E = ½ k (r − r₀)².

    Args:
        atoms: (2, bond).
        length: r₀ [nm], (bond, 1).
        stiffness: k [kJ/mol/nm²], (bond, 1).
    """

    atoms: Tensor
    length: Tensor
    stiffness: Tensor

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j = self.atoms
        d = x[i] - x[j]
        r = d.square().sum(1).sqrt()
        stretch = r - self.length
        pull = self.stiffness * stretch
        d *= (pull / r)[:, None]
        force.index_add_(0, j, d).index_add_(0, i, d, alpha=-1)
        return 0.5 * (pull * stretch).sum(0)


@dataclass(frozen=True, eq=False)
class Angles(Numbers):
    """E = ½ k (θ − θ₀)², the angle at the middle atom.

    Args:
        atoms: (3, angle).
        angle: θ₀ [rad], (angle, 1).
        stiffness: k [kJ/mol/rad²], (angle, 1).
    """

    atoms: Tensor
    angle: Tensor
    stiffness: Tensor

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j, k = self.atoms
        a, b = x[i] - x[j], x[k] - x[j]
        along, a2, b2 = dot(a, b), dot(a, a), dot(b, b)
        across = (a2 * b2 - along.square()).clamp_min_(0).sqrt()  # |a × b|, by Lagrange
        bent = torch.atan2(across, along) - self.angle
        turn = self.stiffness * bent
        pull = turn / across
        on_i = (b - a * (along / a2)[:, None]) * pull[:, None]
        on_k = (a - b * (along / b2)[:, None]) * pull[:, None]
        force.index_add_(0, i, on_i).index_add_(0, k, on_k).index_add_(0, j, on_i + on_k, alpha=-1)
        return 0.5 * (turn * bent).sum(0)


@dataclass(frozen=True, eq=False)
class Torsions(Numbers):
    """E = Σ k (1 + cos(n φ − φ₀)), several terms for each dihedral angle.

    Args:
        atoms: (4, dihedral), each once.
        dihedral: of each term, (term,).
        periodicity: n, (term, 1).
        phase: φ₀ [rad], (term, 1).
        height: k [kJ/mol], (term, 1).
    Source: forces: Blondel and Karplus (1996), New formulation for derivatives of torsion angles.
    """

    atoms: Tensor
    dihedral: Tensor
    periodicity: Tensor
    phase: Tensor
    height: Tensor

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j, k, l = self.atoms  # noqa: E741
        first, axis, last = x[j] - x[i], x[k] - x[j], x[l] - x[k]
        m, n, axis2 = cross(first, axis), cross(axis, last), dot(axis, axis)
        length = axis2.sqrt()
        phi = torch.atan2(length * dot(first, n), dot(m, n))
        turned = self.periodicity * phi[self.dihedral] - self.phase
        slope = torch.zeros_like(phi).index_add_(0, self.dihedral, self.height * self.periodicity * turned.sin())
        on_i = m * (-slope * length / dot(m, m))[:, None]
        on_l = n * (slope * length / dot(n, n))[:, None]
        p, q = (dot(first, axis) / axis2)[:, None], (dot(last, axis) / axis2)[:, None]
        twist = p * on_i - q * on_l
        force.index_add_(0, i, on_i).index_add_(0, l, on_l)
        force.index_add_(0, j, on_i + twist, alpha=-1).index_add_(0, k, twist - on_l)
        return (self.height * (1 + turned.cos())).sum(0)


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Angle about b–c [rad] in (−π, π], 0 where a and d eclipse each other; positions (…, 3).

    Source: IUPAC-IUB (1970), conventions for polypeptides, rule 3.2.
    """
    first, axis, last = b - a, c - b, d - c
    m, n = torch.linalg.cross(first, axis), torch.linalg.cross(axis, last)
    return torch.atan2(axis.norm(dim=-1) * (first * n).sum(-1), (m * n).sum(-1))
