"""Terms of a force field between all pairs of atoms: Lennard-Jones, Coulomb, and a generalised Born solvent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.domains.molecules.force_field_terms import Box, Numbers, between

PROBE = 0.14  # radius of water [nm]


@dataclass(frozen=True, eq=False)
class Neck(Numbers):
    """What the solvent with a neck adds to I: water that fits into no gap between two atoms that nearly touch.

        I_ij += g m_ij/(1 + 100 (r − d_ij)² + 3·10⁵ (r − d_ij)⁶)   while r ≤ ρ_i + ρ_j + reach

    Args:
        depth: g m [1/nm], (atom, atom).
        place: d [nm], (atom, atom).
        reach: [nm].
    Source: Mongan et al. (2007), Generalized Born model with a simple, robust molecular volume correction, eq. 10; the
        sixth power as in Amber and OpenMM.
    """

    depth: Tensor
    place: Tensor
    reach: float

    def integrals(self, r: Tensor, pairs: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to I, and its derivative by r, of each atom of a pair, (2, pair, batch)."""
        others = pairs.flip(0)
        inside = r <= radius[pairs[0]] + radius[pairs[1]] + self.reach
        gap = r - self.place[pairs, others][..., None]
        square = gap.square()
        under = 1 + square * (100 + 3e5 * square.square())
        value = torch.where(inside, self.depth[pairs, others][..., None] / under, 0.0)
        return value, -value * gap * (200 + 1.8e6 * square.square()) / under


@dataclass(frozen=True, eq=False)
class Born(Numbers):
    """A solvent as a continuum: generalised Born with salt, radii of one of four models, and a surface term.

        E = −½ Σ_ij q_i q_j κ(f_ij)/f_ij + Σ_i c (ρ_i + 0.14)² (ρ_i/B_i)⁶,   f² = r² + B_i B_j e^{−r²/4B_iB_j}
        κ(f) = κ_solute − κ_solvent e^{−f/λ}
        1/B = 1/o − tanh(α ψ − β ψ² + γ ψ³)/ρ,   ψ_i = o_i Σ_j I(r_ij; o_i, s_j),   o = ρ − offset

    Args:
        charge: q [e], (atom, 1).
        radius: ρ [nm], (atom, 1).
        offset_radius: o [nm], (atom, 1).
        scaled_radius: s [nm], (atom, 1).
        shape: α, β, γ, numbers or (3, atom, 1); None: 1/B = 1/o − Σ I, as Hawkins, Cramer and Truhlar have it.
        coupling: κ of solute and solvent, 1/4πε₀ε [kJ nm/mol/e²].
        salt: 1/λ, inverse Debye length [1/nm].
        surface: c [kJ/mol/nm²].
        is_deep: whether an atom deep inside another one gets the term 2(1/o − 1/L), which one of two published forms
            leaves out.
        neck: what is added to I.
        cutoff: r_c [nm]: pairs beyond do not see each other, 1/f_ij of the others is 1/f_ij − 1/r_c; infinite: none.
    Source: Onufriev, Bashford and Case (2004), eq. 6–8; I and radii without a tanh: Hawkins, Cramer and Truhlar (1995),
        eq. 13; numbers of each atom: Nguyen, Roe and Simmerling (2013); salt: Srinivasan et al. (1999); surface:
        Schaefer, Bartels and Karplus (1998).
    """

    charge: Tensor
    radius: Tensor
    offset_radius: Tensor
    scaled_radius: Tensor
    shape: tuple[float, float, float] | Tensor | None
    coupling: tuple[float, float]
    salt: float
    surface: float
    is_deep: bool
    neck: Neck | None = None
    cutoff: float = math.inf

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
        if self.neck is not None:
            more, steeper = self.neck.integrals(r, pairs, self.radius)
            integral, slope = integral + more, slope + steeper
        if self.cutoff < math.inf:
            far = r > self.cutoff
            integral, slope = integral.masked_fill(far, 0.0), slope.masked_fill(far, 0.0)
        return integral, slope.mul_(by_r)

    def radii(self, integral: Tensor) -> tuple[Tensor, Tensor]:
        """Born radii B and dB/dI, (atom, batch)."""
        if self.shape is None:
            born = 1 / (1 / self.offset_radius - integral)
            return born, born.square()
        alpha, beta, gamma = self.shape
        psi = integral * self.offset_radius
        tanh = (psi * (alpha + psi * (gamma * psi - beta))).tanh()
        born = 1 / (1 / self.offset_radius - tanh / self.radius)
        inner = alpha + psi * (3 * gamma * psi - 2 * beta)
        return born, born.square() * (1 - tanh.square()) * inner * (self.offset_radius / self.radius)

    def screening(self, inverse: Tensor, cutoff: float = math.inf) -> tuple[Tensor | float, Tensor | float]:
        """f h and −f² dh/df of h = κ(f) (1/f − 1/r_c), of 1/f."""
        solute, solvent = self.coupling
        if self.salt == 0 and cutoff == math.inf:
            return solute - solvent, solute - solvent
        far, kept = self.salt / inverse, 1 - 1 / (cutoff * inverse)
        screened = solvent * torch.exp(-far)
        kappa = solute - screened
        return kappa * kept, kappa - screened * far * kept

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
        kappa, falling = self.screening(f, self.cutoff)
        charges = self.charge[i] * self.charge[j] * f
        if self.cutoff < math.inf:
            charges = charges.masked_fill(r > self.cutoff, 0.0)
        energy = charges * kappa
        cubic = charges.mul_(falling).mul_(f.square_())
        push -= cubic * (1 - 0.25 * decay)
        along = cubic.mul_(0.5).mul_(screened.add_(decay.mul_(r2), alpha=0.25))  # B dE/dB of the pair, for both atoms
        by_radius = at_atoms.index_add_(0, i, along).index_add_(0, j, along)
        kappa, falling = self.screening(1 / born)
        own = 0.5 * self.charge.square() / born
        surface = self.surface * (self.radius + PROBE).square() * (self.radius / born) ** 6
        chain = by_radius.add_(own * falling).sub_(surface, alpha=6).div_(born).mul_(growth)
        push -= chain[i] * slope[0] + chain[j] * slope[1]
        return (surface - own * kappa).sum(0) - energy.sum(0)


@dataclass(frozen=True, eq=False)
class Switch(Numbers):
    """Lennard-Jones energies that fall smoothly to 0 between two distances.

        E becomes S E,   S = 1 − 10 x³ + 15 x⁴ − 6 x⁵,   x = (r − r_s)/(r_c − r_s) in [0, 1]

    Args:
        start: r_s [nm].
        end: r_c [nm].
    Source: Eastman et al., OpenMM User Guide, section on Lennard-Jones interactions.
    """

    start: float
    end: float

    def at(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """S and −r dS/dr of distances."""
        width = self.end - self.start
        x = ((r - self.start) / width).clamp(0, 1)
        share = 1 - x * x * x * (10 + x * (6 * x - 15))
        return share, (30 / width) * r * (x * (1 - x)).square()


@dataclass(frozen=True, eq=False)
class ReactionField(Numbers):
    """A dielectric beyond the cutoff answers to the charges within it.

        Q r⁻¹ becomes Q (r⁻¹ + k r² − c),   k = (ε − 1)/((2ε + 1) r_c³),   c = 3ε/((2ε + 1) r_c);   exceptions stay

    Args:
        field: Q k [kJ/mol/nm²], 0 for exceptions, (pair, 1).
        shift: Q c [kJ/mol], 0 for exceptions, (pair, 1).
    Source: Tironi et al. (1995), A generalized reaction field method, without salt.
    """

    field: Tensor
    shift: Tensor

    def add(self, energies: Tensor, push: Tensor, coulomb: Tensor, r2: Tensor) -> None:
        """Add energies and −r dE/dr of charges whose Q r⁻¹ is `coulomb`, (pair, batch)."""
        field = self.field * r2
        energies.add_(coulomb).add_(field).sub_(self.shift)
        push.add_(coulomb).sub_(field, alpha=2)


@dataclass(frozen=True, eq=False)
class Screened(Numbers):
    """The part of an Ewald sum that falls off fast: each charge with a Gaussian of the other sign around it.

        Q r⁻¹ becomes Q erfc(α r) r⁻¹

    Args:
        alpha: α [1/nm].
    Source: Ewald (1921), Die Berechnung optischer und elektrostatischer Gitterpotentiale.
    """

    alpha: float

    def add(self, energies: Tensor, push: Tensor, coulomb: Tensor, r2: Tensor) -> None:
        """Add energies and −r dE/dr of charges whose Q r⁻¹ is `coulomb`, (pair, batch)."""
        far = self.alpha * r2.sqrt()
        kept = torch.erfc(far).mul_(coulomb)
        energies.add_(kept)
        push.add_(kept).addcmul_(coulomb, far.square().neg_().exp_().mul_(far), value=2 / math.sqrt(math.pi))


@dataclass(frozen=True, eq=False)
class Cutoff(Numbers):
    """Pairs beyond a distance do not see each other, but for exceptions.

    Args:
        distance: r_c [nm].
        whole: exceptions, (pair, 1).
        coulomb: what becomes of charges.
        switch: what smooths Lennard-Jones energies, but for exceptions.
    """

    distance: float
    whole: Tensor
    coulomb: ReactionField | Screened
    switch: Switch | None = None

    def smooth(self, energies: Tensor, push: Tensor, r2: Tensor) -> None:
        """Put the switch into Lennard-Jones energies and −r dE/dr of pairs."""
        if self.switch is not None:
            share, slope = self.switch.at(r2.sqrt())
            share, slope = share.masked_fill_(self.whole, 1.0), slope.masked_fill_(self.whole, 0.0)
            push.mul_(share).addcmul_(energies, slope)
            energies.mul_(share)

    def cut(self, energies: Tensor, push: Tensor, r2: Tensor) -> None:
        """Leave out what lies beyond."""
        far = (r2 > self.distance**2) & ~self.whole
        energies.masked_fill_(far, 0.0)
        push.masked_fill_(far, 0.0)


@dataclass(frozen=True, eq=False)
class Pairs(Numbers):
    """E = Σ A r⁻¹² − C r⁻⁶ + Q r⁻¹ over pairs, exceptions included, and the solvent if there is one.

    Args:
        atoms: (2, pair), every pair once.
        repulsion: A = 4 ε σ¹² [kJ nm¹²/mol], (pair, 1).
        attraction: C = 4 ε σ⁶ [kJ nm⁶/mol], (pair, 1).
        charges: Q = q_i q_j/4πε₀ [kJ nm/mol], (pair, 1).
        born: the solvent; it needs every pair, and no box.
        cutoff: what is left out; it makes nothing faster here.
        box: whose images are seen.
    """

    atoms: Tensor
    repulsion: Tensor
    attraction: Tensor
    charges: Tensor
    born: Born | None = None
    cutoff: Cutoff | None = None
    box: Box | None = None

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j = self.atoms
        d = between(x, i, j, self.box)
        r2 = d.square().sum(1)
        by_r2 = r2.reciprocal()
        sixth = by_r2 * by_r2 * by_r2
        strong, weak = self.repulsion * sixth, self.attraction
        energies = (strong - weak) * sixth
        push = (strong.mul_(12) - 6 * weak).mul_(sixth)
        coulomb = self.charges * by_r2.sqrt()
        if self.cutoff is None:
            energies.add_(coulomb)
            push.add_(coulomb)
        else:
            self.cutoff.smooth(energies, push, r2)
            self.cutoff.coulomb.add(energies, push, coulomb, r2)
            self.cutoff.cut(energies, push, r2)
        energy, push = energies.sum(0), push.mul_(by_r2)
        if self.born is not None:
            energy = energy + self.born.add(r2.sqrt(), r2, self.atoms, push)
        d *= push[:, None]
        force.index_add_(0, i, d).index_add_(0, j, d, alpha=-1)
        return energy


SURFACE = 4 * math.pi  # times the tension [kJ/mol/nm²]: c
