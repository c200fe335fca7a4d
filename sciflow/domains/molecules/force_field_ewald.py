"""The Ewald sum: Coulomb energies of charges and of all their images in a periodic box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.domains.molecules.force_field_terms import LARGEST, Box, Numbers, between
from sciflow.errors import InputError

ENOUGH = 5.0
"""Waves up to |k| = 10 α are summed. What is left out is that share erfc(5) = 1.5·10⁻¹² of the self energy which lies
beyond, if charges were at random: 10⁻⁷ kJ/mol of a thousand atoms of water."""


def separation(cutoff: float, tolerance: float) -> float:
    """α = √(−log 2δ)/r_c [1/nm]: what a cutoff r_c [nm] leaves out of erfc is about the share δ of a force.

    Raises:
        InputError: a tolerance that is not between 0 and ½.
    Source: Eastman et al., OpenMM User Guide, section on Coulomb interactions with Ewald summation.
    """
    if not 0 < tolerance < 0.5:
        raise InputError(f"NonbondedForce has an Ewald error tolerance of {tolerance}. Set one between 0 and 0.5.")
    return math.sqrt(-math.log(2 * tolerance)) / cutoff


def check_waves(box: Box, alpha: float, n_atoms: int) -> None:
    """Hold the number of waves against what can be held, before one is made.

    Half of a ball of the radius K = 10 α holds K³V/12π² waves; `waves` picks them out of the whole numbers of a cuboid.

    Raises:
        InputError: an array of waves of atoms, or of the cuboid's three coordinates, would be above the bound.
    """
    longest = 2 * ENOUGH * alpha
    n = longest * longest * longest * box.volume / (12 * math.pi**2)
    cuboid = math.prod(1 + longest * float(length) / math.pi for length in box.vectors.norm(dim=1))
    if not max(n * n_atoms, 3 * cuboid) <= LARGEST:
        raise InputError(
            f"the Ewald sum has {n:.3g} waves for {n_atoms} atoms, which are found among {cuboid:.3g}: arrays of waves "
            f"of atoms, or of these, would hold more than {LARGEST} numbers (1 GB). Take a longer cutoff, a larger "
            "ewaldErrorTolerance, a smaller α of PME where it is set, a smaller box, or fewer atoms."
        )


def waves(box: Box, alpha: float) -> Tensor:
    """Integers n of all waves k = 2π H⁻¹ n with 0 < |k| ≤ 10 α, one of k and −k, (wave, 3), float64."""
    longest = 2 * ENOUGH * alpha
    reach = [int(longest * float(length) / (2 * math.pi)) for length in box.vectors.norm(dim=1)]
    n = torch.cartesian_prod(*(torch.arange(-end, end + 1, dtype=torch.float64) for end in reach))
    a, b, c = n.T
    is_half = (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))  # of k and −k the one
    return n[is_half & (wave_vectors(n, box).norm(dim=1) <= longest)]


def wave_vectors(n: Tensor, box: Box) -> Tensor:
    """k [1/nm] of integers (wave, 3): k·a = 2π n_a, and so on."""
    return 2 * math.pi * n @ torch.linalg.inv(box.vectors).T


@dataclass(frozen=True, eq=False)
class Reciprocal(Numbers):
    """The smooth part of an Ewald sum: Gaussians of charge and all their images.

        E = Σ_k w_k |Σ_j q_j e^{ik·x_j}|² + own,   w_k = 4π/(4πε₀ V) e^{−k²/4α²}/k² for k and −k together
        own = −α/(√π 4πε₀) Σ q² − π/(2 V α² 4πε₀) (Σ q)²

    own takes away what each charge does to itself, and puts a background under a net charge, so that it is neutral.

    Args:
        charge: q [e], (atom, 1).
        box: that is repeated.
        n: integers of the waves, (wave, 3).
        weight: w [kJ/mol/e²], (wave, 1).
        own: [kJ/mol], ().
    Source: Ewald (1921); de Leeuw, Perram and Smith (1980), Simulation of electrostatic systems in periodic boundary
        conditions I, with a conductor around; background: Hummer, Pratt and García (1996).
    """

    charge: Tensor
    box: Box
    n: Tensor
    weight: Tensor
    own: Tensor

    @classmethod
    def of(cls, charge: Tensor, box: Box, alpha: float, coulomb: float) -> Reciprocal:
        """Of charges (atom, 1), α [1/nm] and 1/4πε₀ [kJ nm/mol/e²].

        Raises:
            InputError: more waves than can be held.
        """
        check_waves(box, alpha, len(charge))
        n = waves(box, alpha)
        k2 = wave_vectors(n, box).square().sum(1, keepdim=True)
        weight = (4 * math.pi * coulomb / box.volume) * torch.exp(-k2 / (4 * alpha**2)) / k2
        alone, net = charge.square().sum(), charge.sum().square()
        own = -coulomb * (alpha / math.sqrt(math.pi) * alone + math.pi / (2 * box.volume * alpha**2) * net)
        return cls(charge, box, n, weight, own)

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        phase = torch.einsum("kc,ncb->knb", 2 * math.pi * self.n, self.box.fractional(x))
        cos, sin = phase.cos(), phase.sin_()
        real, imaginary = (torch.einsum("knb,n->kb", part, self.charge[:, 0]) for part in (cos, sin))
        energy = (self.weight * (real.square() + imaginary.square())).sum(0) + self.own
        turned = sin.mul_((2 * self.weight * real)[:, None]).sub_(cos.mul_((2 * self.weight * imaginary)[:, None]))
        force += self.charge[:, None] * torch.einsum("kc,knb->ncb", wave_vectors(self.n, self.box), turned)
        return energy


@dataclass(frozen=True, eq=False)
class Excluded(Numbers):
    """What waves hold of pairs that do not see each other, taken away again.

        E = −Σ Q erf(α r) r⁻¹

    Args:
        atoms: (2, pair).
        charges: Q = q_i q_j/4πε₀ of the atoms' own charges [kJ nm/mol], (pair, 1).
        alpha: α [1/nm].
        box: whose images are seen; None where atoms of a pair are bonded and lie side by side.
    Source: Essmann et al. (1995), A smooth particle mesh Ewald method, eq. 2.5.
    """

    atoms: Tensor
    charges: Tensor
    alpha: float
    box: Box | None = None

    def add(self, x: Tensor, force: Tensor) -> Tensor:
        i, j = self.atoms
        d = between(x, i, j, self.box)
        r2 = d.square().sum(1)
        by_r = r2.rsqrt()
        far, coulomb = self.alpha * r2.sqrt(), self.charges * by_r
        energies = torch.erf(far) * coulomb
        slope = 2 / math.sqrt(math.pi) * coulomb * far * torch.exp(-far.square())
        d *= ((slope - energies) * by_r.square())[:, None]
        force.index_add_(0, i, d).index_add_(0, j, d, alpha=-1)
        return -energies.sum(0)
