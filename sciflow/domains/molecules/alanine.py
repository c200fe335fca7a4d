"""Alanine dipeptide, built from bond lengths and angles, without a file."""

from __future__ import annotations

import functools
import math
import random
from typing import Any

import torch
from torch import Tensor

from sciflow.domains.molecules.force_field_openmm import need_openmm
from sciflow.domains.molecules.molecule import Molecule, molecule_of
from sciflow.errors import InputError

FORCE_FIELDS = {
    "ff96_obc1": ("amber96.xml", "implicit/obc1.xml"),
    "ff99sbildn_obc2": ("amber99sbildn.xml", "amber99_obc.xml"),
    "amber14_obc1": ("amber14-all.xml", "implicit/obc1.xml"),
}
"""Name → files that OpenMM brings along."""
Row = tuple[str, str, str, tuple[int, ...], float, float, float | str]
ATOMS: tuple[Row, ...] = (  # residue, atom, element, (bonded to, angle, dihedral with), Å, °, ° or the angle's name
    ("ACE", "CH3", "C", (), 0.0, 0.0, 0.0),
    ("ACE", "C", "C", (0,), 1.52, 0.0, 0.0),
    ("ACE", "O", "O", (1, 0), 1.23, 120.4, 0.0),
    ("ALA", "N", "N", (1, 0, 2), 1.335, 116.6, 180.0),
    ("ALA", "CA", "C", (3, 1, 0), 1.45, 121.9, 180.0),
    ("ALA", "CB", "C", (4, 3, 1), 1.53, 109.7, "side"),
    ("ALA", "C", "C", (4, 3, 1), 1.52, 110.5, "phi"),
    ("ALA", "O", "O", (6, 4, 3), 1.23, 120.4, "oxygen"),
    ("NME", "N", "N", (6, 4, 3), 1.335, 116.6, "psi"),
    ("NME", "C", "C", (8, 6, 4), 1.45, 121.9, 180.0),
)
"""Rounded values of peptides: the minimiser settles the rest."""
TOLERANCE = 0.1  # root mean square force at which the minimiser stops [kJ/mol/nm]


def placed(bonded: Tensor, at: Tensor, about: Tensor, length: float, angle: float, dihedral: float) -> Tensor:
    """The atom at a distance from `bonded`, an angle with `at` and a dihedral angle with `about` [rad]."""
    axis = (bonded - at) / (bonded - at).norm()
    normal = torch.linalg.cross(at - about, axis)
    normal = normal / normal.norm()
    across = torch.linalg.cross(normal, axis)
    sine = math.sin(angle)
    return bonded + length * (
        -math.cos(angle) * axis + sine * math.cos(dihedral) * across + sine * math.sin(dihedral) * normal
    )


def heavy_atoms(phi: float, psi: float) -> Tensor:
    """Positions of the ten heavy atoms [nm], L form, trans, (10, 3); angles in degrees."""
    named = {"phi": phi, "psi": psi, "side": phi - 120.0, "oxygen": psi + 180.0}
    found: list[Tensor] = []
    start = torch.tensor([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
    for _, _, _, frame, length, angle, dihedral in ATOMS:
        if not frame:
            found.append(start[0])
            continue
        bonded, at, about = *(found[k] for k in frame), *start[len(frame) :].unbind()
        turn = named[dihedral] if isinstance(dihedral, str) else dihedral
        found.append(placed(bonded, at, about, 0.1 * length, math.radians(angle), math.radians(turn)))
    return torch.stack(found)


@functools.cache
def alanine_dipeptide(force_field: str = "ff96_obc1", phi: float = -80.0, psi: float = 80.0) -> Molecule:
    """ACE-ALA-NME with hydrogens, at the minimum of the energy next to a conformation.

    Args:
        force_field: one of FORCE_FIELDS.
        phi, psi: where the minimiser starts [°].

    Raises:
        InputError: another force field, OpenMM is not installed, or the result is not the L form with trans bonds.
    """
    if force_field not in FORCE_FIELDS:
        raise InputError(f"force_field must be one of {sorted(FORCE_FIELDS)}, got {force_field!r}.")
    openmm = need_openmm()
    from openmm import app

    field = app.ForceField(*FORCE_FIELDS[force_field])
    reference = openmm.Platform.getPlatformByName("Reference")
    modeller = app.Modeller(_topology(app), heavy_atoms(phi, psi).numpy() * openmm.unit.nanometer)
    state = random.getstate()
    random.seed(0)  # hydrogens are first put at random
    try:
        modeller.addHydrogens(field, platform=reference)
    finally:
        random.setstate(state)
    system = field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), reference)
    context.setPositions(modeller.positions)
    openmm.LocalEnergyMinimizer.minimize(context, TOLERANCE)
    found = context.getState(getPositions=True).getPositions(asNumpy=True)._value
    molecule = molecule_of(modeller.topology, system, torch.from_numpy(found.copy()))
    check_form(molecule)
    return molecule


def _topology(app: Any) -> Any:
    """The heavy atoms with their bonds."""
    topology = app.Topology()
    chain, residues = topology.addChain(), {}
    for residue, name, element, *_ in ATOMS:
        if residue not in residues:
            residues[residue] = topology.addResidue(residue, chain)
        topology.addAtom(name, app.Element.getBySymbol(element), residues[residue])
    topology.createStandardBonds()
    return topology


def check_form(molecule: Molecule) -> None:
    """Raise InputError unless a molecule has the L form and trans peptide bonds."""
    x = molecule.positions[None]
    handed, cis = molecule.handedness(x), molecule.cis(x)
    if not bool((handed > 0).all()) or bool(cis.any()):
        raise InputError(
            f"the built molecule has handedness {handed[0].tolist()} (L is positive) and cis bonds {cis[0].tolist()}. "
            "Start from another conformation."
        )
