"""Molecules that a run file can name: alanine dipeptide, and one of the user's own from PDB and XML."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from sciflow.data.store import sha256
from sciflow.domains.molecules.alanine import FORCE_FIELDS, alanine_dipeptide
from sciflow.domains.molecules.force_field_openmm import check_against_openmm, need_openmm
from sciflow.domains.molecules.images import mean_distance
from sciflow.domains.molecules.molecule import BOLTZMANN, Molecule, molecule_of, radius_of_gyration
from sciflow.domains.molecules.potential import Potential
from sciflow.errors import InputError

Positive = Annotated[float, Field(gt=0)]
LEAST = {"phi": -240.0, "psi": -120.0}
"""Where the circle is cut [°]: few peptides have φ near 120° or ψ near −120°."""


@runtime_checkable
class MolecularSystem(Potential, Protocol):
    """A potential of a molecule, in kJ/mol and nm, at a temperature in kelvin."""

    @property
    def kelvin(self) -> float: ...

    @property
    def molecule(self) -> Molecule: ...


class _OfMolecule:
    """What every molecule offers as a potential."""

    kelvin: float
    molecule: Molecule

    @property
    def temperature(self) -> float:
        """kT [kJ/mol]."""
        return BOLTZMANN * self.kelvin

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.molecule.atoms), 3

    @property
    def cover(self) -> tuple[float, float]:
        """Spread of the atoms of one conformation: a scale, and not a law from which chains could start."""
        return 0.0, float(self.molecule.positions.std())

    def energy(self, x: Tensor) -> Tensor:
        return self.molecule.field.energy(x)

    def log_partition(self) -> None:
        return None

    def observables(self, x: Tensor) -> dict[str, Tensor]:
        """φ and ψ of each residue [°], cut where they are rare, and the radius of gyration [nm].

        In a periodic box that of the first of the largest molecules: which images of the others are meant is not said.
        Of atoms without bonds the mean distance of nearest images [nm].
        """
        found = {}
        for name, atoms in (("phi", self.molecule.phi), ("psi", self.molecule.psi)):
            angles = self.molecule.angles(x, atoms).rad2deg()
            for k, column in enumerate((angles - LEAST[name]).remainder(360).add(LEAST[name]).unbind(-1)):
                found[f"{name} of {self.molecule.atoms[int(atoms[1 if name == 'phi' else 0, k])].residue} [°]"] = column
        molecule, box = self.molecule, self.molecule.field.box
        if box is None:
            found["radius of gyration [nm]"] = radius_of_gyration(x)
        elif molecule.bonds.shape[1]:
            chosen = molecule.molecules == molecule.molecules.bincount().argmax()
            found["radius of gyration of the largest molecule [nm]"] = radius_of_gyration(x[..., chosen, :])
        else:
            found["mean distance [nm]"] = mean_distance(x, box)
        return found


@dataclass(frozen=True)
class AlanineDipeptide(_OfMolecule):
    """Alanine dipeptide, ACE-ALA-NME, of 22 atoms in a solvent as a continuum.

        U: bonds, angles, torsions, Lennard-Jones, Coulomb without cutoff, generalised Born solvent

    Exactness: OpenMM's Reference platform but for rounding: 10⁻¹² kJ/mol in float64, 10⁻³ in float32
    Cost: 231 pairs; 25 µs of one core for an energy with its force in float32
    Bias: none; mirror images are another molecule that no chain reaches, cis bonds are hardly ever crossed
    Args:
        force_field: ff96_obc1, ff99sbildn_obc2 or amber14_obc1.
        kelvin: temperature [K].
    Raises:
        InputError: another force field.
    Source: OpenMM's files amber96, amber99sbildn, amber14-all with OBC1, OBC2, OBC1.
    """

    force_field: str = "ff96_obc1"
    kelvin: Positive = 300.0

    def __post_init__(self) -> None:
        if self.force_field not in FORCE_FIELDS:
            raise InputError(f"force_field must be one of {sorted(FORCE_FIELDS)}, got {self.force_field!r}.")

    @property
    def molecule(self) -> Molecule:  # type: ignore[override]
        return alanine_dipeptide(self.force_field)


@dataclass(frozen=True)
class OpenMMSystem(_OfMolecule):
    """A molecule of your own: a PDB file and the System that OpenMM made of it, written as XML.

        U: bonds, angles, torsions, maps of two torsions, Lennard-Jones, Coulomb, generalised Born solvent or a
        periodic box with reaction field, Ewald or PME

    Exactness: compared with OpenMM at the conformation of the PDB file when it is opened; refused if it differs
    Cost: O(atoms²), of a box too: there is no list of neighbours
    Bias: none
    Args:
        pdb: atoms and one conformation, with hydrogens.
        system: XML of `openmm.XmlSerializer.serialize(system)`, without constraints.
        kelvin: temperature [K].
    Source: Eastman et al. (2024), OpenMM 8.
    """

    pdb: str = ""
    system: str = ""
    kelvin: Positive = 300.0

    @property
    def molecule(self) -> Molecule:  # type: ignore[override]
        for key, path in (("pdb", self.pdb), ("system", self.system)):
            if not Path(path).is_file():
                raise InputError(f"molecule.{key}: there is no file {path!r}. Paths start at the working directory.")
        return opened(self.pdb, self.system, sha256(Path(self.pdb)), sha256(Path(self.system)))


@functools.lru_cache(maxsize=8)
def opened(pdb: str, system: str, pdb_digest: str, system_digest: str) -> Molecule:
    """The molecule of two files; the digests tell whether they have changed.

    Raises:
        InputError: a file that OpenMM cannot read, or a System that is not known here.
    """
    openmm = need_openmm()
    from openmm import app

    try:
        file = app.PDBFile(pdb)
        positions = torch.from_numpy(file.getPositions(asNumpy=True)._value.copy())
    except Exception as error:
        raise InputError(f"{pdb} cannot be read as PDB ({_first_line(error)}). Give atoms with positions.") from error
    try:
        read = openmm.XmlSerializer.deserialize(Path(system).read_text(encoding="utf-8"))
    except Exception as error:
        raise InputError(
            f"{system} is no System of OpenMM ({_first_line(error)}). Write it with openmm.XmlSerializer.serialize."
        ) from error
    if not isinstance(read, openmm.System):
        raise InputError(f"{system} holds a {type(read).__name__} and no System. Serialise the System.")
    try:
        molecule = molecule_of(file.topology, read, positions)
        check_against_openmm(read, molecule.field, molecule.positions[None])
    except InputError as error:
        raise InputError(f"{pdb}, {system}: {error}") from error
    return molecule


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


MOLECULES: dict[str, type] = {"alanine_dipeptide": AlanineDipeptide, "openmm_system": OpenMMSystem}
