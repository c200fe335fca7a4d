"""Terms of a force field between all pairs of atoms: Lennard-Jones, Coulomb, and a generalised Born solvent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.domains.molecules.force_field_bonded import Numbers

PROBE = 0.14  # radius of water [nm]


@dataclass(frozen=True, eq=False)
class Born(Numbers):
    """A solvent as a continuum: generalised Born with the radii of Onufriev, Bashford and Case, and a surface term.

        E = −½ κ Σ_ij q_i q_j/f_ij + Σ_i c (ρ_i + 0.14)² (ρ_i/B_i)⁶,   f² = r² + B_i B_j e^{−r²/4B_iB_j}
        1/B = 1/o − tanh(α ψ − β ψ² + γ ψ³)/ρ,   ψ_i = o_i Σ_j I(r_ij; o_i, s_j),   o = ρ − offset

    Args:
        charge: q [e], (atom, 1).
        radius: ρ [nm], (atom, 1).
        offset_radius: o [nm], (atom, 1).
        scaled_radius: s [nm], (atom, 1).
        shape: α, β, γ.
        coupling: κ = (1/ε_solute − 1/ε_solvent)/4πε₀ [kJ nm/mol/e²].
        surface: c [kJ/mol/nm²].
        is_deep: whether an atom deep inside another one gets the term 2(1/o − 1/L), which one of two published forms
            leaves out.
    Source: Onufriev, Bashford and Case (2004), eq. 6–8; I: Hawkins, Cramer and Truhlar (1995), eq. 13; surface:
        Schaefer, Bartels and Karplus (1998).
    """

    charge: Tensor
    radius: Tensor
    offset_radius: Tensor
    scaled_radius: Tensor
    shape: tuple[float, float, float]
    coupling: float
    surface: float
    is_deep: bool

    def integrals(self, r: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """I and dI/dr/r of each atom of a pair because of the other one, (2, pair, batch)."""
        o, s = self.offset_radius[pairs], self.scaled_radius[pairs.flip(0)]
        upper = r + s
        lower = torch.maximum((r - s).abs_(), o)
        u, inverse = upper.reciprocal(), lower.reciprocal()
        by_r = r.reciprocal()
        bracket = u.square().sub_(inverse.square())
        ratio = s.square() * by_r.square()  # (s/r)²
        log = upper.mul_(inverse).log_().mul_(by_r)
        integral = (bracket * (0.25 * r) * (1 - ratio)).add_(inverse).sub_(u).add_(log, alpha=-0.5).mul_(0.5)
        slope = bracket.mul_(ratio.add_(1)).mul_(0.125).addcmul_(log, by_r, value=0.25)
        deep, outside = s - r > o, r + s <= o
        if bool(deep.any()):
            if self.is_deep:
                integral += torch.where(deep, 1 / o - inverse, 0.0)
            else:
                slope += torch.where(deep, inverse.square(), 0.0)
        if bool(outside.any()):
            integral, slope = integral.masked_fill(outside, 0.0), slope.masked_fill(outside, 0.0)
        return integral, slope.mul_(by_r)

    def radii(self, integral: Tensor) -> tuple[Tensor, Tensor]:
        """Born radii B and dB/dI, (atom, batch)."""
        alpha, beta, gamma = self.shape
        psi = integral * self.offset_radius
        tanh = (psi * (alpha + psi * (gamma * psi - beta))).tanh()
        born = 1 / (1 / self.offset_radius - tanh / self.radius)
        inner = alpha + psi * (3 * gamma * psi - 2 * beta)
        return born, born.square() * (1 - tanh.square()) * inner * (self.offset_radius / self.radius)

    def add(self, r: Tensor, r2: Tensor, pairs: Tensor, push: Tensor) -> Tensor:
        """Energy of each row; −dE/dr/r of each pair is added to `push`, (pair, batch)."""
        i, j = pairs
        integral, slope = self.integrals(r, pairs)
        at_atoms = r.new_zeros(len(self.charge), r.shape[1])
        born, growth = self.radii(at_atoms.index_add(0, i, integral[0]).index_add_(0, j, integral[1]))
        product = born[i] * born[j]
        decay = (-0.25 * r2 / product).exp_()
        screened = product * decay
        f = (r2 + screened).rsqrt_()
        charges = self.coupling * self.charge[i] * self.charge[j]
        energy = charges * f
        cubic = energy * f.square_()
        push -= cubic * (1 - 0.25 * decay)
        along = cubic.mul_(0.5).mul_(screened.add_(decay.mul_(r2), alpha=0.25))  # B dE/dB of the pair, for both atoms
        by_radius = at_atoms.index_add_(0, i, along).index_add_(0, j, along)
        own = (0.5 * self.coupling) * self.charge.square() / born
        surface = self.surface * (self.radius + PROBE).square() * (self.radius / born) ** 6
        chain = by_radius.add_(own).sub_(surface, alpha=6).div_(born).mul_(growth)
        push -= chain[i] * slope[0] + chain[j] * slope[1]
        return (surface - own).sum(0) - energy.sum(0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """E = Σ A r⁻¹² − C r⁻⁶ + Q r⁻¹ over all pairs, exceptions included, and the solvent if there is one.

    Args:
        atoms: (2, pair), every pair once.
        repulsion: A = 4 ε σ¹² [kJ nm¹²/mol], (pair, 1).
        attraction: C = 4 ε σ⁶ [kJ nm⁶/mol], (pair, 1).
        charges: Q = q_i q_j/4πε₀ [kJ nm/mol], (pair, 1).
        born: the solvent.
    """

    atoms: Tensor
    repulsion: Tensor
    attraction: Tensor
    charges: Tensor
    born: Born | None = None

    def to(self, like: Tensor) -> Pairs:
        repulsion, attraction, charges = (value.to(like) for value in (self.repulsion, self.attraction, self.charges))
        born = self.born.to(like) if self.born else None
        return Pairs(self.atoms.to(like.device), repulsion, attraction, charges, born)

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j = self.atoms
        d = x[i] - x[j]
        r2 = d.square().sum(1)
        by_r2 = r2.reciprocal()
        sixth = by_r2 * by_r2 * by_r2
        strong, weak = self.repulsion * sixth, self.attraction
        coulomb = self.charges * by_r2.sqrt()
        energy = ((strong - weak) * sixth + coulomb).sum(0)
        push = (strong.mul_(12) - 6 * weak).mul_(sixth).add_(coulomb).mul_(by_r2)
        if self.born is not None:
            energy = energy + self.born.add(r2.sqrt(), r2, self.atoms, push)
        d *= push[:, None]
        force.index_add_(0, i, d).index_add_(0, j, d, alpha=-1)
        return energy


SURFACE = 4 * math.pi  # times the tension [kJ/mol/nm²]: c
