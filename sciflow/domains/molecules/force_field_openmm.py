"""Force fields from OpenMM: what a System says, in torch, and what OpenMM itself finds, to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciflow.domains.molecules.force_field import ForceField
from sciflow.domains.molecules.force_field_bonded import Angles, Bonds, Maps, Torsions, knots
from sciflow.domains.molecules.force_field_nonbonded import SURFACE, Born
from sciflow.domains.molecules.force_field_openmm_nonbonded import COULOMB, converged, nonbonded, rows_at_once
from sciflow.domains.molecules.force_field_solvent import custom_born, reach
from sciflow.domains.molecules.force_field_terms import Box, Term
from sciflow.errors import InputError

if TYPE_CHECKING:
    import openmm

WITHOUT_ENERGY = ("CMMotionRemover",)
OBC2 = (1.0, 0.8, 4.85)
OFFSET = 0.009  # of the Born radii [nm]
OWN = (1e-4, 1e-3)
"""What OpenMM's PME may be off in a box [kJ/mol, kJ/mol/nm], on the grid of `converged`: it interpolates, where waves
are summed here. 2·10⁻⁶ and 6·10⁻⁵ as measured of water at a minimum, 2·10⁻⁵ and 4·10⁻⁴ of water that was shaken; large
charges are 2·10⁻³ kJ/mol/nm off, which the tolerance of their large forces allows. Without waves it is rounding, and
what OpenMM's closed form of the dispersion correction loses where the switch is narrow, 2·10⁻⁵ kJ/mol as measured."""

SINGLE = (5e-2, 5e-2)
"""The same of the platform CPU, which works in float32: as measured 4·10⁻³, and forces 3·10⁻⁶ of the largest."""


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


def force_field(system: openmm.System, energies_only: bool = False) -> ForceField:
    """The energy of an OpenMM System, in torch.

    Args:
        system: bonds, angles, torsions, maps, Lennard-Jones and Coulomb forces, a solvent; perhaps in a periodic box,
            whose vectors are the System's default ones.
        energies_only: allow constraints. A bond of fixed length has no energy, and no force holds it: the energies
            and forces of frames that keep the constraints are OpenMM's, but nothing may move atoms by them.

    Raises:
        InputError: the System holds something that is not known here, by its name; constraints, virtual sites; a box
            that is too small for the cutoff.
    """
    n = system.getNumParticles()
    _check_particles(system, energies_only)
    forces = _by_class(system)
    is_periodic = any(force.usesPeriodicBoundaryConditions() for force in forces.values())
    box = _box(system) if is_periodic else None
    terms: list[Term | None] = [
        read(forces[name], box if forces[name].usesPeriodicBoundaryConditions() else None)
        for name, read in BONDED.items() if name in forces
    ]  # fmt: skip
    solvents = [name for name in SOLVENTS if name in forces]
    if len(solvents) > 1:
        raise InputError("the System has a GBSAOBCForce and a CustomGBForce: two solvents. Keep one.")
    if solvents and box is not None:
        raise InputError(
            f"the System has a {solvents[0]} and periodic images: two solvents. Make it without a box, with "
            "nonbondedMethod=NoCutoff, or without the implicit solvent."
        )
    born = SOLVENTS[solvents[0]](forces[solvents[0]]) if solvents else None
    if "NonbondedForce" in forces or born is not None:
        terms += nonbonded(forces.get("NonbondedForce"), born, box, n)
    kept = tuple(term for term in terms if term is not None)
    if not kept:
        raise InputError(f"the System has no forces, known are {KNOWN}. Add some.")
    masses = torch.tensor([system.getParticleMass(i)._value for i in range(n)], dtype=torch.float64)
    return ForceField(kept, masses, box, rows_at_once(kept, box), system.getNumConstraints())


def _by_class(system: openmm.System) -> dict[str, Any]:
    """Forces by the name of their class, but for those without an energy."""
    found: dict[str, Any] = {}
    for force in system.getForces():
        name = type(force).__name__ if type(force).__name__ in KNOWN else _class_of(force)
        if name in WITHOUT_ENERGY:
            continue
        if name not in KNOWN:
            raise InputError(
                f"the System has a {name}, known are {KNOWN}. Remove it, or take a force field without it."
            )
        if name in found:
            raise InputError(f"the System has two forces of the class {name}. Join them into one.")
        found[name] = force
    return found


def _box(system: openmm.System) -> Box:
    """The System's own box; OpenMM takes none that is not in reduced form, but NaN and infinite ones."""
    rows = [list(vector._value) for vector in system.getDefaultPeriodicBoxVectors()]
    if not all(math.isfinite(value) for row in rows for value in row):
        raise InputError(f"the System has the box vectors {rows} nm, which must be finite numbers. Set its box anew.")
    return Box(torch.tensor(rows, dtype=torch.float64))


def _class_of(force: Any) -> str:
    """The class of OpenMM that a force is of, also if a library has derived from it."""
    kinds = [kind.__name__ for kind in type(force).__mro__]
    return next((name for name in kinds if name in KNOWN or name in WITHOUT_ENERGY), kinds[0])


def _check_particles(system: openmm.System, energies_only: bool) -> None:
    if system.getNumConstraints() and not energies_only:
        raise InputError(
            f"the System has {system.getNumConstraints()} constraints, whose bonds have no energy. Make it with "
            "constraints=None, rigidWater=False. (From Python, energies_only=True gives energies that move nothing.)"
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


def _bonds(force: Any, box: Box | None) -> Term | None:
    rows = [force.getBondParameters(k) for k in range(force.getNumBonds())]
    if not rows:
        return None
    atoms = _index([row[:2] for row in rows])
    length, stiffness = (_column([row[c]._value for row in rows]) for c in (2, 3))
    return Bonds(atoms, length, stiffness, box)


def _angles(force: Any, box: Box | None) -> Term | None:
    rows = [force.getAngleParameters(k) for k in range(force.getNumAngles())]
    if not rows:
        return None
    atoms = _index([row[:3] for row in rows])
    angle, stiffness = (_column([row[c]._value for row in rows]) for c in (3, 4))
    return Angles(atoms, angle, stiffness, box)


def _torsions(force: Any, box: Box | None) -> Term | None:
    rows = [force.getTorsionParameters(k) for k in range(force.getNumTorsions())]
    rows = [row for row in rows if row[6]._value != 0]
    if not rows:
        return None
    quadruples = sorted({tuple(row[:4]) for row in rows})
    place = {atoms: k for k, atoms in enumerate(quadruples)}
    which = torch.tensor([place[tuple(row[:4])] for row in rows])
    n, phase, height = _column([row[4] for row in rows]), *(_column([row[c]._value for row in rows]) for c in (5, 6))
    return Torsions(_index(quadruples), which, n, phase, height, box)


def _maps(force: Any, box: Box | None) -> Term | None:
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
                torch.tensor([row[0] for row in rows]), knots(tables), box)  # fmt: skip


def _born(force: Any) -> Born:
    """GBSAOBCForce is OBC2 with a surface term."""
    rows = [[value._value if hasattr(value, "_value") else value for value in force.getParticleParameters(i)]
            for i in range(force.getNumParticles())]  # fmt: skip
    charge, radius, scale = (_column([row[c] for row in rows]) for c in range(3))
    offset = radius - OFFSET
    coupling = COULOMB / force.getSoluteDielectric(), COULOMB / force.getSolventDielectric()
    surface = SURFACE * force.getSurfaceAreaEnergy()._value
    return Born(charge, radius, offset, scale * offset, OBC2, coupling, 0.0, surface, is_deep=True, cutoff=reach(force))


BONDED: dict[str, Callable[[Any, Box | None], Term | None]] = {
    "HarmonicBondForce": _bonds,
    "HarmonicAngleForce": _angles,
    "PeriodicTorsionForce": _torsions,
    "CMAPTorsionForce": _maps,
}
SOLVENTS: dict[str, Callable[[Any], Born]] = {"GBSAOBCForce": _born, "CustomGBForce": custom_born}
KNOWN = sorted([*BONDED, *SOLVENTS, "NonbondedForce"])


def of_openmm(system: openmm.System, frames: Tensor, platform: str = "Reference") -> tuple[Tensor, Tensor]:
    """Energy [kJ/mol], (frame,), and force [kJ/mol/nm], (frame, atom, 3), by OpenMM; its Reference is in float64."""
    openmm = need_openmm()
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    energies, forces = [], []
    for frame in frames.double().numpy():
        context.setPositions(frame)
        state = context.getState(getEnergy=True, getForces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(state.getForces(asNumpy=True)._value.astype(np.float64))
    return torch.tensor(energies, dtype=torch.float64), torch.from_numpy(np.array(forces))


def check_against_openmm(system: openmm.System, field: ForceField, frames: Tensor, tolerance: float = 1e-6) -> None:
    """Compare energies and forces at frames of the user's own.

    An Ewald sum is compared with OpenMM's PME at the same α, on a fine grid (`converged`). In a box as much is allowed
    as that may be off, which counts where forces are small, at a minimum. In a small triclinic box the
    Reference platform of OpenMM 8.6 misses pairs within the cutoff; there the platform CPU, which finds them all, is
    asked, with a tolerance ten times as large and its rounding of float32.

    Args:
        system: what was read.
        field: what was made of it.
        frames: (frame, atom, 3) [nm].
        tolerance: of the largest energy and force, relative.

    Raises:
        InputError: they differ.
    """
    allowed, platform = (0.0, 0.0), "Reference"
    if field.box is not None:
        allowed = OWN
        if field.box.is_sheared:
            allowed, platform, tolerance = SINGLE, "CPU", 10 * tolerance
    ours, theirs = field.energy_and_force(frames.double()), of_openmm(converged(system), frames, platform)
    kinds = zip(("energy", "force"), ours, theirs, ("kJ/mol", "kJ/mol/nm"), allowed, strict=True)
    for what, a, b, unit, own in kinds:
        error, scale = float((a - b).abs().max()), max(float(b.abs().max()), 1.0)
        if not (math.isfinite(error) and error <= max(tolerance * scale, own)):
            raise InputError(
                f"the {what} of the System is not what OpenMM finds: it is {error:.3g} {unit} off, of {scale:.3g}. "
                "A force has another form than its class and names say; report it with the System's XML."
            )
