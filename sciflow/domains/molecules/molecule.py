"""A molecule: its atoms, where they are, its force field, and the angles that tell its conformation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sciflow.data.trajectories.frames import Residue, as_json
from sciflow.domains.molecules.force_field import ForceField
from sciflow.domains.molecules.force_field_bonded import dihedral
from sciflow.domains.molecules.force_field_openmm import force_field
from sciflow.domains.molecules.force_field_terms import Box
from sciflow.domains.molecules.images import bonds_of, check_box, check_whole, molecules_of
from sciflow.errors import InputError

if TYPE_CHECKING:
    import openmm

BOLTZMANN = 8.31446261815324e-3
"""Gas constant: kT [kJ/mol] of one kelvin."""
CLOSEST = 0.05  # two atoms nearer than this [nm] are a mistake: the shortest bond, H–H, has 0.074


class Atom(NamedTuple):
    """One atom as a topology names it."""

    name: str
    element: str
    residue: str  # with its number, as ALA2
    residue_index: int


@dataclass(frozen=True, eq=False)
class Molecule:
    """What is simulated.

    Args:
        atoms: one for each particle.
        positions: of one conformation [nm], (atom, 3), float64.
        field: its energy.
        topology: OpenMM's.
        system: OpenMM's.
    Raises:
        InputError: an energy that lacks constraints, by which samplers would move atoms.
    """

    atoms: tuple[Atom, ...]
    positions: Tensor
    field: ForceField
    topology: openmm.app.Topology
    system: openmm.System

    def __post_init__(self) -> None:
        if self.field.n_constraints:
            raise InputError(
                f"the force field lacks {self.field.n_constraints} constraints of its System (energies_only=True), and "
                "a molecule's atoms are moved by its forces. Make the System with constraints=None, rigidWater=False."
            )

    @cached_property
    def bonds(self) -> Tensor:
        """Atoms of each bond with an energy, (2, bond)."""
        return bonds_of(self.field)

    @cached_property
    def molecules(self) -> Tensor:
        """Number of the molecule of each atom, (atom,): bonds join those of one."""
        return molecules_of(self.bonds, len(self.atoms))

    @cached_property
    def told(self) -> str:
        """The topology as text, for files: mdtraj's JSON."""

        def residue(found: openmm.app.topology.Residue) -> Residue:
            atoms = [(atom.index, atom.name, atom.element.symbol if atom.element else "") for atom in found.atoms()]
            digits = found.id.lstrip("-").isdigit()
            return Residue(found.name, int(found.id) if digits else found.index + 1, "", atoms)

        chains = [map(residue, chain.residues()) for chain in self.topology.chains()]
        return as_json(chains, [(a.index, b.index) for a, b in self.topology.bonds()])

    def _named(self, residue: int, name: str) -> int | None:
        return self._index.get((residue, name))

    @cached_property
    def _index(self) -> dict[tuple[int, str], int]:
        return {(atom.residue_index, atom.name): k for k, atom in enumerate(self.atoms)}

    def _quadruples(self, pattern: Sequence[tuple[int, str]]) -> Tensor:
        """Atoms (4, angle) of each run of residues that has them all."""
        n = 1 + max(atom.residue_index for atom in self.atoms)
        found = []
        for residue in range(n):
            atoms = [self._named(residue + shift, name) for shift, name in pattern]
            if None not in atoms:
                found.append(atoms)
        return torch.tensor(found, dtype=torch.long).reshape(-1, 4).T

    @cached_property
    def phi(self) -> Tensor:
        """Atoms C N CA C of each φ, (4, angle)."""
        return self._quadruples([(-1, "C"), (0, "N"), (0, "CA"), (0, "C")])

    @cached_property
    def psi(self) -> Tensor:
        """Atoms N CA C N of each ψ."""
        return self._quadruples([(0, "N"), (0, "CA"), (0, "C"), (1, "N")])

    @cached_property
    def omega(self) -> Tensor:
        """Carbon before C, C, N, and the carbon after N, of each peptide bond; caps count."""
        ways = itertools.product(("CA", "CH3"), ("CA", "C", "CH3"))
        parts = [self._quadruples([(-1, a), (-1, "C"), (0, "N"), (0, b)]) for a, b in ways]
        columns = {tuple(column[1:3].tolist()): column for part in reversed(parts) for column in part.T}
        return torch.stack(list(columns.values()), 1) if columns else torch.zeros(4, 0, dtype=torch.long)

    def angles(self, x: Tensor, atoms: Tensor) -> Tensor:
        """Dihedral angles [rad] of positions (…, atom, 3), (…, angle)."""
        return dihedral(*(x[..., row, :] for row in atoms))

    def cis(self, x: Tensor) -> Tensor:
        """Which peptide bonds are cis, |ω| < 90°, (…, bond)."""
        return self.angles(x, self.omega).cos() > 0

    def handedness(self, x: Tensor) -> Tensor:
        """Signed volume (N−CA × C−CA)·(CB−CA) [nm³] of each residue with a CB, positive for L, (…, residue)."""
        atoms = self._quadruples([(0, "CA"), (0, "N"), (0, "C"), (0, "CB")])
        centre, n, c, b = (x[..., row, :] for row in atoms)
        return (torch.linalg.cross(n - centre, c - centre) * (b - centre)).sum(-1)


def radius_of_gyration(x: Tensor) -> Tensor:
    """√(mean of |x_i − centre|²), all atoms of one weight, (…, atom, 3) → (…)."""
    return (x - x.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()


def molecule_of(topology: openmm.app.Topology, system: openmm.System, positions: Tensor) -> Molecule:
    """A molecule of OpenMM's topology and System.

    Raises:
        InputError: numbers of atoms that differ, atoms that overlap, or forces that are not known; of a periodic box,
            one that is not that of the topology, or a molecule that is not whole.
    """
    atoms = tuple(
        Atom(atom.name, atom.element.symbol if atom.element else "", f"{atom.residue.name}{atom.residue.id}",
             atom.residue.index) for atom in topology.atoms()
    )  # fmt: skip
    counts = {"topology": len(atoms), "System": system.getNumParticles(), "positions": len(positions)}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"the numbers of atoms differ: {told}. Make the System from this topology.")
    field = force_field(system)
    check_box(field.box, topology.getPeriodicBoxVectors())
    check_apart(positions, atoms, box=field.box)
    check_whole(positions[None], bonds_of(field), field.box, atoms)
    return Molecule(atoms, positions.double(), field, topology, system)


def check_apart(positions: Tensor, atoms: Sequence[Atom], where: str = "", box: Box | None = None) -> None:
    """Raise InputError where two atoms overlap, with the nearest two, or a position is not finite."""
    if not bool(positions.isfinite().all()):
        raise InputError(f"{where}a position is not a finite number. Mend the file.")
    i, j = torch.triu_indices(len(positions), len(positions), 1)
    d = positions[i] - positions[j]
    distances = (d if box is None else box.nearest(d.double()[..., None])[..., 0]).norm(dim=1)
    if len(distances) and float(distances.min()) < CLOSEST:
        k = int(distances.argmin())
        a, b = (f"{atoms[int(row[k])].name} of {atoms[int(row[k])].residue}" for row in (i, j))
        raise InputError(
            f"{where}atoms overlap: {a} and {b} are {float(distances[k]):.4f} nm apart. Check the units (nm), or "
            "minimise."
        )
