"""What OpenMM's NonbondedForce says, in torch: all pairs, a cutoff, or the images of a periodic box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciflow.domains.molecules.force_field import ROWS
from sciflow.domains.molecules.force_field_ewald import Excluded, Reciprocal, separation
from sciflow.domains.molecules.force_field_nonbonded import Born, Cutoff, Pairs, ReactionField, Screened, Switch
from sciflow.domains.molecules.force_field_terms import LARGEST, Box, Constant, Term
from sciflow.errors import InputError

if TYPE_CHECKING:
    import openmm

COULOMB = 138.93545764438198  # 1/4πε₀ [kJ nm/mol/e²], CODATA 2018, as OpenMM has it
NO_CUTOFF, CUTOFF, CUTOFF_PERIODIC, EWALD, PME, LJPME = range(6)  # as OpenMM numbers the methods
NODES = 64
"""Of Gauss and Legendre, for ∫ r² (1 − S) E(r) dr over the switch: its closed form loses digits where the switch is
narrow; with r_s ≥ r_c/10 the quadrature's error is 10⁻³⁰ of it, and less than rounding."""
AT_ONCE = 1 << 20
"""Pairs, or waves of atoms, of all rows of a periodic batch that are worked on at once: 8 MB of numbers, 24 of vectors;
one row alone where it has more, up to `LARGEST`."""
LEAST_SWITCH = 0.1  # of the cutoff: below it the quadrature of `NODES` is not good enough, and at 0 there is no mean
GRID = 1e-7  # tolerance of the grid on which OpenMM's PME is compared


@dataclass(frozen=True, eq=False)
class Parameters:
    """Pairs with their strengths, and which of them are exceptions.

    Args:
        atoms: i < j, (2, pair).
        size, well, product: σ [nm], ε [kJ/mol] and q_i q_j [e²] of each pair, (pair,).
        own: q_i q_j of the atoms' own charges, whatever an exception says [e²], (pair,).
        whole: exceptions, (pair,).
    """

    atoms: np.ndarray
    size: np.ndarray
    well: np.ndarray
    product: np.ndarray
    own: np.ndarray
    whole: np.ndarray

    def pairs(self, rows: np.ndarray, born: Born | None = None, cutoff: Cutoff | None = None, box: Box | None = None,
              ) -> Pairs:  # fmt: skip
        """Some of the pairs as a term."""
        size, well, product = self.size[rows], self.well[rows], self.product[rows]
        values = (4 * well * size**12, 4 * well * size**6, COULOMB * product)
        repulsion, attraction, charges = (torch.from_numpy(value)[:, None] for value in values)
        return Pairs(torch.from_numpy(self.atoms[:, rows]), repulsion, attraction, charges, born, cutoff, box)


def nonbonded(force: Any, born: Born | None, box: Box | None, n: int) -> list[Term]:
    """Terms of a NonbondedForce, or of none, and of the solvent, between n atoms.

    Raises:
        InputError: something in it is not known here.
    """
    method = NO_CUTOFF if force is None else force.getNonbondedMethod()
    if force is not None:
        _check(force, method)
    _check_pairs(n)
    atoms, found = _atoms(force, n), _parameters(force, n)
    if method in (NO_CUTOFF, CUTOFF):
        every = np.arange(len(found.whole))
        cutoff = _cutoff(force, found, every) if method == CUTOFF else None
        return [found.pairs(every, born, cutoff)]
    assert box is not None
    _check_width(force, box)
    free, exceptions = np.flatnonzero(~found.whole), np.flatnonzero(found.whole)
    around = box if force.getExceptionsUsePeriodicBoundaryConditions() else None
    terms: list[Term] = [found.pairs(free, None, _cutoff(force, found, free), box)]
    felt = exceptions[(found.product[exceptions] != 0) | (found.well[exceptions] != 0)]
    if len(felt):
        terms.append(found.pairs(felt, box=around))
    if method in (EWALD, PME):
        terms += _waves(force, found, exceptions, atoms[0], box, around)
    if force.getUseDispersionCorrection():
        switch = _switch(force)
        if switch is not None and switch.start < LEAST_SWITCH * switch.end:
            raise InputError(
                f"NonbondedForce has a switching distance of {switch.start} nm, less than a tenth of its cutoff of "
                f"{switch.end} nm, and a dispersion correction, which would be of pairs that overlap. Switch later, or "
                "call setUseDispersionCorrection(False)."
            )
        mean = dispersion(atoms[1], atoms[2], switch, force, box.volume)
        terms.append(Constant(torch.tensor(mean, dtype=torch.float64)))
    return terms


def _check(force: Any, method: int) -> None:
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise InputError("NonbondedForce has parameters that depend on a global one. Make a System without offsets.")
    if method == LJPME:
        raise InputError(
            "NonbondedForce has the method LJPME, an Ewald sum of Lennard-Jones energies. Make the System with "
            "nonbondedMethod=PME."
        )
    if not force.getIncludeDirectSpace():
        raise InputError("NonbondedForce leaves out the direct space. Call setIncludeDirectSpace(True).")
    distance = force.getCutoffDistance()._value
    if method != NO_CUTOFF and not 0 < distance < math.inf:
        raise InputError(f"NonbondedForce has a cutoff of {distance} nm, which must be positive. Set one, e.g. 1 nm.")


def _check_pairs(n: int) -> None:
    if n * (n - 1) // 2 > LARGEST:
        raise InputError(
            f"the System has {n} atoms and {n * (n - 1) // 2} pairs, more than {LARGEST}: there is no list of "
            "neighbours, and each array of them would take more than 1 GB. Take a smaller box, with fewer atoms."
        )


def _check_width(force: Any, box: Box) -> None:
    distance = force.getCutoffDistance()._value
    if distance > box.width / 2:
        raise InputError(
            f"NonbondedForce has a cutoff of {distance} nm, more than half of the box, whose least width is "
            f"{box.width:.6g} nm: an atom would see two images of another one. Take a shorter cutoff or a wider box."
        )


def _atoms(force: Any, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q [e], σ [nm], ε [kJ/mol] of each atom; 0 without a force."""
    if force is None:
        return np.zeros(n), np.zeros(n), np.zeros(n)
    rows = np.array([[value._value for value in force.getParticleParameters(i)] for i in range(n)])
    charge, size, well = rows.reshape(n, 3).T
    return charge, size, well


def _parameters(force: Any, n: int) -> Parameters:
    """Of every pair; exceptions replace what the atoms say."""
    charge, sigma, depth = _atoms(force, n)
    i, j = np.triu_indices(n, 1)
    size, well, product = (sigma[i] + sigma[j]) / 2, np.sqrt(depth[i] * depth[j]), charge[i] * charge[j]
    own, whole = product.copy(), np.zeros(len(i), dtype=bool)
    for k in range(force.getNumExceptions() if force is not None else 0):
        a, b, *values = force.getExceptionParameters(k)
        low, high = min(a, b), max(a, b)
        place = low * (2 * n - low - 1) // 2 + high - low - 1  # of the pair in the upper triangle, row by row
        product[place], size[place], well[place] = (value._value for value in values)
        whole[place] = True
    return Parameters(np.stack([i, j]), size, well, product, own, whole)


def _cutoff(force: Any, found: Parameters, rows: np.ndarray) -> Cutoff:
    """Of some pairs."""
    distance, whole = force.getCutoffDistance()._value, torch.from_numpy(found.whole[rows])[:, None]
    if force.getNonbondedMethod() in (EWALD, PME):
        return Cutoff(distance, whole, Screened(_alpha(force)), _switch(force))
    dielectric = force.getReactionFieldDielectric()
    if not dielectric > 0:
        raise InputError(f"NonbondedForce has a reaction field of dielectric {dielectric}. Set one above 0, e.g. 78.3.")
    normal = torch.from_numpy(COULOMB * found.product[rows])[:, None].masked_fill(whole, 0.0)
    field = normal * (dielectric - 1) / ((2 * dielectric + 1) * distance**3)
    shift = normal * 3 * dielectric / ((2 * dielectric + 1) * distance)
    return Cutoff(distance, whole, ReactionField(field, shift), _switch(force))


def _switch(force: Any) -> Switch | None:
    start, end = force.getSwitchingDistance()._value, force.getCutoffDistance()._value
    if not force.getUseSwitchingFunction():
        return None
    if not 0 <= start < end:
        raise InputError(
            f"NonbondedForce has a switching distance of {start} nm and a cutoff of {end} nm. Switch before the cutoff."
        )
    return Switch(start, end)


def _alpha(force: Any) -> float:
    """α [1/nm] of an Ewald sum: of PME's own parameters if they are set, else of the tolerance."""
    told = force.getPMEParameters()[0]
    told = float(getattr(told, "_value", told))
    if force.getNonbondedMethod() == PME and told > 0:
        return told
    return separation(force.getCutoffDistance()._value, force.getEwaldErrorTolerance())


def _waves(
    force: Any, found: Parameters, exceptions: np.ndarray, charge: np.ndarray, box: Box, around: Box | None
) -> list[Term]:
    """The smooth part of an Ewald sum, and what it holds of exceptions."""
    alpha, own = _alpha(force), found.own[exceptions]
    terms: list[Term] = [Reciprocal.of(torch.from_numpy(charge.copy())[:, None], box, alpha, COULOMB)]
    if own.any():
        held = exceptions[own != 0]
        charges = torch.from_numpy(COULOMB * found.own[held])[:, None]
        terms.append(Excluded(torch.from_numpy(found.atoms[:, held]), charges, alpha, around))
    return terms


def dispersion(size: np.ndarray, well: np.ndarray, switch: Switch | None, force: Any, volume: float) -> float:
    """What Lennard-Jones energies beyond the cutoff and in the switch amount to on average [kJ/mol].

        E = (8π N²/V) (⟨ε σ¹²⟩ (1/9 r_c⁹ + J₁₂) − ⟨ε σ⁶⟩ (1/3 r_c³ + J₆)),   J_n = ∫ (1 − S) r^{2−n} dr over the switch
        ⟨…⟩ over all N (N + 1)/2 pairs, of an atom with itself too, and exceptions as if they were none

    Source: Shirts, Mobley, Chodera and Pande (2007), Accurate and efficient corrections for missing dispersion
        interactions in molecular simulations; the mean as in the OpenMM User Guide.
    """
    n, cutoff = len(size), force.getCutoffDistance()._value
    kinds, counts = np.unique(np.stack([size, well]), axis=1, return_counts=True)
    pairs = np.outer(counts, counts) / 2 + np.diag(counts / 2)
    sigma, epsilon = (kinds[0][:, None] + kinds[0]) / 2, np.sqrt(np.outer(kinds[1], kinds[1]))
    means = [float((pairs * epsilon * sigma**power).sum()) / (n * (n + 1) / 2) for power in (12, 6)]
    tails = [1 / ((power - 3) * cutoff ** (power - 3)) for power in (12, 6)]
    if switch is not None:
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        r = (switch.start + switch.end) / 2 + (switch.end - switch.start) / 2 * nodes
        lost = (1 - switch.at(torch.from_numpy(r))[0].numpy()) * weights * (switch.end - switch.start) / 2
        tails = [tail + float((lost * r ** (2 - power)).sum()) for tail, power in zip(tails, (12, 6), strict=True)]
    return 8 * math.pi * n**2 / volume * (means[0] * tails[0] - means[1] * tails[1])


def rows_at_once(terms: Sequence[Term], box: Box | None) -> int:
    """How many conformations are worked on at once: fewer of a large periodic box, for the sake of memory."""
    if box is None:
        return ROWS
    sizes = [term.atoms.shape[1] if isinstance(term, Pairs) else len(term.n) * len(term.charge)
             for term in terms if isinstance(term, Pairs | Reciprocal)]  # fmt: skip
    return max(1, min(ROWS, AT_ONCE // max(sizes, default=1)))


def converged(system: openmm.System) -> openmm.System:
    """A copy whose Ewald sum OpenMM does by PME at the same α on a fine grid; the System itself if it has none.

    The grid is that of the tolerance 10⁻⁷, n = 2 α L/(3 δ^{1/5}), by which OpenMM means the error of the smooth part.

    Source: Eastman et al., OpenMM User Guide, section on Coulomb interactions with particle mesh Ewald.
    """
    import openmm

    copy = openmm.XmlSerializer.clone(system)
    for force in copy.getForces():
        if not isinstance(force, openmm.NonbondedForce) or force.getNonbondedMethod() not in (EWALD, PME):
            continue
        alpha, lengths = (
            _alpha(force),
            [vector._value[k] for k, vector in enumerate(copy.getDefaultPeriodicBoxVectors())],
        )
        force.setNonbondedMethod(PME)
        force.setPMEParameters(alpha, *(math.ceil(2 * alpha * length / (3 * GRID**0.2)) for length in lengths))
        return copy
    return system
