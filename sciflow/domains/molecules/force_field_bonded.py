"""Terms of a force field between atoms that are bonded: bonds, angles, torsions, with their forces in closed form.

Each sees the nearest image of an atom where it has a box, and atoms as they are where it has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sciflow.domains.molecules.force_field_terms import Box, Numbers, between


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
        box: whose images are seen.
    """

    atoms: Tensor
    length: Tensor
    stiffness: Tensor
    box: Box | None = None

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j = self.atoms
        d = between(x, i, j, self.box)
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
        box: whose images are seen.
    """

    atoms: Tensor
    angle: Tensor
    stiffness: Tensor
    box: Box | None = None

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j, k = self.atoms
        a, b = between(x, i, j, self.box), between(x, k, j, self.box)
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
        box: whose images are seen.
    Source: definition; forces as in `Twist`.
    """

    atoms: Tensor
    dihedral: Tensor
    periodicity: Tensor
    phase: Tensor
    height: Tensor
    box: Box | None = None

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        twist = Twist.of(x, self.atoms, self.box)
        turned = self.periodicity * twist.angle[self.dihedral] - self.phase
        slope = torch.zeros_like(twist.angle)
        slope.index_add_(0, self.dihedral, self.height * self.periodicity * turned.sin())
        twist.pull(slope, force)
        return (self.height * (1 + turned.cos())).sum(0)


class Twist(NamedTuple):
    """Dihedral angles of atoms (4, dihedral), and what turns their slopes into forces.

    Attributes:
        atoms: (4, dihedral).
        vectors: between neighbours, and the normals of both planes, (dihedral, axis, batch) each.
        angle: φ [rad], (dihedral, batch).
    Source: Blondel and Karplus (1996), New formulation for derivatives of torsion angles.
    """

    atoms: Tensor
    vectors: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    angle: Tensor

    @classmethod
    def of(cls, x: Tensor, atoms: Tensor, box: Box | None = None) -> Twist:
        i, j, k, l = atoms  # noqa: E741
        first, axis, last = between(x, j, i, box), between(x, k, j, box), between(x, l, k, box)
        m, n = cross(first, axis), cross(axis, last)
        angle = torch.atan2(dot(axis, axis).sqrt() * dot(first, n), dot(m, n))
        return cls(atoms, (first, axis, last, m, n), angle)

    def pull(self, slope: Tensor, force: Tensor) -> None:
        """Add to `force` what energies do whose slope is −dE/dφ, (dihedral, batch)."""
        i, j, k, l = self.atoms  # noqa: E741
        first, axis, last, m, n = self.vectors
        axis2 = dot(axis, axis)
        length = axis2.sqrt()
        on_i = m * (-slope * length / dot(m, m))[:, None]
        on_l = n * (slope * length / dot(n, n))[:, None]
        p, q = (dot(first, axis) / axis2)[:, None], (dot(last, axis) / axis2)[:, None]
        twist = p * on_i - q * on_l
        force.index_add_(0, i, on_i).index_add_(0, l, on_l)
        force.index_add_(0, j, on_i + twist, alpha=-1).index_add_(0, k, twist - on_l)


@dataclass(frozen=True, eq=False)
class Maps(Numbers):
    """E = Σ M(φ, ψ): corrections of two dihedral angles at once, by splines through tables.

    M is the periodic bicubic spline through the values of a table at (2π k/n, 2π l/n).

    Args:
        first, second: atoms of φ and of ψ, (4, pair) each.
        table: of each pair, (pair,).
        patches: M, n ∂M/2π of each axis and both, at the knots: (4, table, n, n) [kJ/mol].
        box: whose images are seen.
    Source: MacKerell, Feig and Brooks (2004), Extending the treatment of backbone energetics in protein force fields.
    """

    first: Tensor
    second: Tensor
    table: Tensor
    patches: Tensor
    box: Box | None = None

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        twists = [Twist.of(x, atoms, self.box) for atoms in (self.first, self.second)]
        n = self.patches.shape[-1]
        at = [twist.angle.remainder(2 * math.pi) * (n / (2 * math.pi)) for twist in twists]
        low = [place.floor().clamp_max(n - 1) for place in at]
        (u, du), (v, dv) = (hermite(place - below) for place, below in zip(at, low, strict=True))
        ends = [(below.long() + torch.tensor([0, 1], device=x.device)[:, None, None]) % n for below in low]
        known = self.patches[:, self.table[:, None], ends[0][:, None], ends[1][None]]  # (4, end, end, pair, batch)
        value, by_u, by_v, by_both = known
        corners = torch.stack([torch.stack([value, by_v]), torch.stack([by_u, by_both])])  # (slope, slope, end, end, …)

        def blended(first: Tensor, second: Tensor) -> Tensor:
            return torch.einsum("sepb,tfpb,stefpb->pb", first, second, corners)

        scale = -n / (2 * math.pi)
        for twist, slope in zip(twists, (blended(du, v), blended(u, dv)), strict=True):
            twist.pull(scale * slope, force)
        return blended(u, v).sum(0)


def hermite(t: Tensor) -> tuple[Tensor, Tensor]:
    """Cubic polynomials of t in [0, 1] with value or slope 1 at one end, and derivatives, (value or slope, end, …).

    Source: de Boor (1978), A practical guide to splines, chapter IV.
    """
    s = 1 - t
    values = [torch.stack([s * s * (1 + 2 * t), t * t * (3 - 2 * t)]), torch.stack([t * s * s, -t * t * s])]
    slopes = [torch.stack([-6 * t * s, 6 * t * s]), torch.stack([s * (1 - 3 * t), t * (3 * t - 2)])]
    return torch.stack(values), torch.stack(slopes)


def knots(values: Tensor) -> Tensor:
    """Values and slopes per step of the periodic bicubic spline through tables (table, n, n), (4, table, n, n).

        s_{k−1} + 4 s_k + s_{k+1} = 3 (M_{k+1} − M_{k−1}) along each axis

    Source: de Boor (1978), chapter IV, periodic; de Boor (1962), Bicubic spline interpolation.
    """
    one = torch.eye(values.shape[-1], dtype=values.dtype)
    right, left = one.roll(1, 1), one.roll(-1, 1)
    slope = torch.linalg.solve(left + 4 * one + right, 3 * (right - left))
    by_first = torch.einsum("ij,tjk->tik", slope, values)
    return torch.stack([values, by_first, values @ slope.T, by_first @ slope.T])


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Angle about b–c [rad] in (−π, π], 0 where a and d eclipse each other; positions (…, 3).

    Source: IUPAC-IUB (1970), conventions for polypeptides, rule 3.2.
    """
    first, axis, last = b - a, c - b, d - c
    m, n = torch.linalg.cross(first, axis), torch.linalg.cross(axis, last)
    return torch.atan2(axis.norm(dim=-1) * (first * n).sum(-1), (m * n).sum(-1))
