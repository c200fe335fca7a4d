"""Force fields from OpenMM: what a System says, in torch, and what OpenMM itself finds, to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciflow.domains.molecules.force_field import ForceField
from sciflow.domains.molecules.force_field_bonded import Angles, Bonds, Maps, Term, Torsions, knots
from sciflow.domains.molecules.force_field_nonbonded import SURFACE, Born, Cutoff, Pairs, Switch
from sciflow.domains.molecules.force_field_solvent import custom_born, reach
from sciflow.errors import InputError

if TYPE_CHECKING:
    import openmm

COULOMB = 138.93545764438198  # 1/4πε₀ [kJ nm/mol/e²], CODATA 2018, as OpenMM has it
WITHOUT_ENERGY = ("CMMotionRemover",)
OBC2 = (1.0, 0.8, 4.85)
OFFSET = 0.009  # of the Born radii [nm]


def need_openmm() -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import openmm
    except ImportError:
        raise InputError("force fields need OpenMM. Install the extra: pip install 'sciflow[molecule]'.") from None
    return openmm


def force_field(system: openmm.System) -> ForceField:
    """The energy of an OpenMM System, in torch.

    Raises:
        InputError: the System holds something that is not known here, by its name; constraints, virtual sites or
            periodic images.
    """
    n = system.getNumParticles()
    _check_particles(system)
    found: dict[str, Any] = {}
    for force in system.getForces():
        name = type(force).__name__ if type(force).__name__ in READERS else _class_of(force)
        if name in WITHOUT_ENERGY:
            continue
        if name not in READERS:
            raise InputError(
                f"the System has a {name}, known are {sorted(READERS)}. Remove it, or take a force field without it."
            )
        if name in found:
            raise InputError(f"the System has two forces of the class {name}. Join them into one.")
        if force.usesPeriodicBoundaryConditions():
            raise InputError(f"{name} has periodic images. Make the System with nonbondedMethod=NoCutoff, no box.")
        found[name] = READERS[name](force)
    terms = [found[name] for name in BONDED if found.get(name) is not None]
    solvents = [found[name] for name in ("GBSAOBCForce", "CustomGBForce") if name in found]
    if len(solvents) > 1:
        raise InputError("the System has a GBSAOBCForce and a CustomGBForce: two solvents. Keep one.")
    nonbonded, born = found.get("NonbondedForce"), solvents[0] if solvents else None
    if nonbonded is not None or born is not None:
        terms.append(_pairs(nonbonded, born, n))
    if not terms:
        raise InputError(f"the System has no forces, known are {sorted(READERS)}. Add some.")
    masses = [system.getParticleMass(i)._value for i in range(n)]
    return ForceField(tuple(terms), torch.tensor(masses, dtype=torch.float64))


def _class_of(force: Any) -> str:
    """The class of OpenMM that a force is of, also if a library has derived from it."""
    kinds = [kind.__name__ for kind in type(force).__mro__]
    return next((name for name in kinds if name in READERS or name in WITHOUT_ENERGY), kinds[0])


def _check_particles(system: openmm.System) -> None:
    if system.getNumConstraints():
        raise InputError(
            f"the System has {system.getNumConstraints()} constraints, whose bonds have no energy. Make it with "
            "constraints=None, rigidWater=False."
        )
    for i in range(system.getNumParticles()):
        if system.isVirtualSite(i):
            raise InputError(f"particle {i} of the System is a virtual site. Take a force field without them.")
        if system.getParticleMass(i)._value <= 0:
            raise InputError(f"particle {i} of the System has no mass, so that it is held fixed. Give it a mass.")


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def _index(rows: list[tuple[int, ...]]) -> Tensor:
    """Columns of atoms, (atoms of a term, term)."""
    return torch.tensor(rows, dtype=torch.long).T.contiguous()


def _bonds(force: Any) -> Term | None:
    rows = [force.getBondParameters(k) for k in range(force.getNumBonds())]
    if not rows:
        return None
    atoms = _index([row[:2] for row in rows])
    return Bonds(atoms, *(_column([row[c]._value for row in rows]) for c in (2, 3)))


def _angles(force: Any) -> Term | None:
    rows = [force.getAngleParameters(k) for k in range(force.getNumAngles())]
    if not rows:
        return None
    atoms = _index([row[:3] for row in rows])
    return Angles(atoms, *(_column([row[c]._value for row in rows]) for c in (3, 4)))


def _torsions(force: Any) -> Term | None:
    rows = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
    rows = [row for row in rows if row[6]._value != 0]
    if not rows:
        return None
    quadruples = sorted({tuple(row[:4]) for row in rows})
    place = {atoms: k for k, atoms in enumerate(quadruples)}
    which = torch.tensor([place[tuple(row[:4])] for row in rows])
    n, phase, height = _column([row[4] for row in rows]), *(_column([row[c]._value for row in rows]) for c in (5, 6))
    return Torsions(_index(quadruples), which, n, phase, height)


def _maps(force: Any) -> Term | None:
    rows = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
    if not rows:
        return None
    maps = [force.getMapParameters(k) for k in range(force.getNumMaps())]
    sizes = sorted({size for size, _ in maps})
    if len(sizes) > 1:
        raise InputError(f"CMAPTorsionForce has maps of {sizes} points a side. Give all of them one size.")
    values = torch.tensor([[float(getattr(value, "_value", value)) for value in energy] for _, energy in maps],
                          dtype=torch.float64)  # fmt: skip
    tables = values.unflatten(1, (sizes[0], sizes[0])).transpose(1, 2)  # φ runs fastest in OpenMM
    return Maps(_index([row[1:5] for row in rows]), _index([row[5:] for row in rows]),
                torch.tensor([row[0] for row in rows]), knots(tables))  # fmt: skip


def _nonbonded(force: Any) -> Any:
    """The force itself, if it is one of all pairs, or of those nearer than a cutoff."""
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise InputError("NonbondedForce has parameters that depend on a global one. Make a System without offsets.")
    return force


def _pairs(force: Any, born: Born | None, n: int) -> Pairs:
    """Lennard-Jones and Coulomb of every pair; exceptions replace what the atoms say."""
    charge, sigma, depth = np.zeros(n), np.zeros(n), np.zeros(n)
    if force is not None:
        rows = [force.getParticleParameters(i) for i in range(n)]
        charge, sigma, depth = (np.array([row[c]._value for row in rows]) for c in range(3))
    i, j = np.triu_indices(n, 1)
    size, well, product = (sigma[i] + sigma[j]) / 2, np.sqrt(depth[i] * depth[j]), charge[i] * charge[j]
    place = np.full((n, n), -1)
    place[i, j] = place[j, i] = np.arange(len(i))
    whole = np.zeros(len(i), dtype=bool)
    for k in range(force.getNumExceptions() if force is not None else 0):
        a, b, *values = force.getExceptionParameters(k)
        product[place[a, b]], size[place[a, b]], well[place[a, b]] = (value._value for value in values)
        whole[place[a, b]] = True
    values = (4 * well * size**12, 4 * well * size**6, COULOMB * product)
    repulsion, attraction, charges = (torch.from_numpy(value)[:, None] for value in values)
    cutoff = None
    if force is not None and force.getNonbondedMethod():
        cutoff = _cutoff(force, torch.from_numpy(whole)[:, None], charges)
    return Pairs(torch.from_numpy(np.stack([i, j])), repulsion, attraction, charges, born, cutoff)


def _cutoff(force: Any, whole: Tensor, charges: Tensor) -> Cutoff:
    distance, dielectric = force.getCutoffDistance()._value, force.getReactionFieldDielectric()
    normal = charges.masked_fill(whole, 0.0)
    field = normal * (dielectric - 1) / ((2 * dielectric + 1) * distance**3)
    shift = normal * 3 * dielectric / ((2 * dielectric + 1) * distance)
    return Cutoff(distance, whole, field, shift, _switch(force))


def _switch(force: Any) -> Switch | None:
    start, end = force.getSwitchingDistance()._value, force.getCutoffDistance()._value
    if not force.getUseSwitchingFunction():
        return None
    if not 0 <= start < end:
        raise InputError(
            f"NonbondedForce has a switching distance of {start} nm and a cutoff of {end} nm. Switch before the cutoff."
        )
    return Switch(start, end)


def _born(force: Any) -> Born:
    """GBSAOBCForce is OBC2 with a surface term."""
    rows = [[value._value if hasattr(value, "_value") else value for value in force.getParticleParameters(i)]
            for i in range(force.getNumParticles())]  # fmt: skip
    charge, radius, scale = (_column([row[c] for row in rows]) for c in range(3))
    offset = radius - OFFSET
    coupling = COULOMB / force.getSoluteDielectric(), COULOMB / force.getSolventDielectric()
    surface = SURFACE * force.getSurfaceAreaEnergy()._value
    return Born(charge, radius, offset, scale * offset, OBC2, coupling, 0.0, surface, is_deep=True, cutoff=reach(force))


BONDED: dict[str, Callable[[Any], Term | None]] = {
    "HarmonicBondForce": _bonds,
    "HarmonicAngleForce": _angles,
    "PeriodicTorsionForce": _torsions,
    "CMAPTorsionForce": _maps,
}
READERS: dict[str, Callable[[Any], Any]] = {
    **BONDED,
    "NonbondedForce": _nonbonded,
    "GBSAOBCForce": _born,
    "CustomGBForce": custom_born,
}


def of_openmm(system: openmm.System, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Energy [kJ/mol], (frame,), and force [kJ/mol/nm], (frame, atom, 3), by OpenMM's Reference platform, float64."""
    openmm = need_openmm()
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    energies, forces = [], []
    for frame in frames.double().numpy():
        context.setPositions(frame)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value)
    return torch.tensor(energies, dtype=torch.float64), torch.from_numpy(np.array(forces))


def check_against_openmm(system: openmm.System, field: ForceField, frames: Tensor, tolerance: float = 1e-6) -> None:
    """Compare energies and forces at frames of the user's own.

    Args:
        system: what was read.
        field: what was made of it.
        frames: (frame, atom, 3) [nm].
        tolerance: of the largest energy and force, relative.

    Raises:
        InputError: they differ.
    """
    ours, theirs = field.energy_and_force(frames.double()), of_openmm(system, frames)
    for what, a, b, unit in zip(("energy", "force"), ours, theirs, ("kJ/mol", "kJ/mol/nm"), strict=True):
        error, scale = float((a - b).abs().max()), max(float(b.abs().max()), 1.0)
        if not (math.isfinite(error) and error <= tolerance * scale):
            raise InputError(
                f"the {what} of the System is not what OpenMM finds: it is {error:.3g} {unit} off, of {scale:.3g}. "
                "A force has another form than its class and names say; report it with the System's XML."
            )
