"""Force fields in a periodic box against OpenMM's Reference platform, laws of images, and what is refused."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from torch import Tensor

from sciflow.domains.molecules.alanine import alanine_dipeptide
from sciflow.domains.molecules.force_field_openmm import OWN, check_against_openmm, force_field, of_openmm
from sciflow.domains.molecules.force_field_openmm_nonbonded import converged
from sciflow.domains.molecules.force_field_terms import Box
from sciflow.domains.molecules.molecule import Atom, Molecule
from sciflow.errors import InputError
from sciflow.random import Stream
from tests.domains.test_force_field import ENERGY, FORCE, error, perturbed

NM = unit.nanometer
# OpenMM's Ewald leaves out waves, and its PME interpolates: at its default tolerance of 5e-4 water is 0.06 kJ/mol and
# 0.2 kJ/mol/nm off. At these its own error is 4e-6 kJ/mol and 3e-6 kJ/mol/nm, and of PME 3e-5 and 4e-4
EWALD, PME = 1e-8, 1e-7
# [kJ/mol, kJ/mol/nm]: rounding of 10⁴ kJ/mol and 2·10⁵ kJ/mol/nm leaves 1e-11 and 4e-10, OpenMM's closed form of the
# mean of Lennard-Jones in the switch 8e-10 kJ/mol; Ewald and PME as above, PME as promised
BOUNDS = {"reaction field": (1e-9, 5e-9), "switched": (5e-9, 5e-9), "Ewald": (1e-5, 1e-5)}
METHODS: dict[str, dict[str, Any]] = {
    "reaction field": {"nonbondedMethod": app.CutoffPeriodic},
    "switched": {"nonbondedMethod": app.CutoffPeriodic, "switchDistance": 0.45 * NM},
    "Ewald": {"nonbondedMethod": app.Ewald, "ewaldErrorTolerance": EWALD},
    "PME, switched": {"nonbondedMethod": app.PME, "ewaldErrorTolerance": PME, "switchDistance": 0.45 * NM},
}
RECTANGULAR = ((2.0, 0.0, 0.0), (0.0, 2.1, 0.0), (0.0, 0.0, 2.2))
TRICLINIC = ((2.0, 0.0, 0.0), (0.5, 1.9, 0.0), (-0.4, 0.6, 1.8))


@functools.cache
def water(with_alanine: bool = False) -> tuple[app.Topology, Tensor]:
    """TIP3P in a cube of 1.3 or 1.6 nm, with alanine dipeptide or without."""
    start: Any = (app.Topology(), [] * NM)
    if with_alanine:
        molecule = alanine_dipeptide()
        start = molecule.topology, molecule.positions.numpy() * NM
    modeller = app.Modeller(*start)
    width = 1.6 if with_alanine else 1.3
    modeller.addSolvent(app.ForceField("amber14-all.xml", "tip3p.xml"), boxSize=openmm.Vec3(width, width, width) * NM)
    return modeller.topology, torch.from_numpy(np.array(modeller.positions.value_in_unit(NM)))


def solvated(method: str, with_alanine: bool = False, **options: Any) -> tuple[openmm.System, Tensor]:
    topology, positions = water(with_alanine)
    files = app.ForceField("amber14-all.xml", "tip3p.xml")
    told = {"constraints": None, "rigidWater": False, "nonbondedCutoff": 0.6 * NM, **METHODS[method], **options}
    return files.createSystem(topology, **told), positions


def charged(
    method: int,
    vectors: Any = RECTANGULAR,
    net: float = 0.0,
    is_bonded_periodic: bool = False,
    tolerance: float = PME,
    switch: float | None = None,
) -> openmm.System:
    """Sixty ions on a lattice, six of them in exceptions, with bonds, an angle, torsions and a map."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in vectors))
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(method)
    force.setCutoffDistance(0.8)
    force.setEwaldErrorTolerance(tolerance)
    force.setExceptionsUsePeriodicBoundaryConditions(is_bonded_periodic)
    if switch is not None:
        force.setUseSwitchingFunction(True)
        force.setSwitchingDistance(switch)
    for i in range(60):
        system.addParticle(12.0)
        force.addParticle((-1) ** i * (0.3 + 0.01 * (i // 2)) + net / 60, 0.2 + 0.02 * (i % 3), 0.3 + 0.1 * (i % 4))
    for pair, *values in (((0, 1), 0.0, 0.2, 0.0), ((2, 3), 0.1, 0.25, 0.5), ((5, 4), 0.0, 0.25, 0.5)):
        force.addException(*pair, *values)
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    bonds.addBond(0, 1, 0.4, 3e3)
    angles.addAngle(0, 1, 2, 1.8, 400.0)
    torsions.addTorsion(0, 1, 2, 3, 2, 0.3, 5.0)
    maps = openmm.CMAPTorsionForce()
    maps.addMap(8, (20 * Stream(5).normal(1, (64,), dtype=torch.float64)[0]).tolist())
    maps.addTorsion(0, 0, 1, 2, 3, 1, 2, 3, 4)
    for bonded in (bonds, angles, torsions, maps):
        bonded.setUsesPeriodicBoundaryConditions(is_bonded_periodic)
    for part in (bonds, angles, torsions, maps, force):
        system.addForce(part)
    return system


def lattice() -> Tensor:
    """Sixty places 0.48 nm apart, moved at random by a tenth of it."""
    sites = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3)[:60]
    return 0.48 * sites + 0.05 * Stream(2).normal(60, (3,), dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("with_alanine", [False, True], ids=["water", "alanine"])
def test_a_solvated_molecule_has_the_energy_and_force_of_openmm(method: str, with_alanine: bool) -> None:
    system, positions = solvated(method, with_alanine)
    frames = perturbed(positions, 0.005, 2)
    assert error(system, frames, BOUNDS.get(method, (ENERGY, FORCE))) < 1
    check_against_openmm(system, force_field(system), frames)


@pytest.mark.parametrize("is_bonded_periodic", [False, True])
@pytest.mark.parametrize("vectors", [RECTANGULAR, TRICLINIC], ids=["rectangular", "triclinic"])
@pytest.mark.parametrize("method", [2, 4], ids=["reaction field", "PME"])
def test_ions_in_any_box_with_exceptions_as_they_say(method: int, vectors: Any, is_bonded_periodic: bool) -> None:
    """Atoms 0 to 5 are bonded, and some lie in another cell: whether that is seen is what the forces say."""
    system = charged(method, vectors, net=2.0, is_bonded_periodic=is_bonded_periodic, switch=0.5)
    x = lattice()
    frames = perturbed(x, 0.02, 3)
    frames[1, (1, 4)] += torch.tensor(vectors[0], dtype=torch.float64)
    frames[2, 3] -= torch.tensor(vectors[2], dtype=torch.float64) + torch.tensor(vectors[1], dtype=torch.float64)
    # without waves there is rounding alone: of 10³ kJ/mol and 2·10³ kJ/mol/nm 1e-12 each
    assert error(system, frames, (1e-10, 1e-10) if method == 2 else (ENERGY, FORCE)) < 1


def test_a_net_charge_has_the_background_of_openmm() -> None:
    for net in (-1.0, 3.0):
        assert error(charged(3, net=net, tolerance=EWALD), perturbed(lattice(), 0.02, 2)) < 1


@pytest.mark.parametrize("method", [2, 4], ids=["reaction field", "PME"])
@pytest.mark.parametrize("vectors", [RECTANGULAR, TRICLINIC], ids=["rectangular", "triclinic"])
def test_images_of_atoms_are_the_atoms(method: int, vectors: Any) -> None:
    """With periodic bonds and exceptions any atom may be in any cell; without, any whole molecule may."""
    cells = torch.tensor(vectors, dtype=torch.float64)
    anywhere = (7 * Stream(8).uniform(60, (3,), dtype=torch.float64)).floor() - 3
    apart = torch.where(torch.arange(60)[:, None] < 6, anywhere[:1], anywhere)  # atoms 0 to 5 are bonded
    for is_bonded_periodic, moves in ((True, anywhere), (False, apart)):
        field = force_field(charged(method, vectors, 1.0, is_bonded_periodic, switch=0.5))
        x = lattice()
        (before, force), (after, same) = (field.energy_and_force(at[None]) for at in (x, x + moves @ cells))
        # positions of 10 nm round to 2e-15 nm; stiffnesses of 10⁴ kJ/mol/nm², forces of 10³ kJ/mol/nm
        assert torch.allclose(before, after, rtol=0, atol=1e-9) and torch.allclose(force, same, rtol=0, atol=1e-8)
    broken = force_field(charged(method, vectors)).energy(torch.stack([x, x + anywhere @ cells]))
    assert abs(float(broken[1] - broken[0])) > 1e3  # a bond as long as the box


def test_the_gradient_is_minus_the_force_and_the_slope_of_the_energy() -> None:
    field = force_field(charged(4, TRICLINIC, 1.0, True, switch=0.5))
    x = lattice()[None].requires_grad_()
    (gradient,) = torch.autograd.grad(field.energy(x).sum(), x)
    force = field.force(x.detach())
    assert torch.equal(gradient, -force)
    direction, h = Stream(3).normal(1, (60, 3), dtype=torch.float64), 1e-6
    low, high = (field.energy(x.detach() + sign * h * direction) for sign in (-1, 1))
    # rounding of 10³ kJ/mol over 2h: 1e-7; third derivatives of 10⁷ times h². No pair crosses the cutoff in so short
    # a step, where charges would jump
    assert float((high - low) / (2 * h)) == pytest.approx(-float((force * direction).sum()), abs=1e-4)
    assert float(force.sum(1).abs().max()) < 1e-8  # none on the whole: rounding of 10³


def test_rock_salt_has_the_constant_of_madelung() -> None:
    """Eight ions in a cubic cell, at any α."""
    sites = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)
    for tolerance in (1e-9, 1e-11):  # shares of a force that the cutoff leaves out
        system, force = openmm.System(), openmm.NonbondedForce()
        system.setDefaultPeriodicBoxVectors(*(2.0 * row for row in np.eye(3)))
        force.setNonbondedMethod(force.Ewald)
        force.setCutoffDistance(0.9)  # no pair lies there: neighbours are 1 nm apart
        force.setEwaldErrorTolerance(tolerance)
        force.setUseDispersionCorrection(False)
        for site in sites:
            system.addParticle(1.0)
            force.addParticle((-1.0) ** int(site.sum()), 0.1, 0.0)
        system.addForce(force)
        (energy,) = force_field(system).energy(sites[None])
        assert float(energy) == pytest.approx(-4 * 1.747564594633 * 138.93545764438198, rel=1e-8)


@pytest.mark.parametrize("switch", [None, 0.3, 0.79])
def test_the_mean_of_lennard_jones_beyond_the_cutoff_is_that_of_openmm(switch: float | None) -> None:
    system = charged(2, switch=switch)
    (force,) = (force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    found = []
    for is_used in (True, False):
        force.setUseDispersionCorrection(is_used)
        found.append([float(made) for made in (force_field(system).energy(lattice()[None]),
                                               of_openmm(system, lattice()[None])[0])])  # fmt: skip
    ours, theirs = (found[0][k] - found[1][k] for k in (0, 1))
    # rounding of 800 kJ/mol, 1e-13, in a difference of 0.3; OpenMM's closed form loses 5e-5 of a narrow switch
    assert abs(theirs) > 0.1 and ours == pytest.approx(theirs, rel=1e-4 if switch == 0.79 else 1e-12)


def test_the_nearest_image_is_the_shortest_of_all_neighbours() -> None:
    for vectors in (RECTANGULAR, TRICLINIC):
        box = Box(torch.tensor(vectors, dtype=torch.float64))
        d = 6 * (Stream(4).uniform(2000, (3,), dtype=torch.float64) - 0.5)
        near = box.nearest(d.clone()[..., None])[..., 0]
        turns = torch.linalg.solve(box.vectors.T, (d - near).T)
        assert torch.allclose(turns, turns.round(), atol=1e-12)  # whole cells
        others = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=torch.float64)] * 3) @ box.vectors
        least = (near[:, None] + others).norm(dim=2).min(1).values
        is_near = least <= box.width / 2
        assert int(is_near.sum()) > 500 and torch.allclose(near.norm(dim=1)[is_near], least[is_near])


def test_overlapping_and_far_atoms_have_infinite_energy_and_never_nan() -> None:
    """In float32 an atom 10 µm away has no place in the box any more; in float64 it has."""
    x = lattice()
    for method in (2, 4):
        field = force_field(charged(method, is_bonded_periodic=True))
        far, meeting = x + 2.0 * torch.tensor([5000.0, 0.0, 0.0], dtype=torch.float64), x.clone()
        meeting[6] = meeting[7]
        frames = torch.stack([meeting, 1e30 * x, 1e200 * x, far])
        for dtype, is_finite in ((torch.float64, [False, False, False, True]), (torch.float32, [False] * 4)):
            energy, force = field.energy_and_force(frames.to(dtype))
            assert energy.isfinite().tolist() == is_finite and bool((energy > -torch.inf).all())
            assert bool(force.isfinite().all())
    # positions of 10⁴ nm round to 2e-12 nm, with forces of 10³ kJ/mol/nm on 180 coordinates
    assert float(field.energy(far[None]) - field.energy(x[None])) == pytest.approx(0, abs=1e-6)


def test_constraints_are_known_to_energies_alone() -> None:
    system, positions = solvated("reaction field", rigidWater=True)
    with pytest.raises(InputError, match=r"\d+ constraints, .* rigidWater=False.*energies_only=True"):
        force_field(system)
    field = force_field(system, energies_only=True)
    assert field.n_constraints == system.getNumConstraints() > 0
    atoms = tuple(Atom("X", "H", "HOH1", 0) for _ in positions)
    with pytest.raises(InputError, match=rf"lacks {field.n_constraints} constraints .* rigidWater=False"):
        Molecule(atoms, positions, field, water()[0], system)
    found = field.energy_and_force(positions[None])
    for ours, theirs, bound in zip(found, of_openmm(system, positions[None]), (ENERGY, FORCE), strict=True):
        assert float((ours - theirs).abs().max()) < bound


def test_single_precision_is_within_its_rounding() -> None:
    system, positions = solvated("Ewald")
    field, frames = force_field(system), perturbed(positions, 0.005, 2)
    exact, single = field.energy_and_force(frames), field.energy_and_force(frames.float())
    # 2⁻²⁴ of positions of 1.3 nm is 8e-8 nm; forces of 10⁴ kJ/mol/nm on 600 coordinates, stiffnesses of 5·10⁵
    assert float((single[0] - exact[0]).abs().max()) < 2e-2
    assert float((single[1] - exact[1]).abs().max()) < 0.5


def test_a_term_that_is_not_openmms_is_found_by_comparison() -> None:
    system, positions = solvated("PME, switched")
    (force,) = (force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    changes: list[Callable[[], None]] = [
        lambda: force.setUseSwitchingFunction(False),
        lambda: force.setUseDispersionCorrection(False),
        lambda: force.setCutoffDistance(0.55),
    ]
    for change in changes:
        field = force_field(system)
        change()
        with pytest.raises(InputError, match="of the System is not what OpenMM finds"):
            check_against_openmm(system, field, positions[None])


def test_in_a_small_dodecahedron_all_pairs_are_found() -> None:
    """OpenMM's Reference misses some there; the sum over all images, and its CPU platform, do not."""
    molecule, files = alanine_dipeptide(), app.ForceField("amber14-all.xml", "tip3p.xml")
    modeller = app.Modeller(molecule.topology, molecule.positions.numpy() * NM)
    modeller.addSolvent(files, boxShape="dodecahedron", padding=0.55 * NM)
    x = torch.from_numpy(np.array(modeller.positions.value_in_unit(NM)))
    told = {"nonbondedCutoff": 0.45 * NM, "constraints": None, "rigidWater": False}
    for method in (app.CutoffPeriodic, app.PME):
        system = files.createSystem(modeller.topology, nonbondedMethod=method, **told)
        field = force_field(system)
        check_against_openmm(system, field, x[None])
        (ours,), (theirs,) = field.energy(x[None]), of_openmm(converged(system), x[None])[0]
        # why the CPU platform is asked, ten times as loosely: once OpenMM's Reference finds all pairs, drop that branch
        assert abs(float(ours - theirs)) > max(1e-6 * abs(float(theirs)), OWN[0])
    box = field.box
    assert box is not None
    i, j = torch.triu_indices(len(x), len(x), 1)
    d = x[i] - x[j]
    others = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 3) @ box.vectors
    least = torch.stack([(d + other).norm(dim=1) for other in others]).amin(0)
    near = box.nearest(d[..., None].clone())[..., 0].norm(dim=1)
    assert int((least < 0.45).sum()) > 1000
    assert torch.allclose(near[least < 0.45], least[least < 0.45]) and bool((near[least >= 0.45] >= 0.45).all())


def test_a_minimum_where_forces_are_small_is_compared_too() -> None:
    """At OpenMM's default tolerance, where its PME alone is 0.08 kJ/mol off."""
    system, positions = solvated("PME, switched", ewaldErrorTolerance=5e-4)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )  # fmt: skip
    context.setPositions(positions.numpy())
    openmm.LocalEnergyMinimizer.minimize(context, 10.0)
    lowest = torch.from_numpy(context.getState(getPositions=True).getPositions(asNumpy=True)._value.copy())[None]
    field = force_field(system)
    check_against_openmm(system, field, lowest)
    ours, theirs = field.energy_and_force(lowest), of_openmm(system, lowest)
    assert float(theirs[1].abs().max()) < 500
    # the share δ of a force of 139 q²/r_c² = 160 kJ/mol/nm, from all around; of an energy of twenty pairs at r_c
    assert float((ours[1] - theirs[1]).abs().max()) < 1 and float((ours[0] - theirs[0]).abs().max()) < 1


def changed(change: Callable[[openmm.NonbondedForce], None], method: int = 4) -> openmm.System:
    system = charged(method)
    change(next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)))
    return system


def solvent_in_a_box() -> openmm.System:
    system, born = charged(2), openmm.GBSAOBCForce()
    for _ in range(60):
        born.addParticle(0.1, 0.15, 0.8)
    system.addForce(born)
    return system


def hostile(**attributes: str) -> openmm.System:
    """A System with a reaction field, whose XML is changed: what the API might refuse to set."""
    xml = openmm.XmlSerializer.serialize(charged(2, switch=0.5))
    for name, value in attributes.items():
        pattern = r'(<A x=)"2"' if name == "A" else rf'(\b{name}=)"[^"]*"'
        xml, n = re.subn(pattern, rf'\1"{value}"', xml)
        assert n == 1
    return openmm.XmlSerializer.deserialize(xml)


def large() -> openmm.System:
    """One atom more than 2²⁷ pairs allow."""
    system, force = openmm.System(), openmm.NonbondedForce()
    for _ in range(16_385):
        system.addParticle(1.0)
        force.addParticle(0.0, 0.1, 0.1)
    system.addForce(force)
    return system


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (
            lambda: changed(lambda force: force.setNonbondedMethod(force.LJPME)),
            "the method LJPME.* nonbondedMethod=PME",
        ),
        (
            lambda: changed(lambda force: force.setCutoffDistance(1.01)),
            "a cutoff of 1.01 nm, more than half of the box",
        ),
        (lambda: changed(lambda force: force.setEwaldErrorTolerance(0.6)), "tolerance of 0.6. Set one between 0 and"),
        (lambda: changed(lambda force: force.setIncludeDirectSpace(False)), "leaves out the direct space"),
        (solvent_in_a_box, "a GBSAOBCForce and periodic images: two solvents"),
        (lambda: hostile(A="nan"), r"box vectors \[\[nan, .* must be finite"),
        (lambda: hostile(A="inf"), r"box vectors \[\[inf, .* must be finite"),
        (lambda: hostile(cutoff="0", useSwitchingFunction="0"), "a cutoff of 0.0 nm, which must be positive"),
        (lambda: hostile(cutoff="-1", useSwitchingFunction="0"), "a cutoff of -1.0 nm, which must be positive"),
        (lambda: hostile(cutoff="nan"), "a cutoff of nan nm, which must be positive"),
        (lambda: hostile(switchingDistance="0"), "a switching distance of 0.0 nm, less than a tenth of its cutoff"),
        (lambda: hostile(switchingDistance="nan"), "a switching distance of nan nm"),
        (lambda: hostile(rfDielectric="-0.5"), "a reaction field of dielectric -0.5. Set one above 0"),
        (large, r"16385 atoms and 134225920 pairs, more than 134217728: .* Take a smaller box"),
        (
            lambda: changed(lambda force: force.setPMEParameters(120.0, 8, 8, 8)),  # of 8.1·10⁹ numbers
            r"the Ewald sum has 1.35e\+08 waves for 60 atoms, .* Take a longer cutoff",
        ),
        (lambda: changed(lambda force: force.setPMEParameters(1e200, 8, 8, 8)), "the Ewald sum has inf waves"),
    ],
    ids=[
        "LJPME",
        "cutoff",
        "tolerance",
        "direct",
        "solvent",
        "box of NaN",
        "infinite box",
        "no cutoff",
        "negative cutoff",
        "cutoff of NaN",
        "switch at 0",
        "switch at NaN",
        "dielectric",
        "pairs",
        "waves",
        "infinite waves",
    ],
)
def test_what_is_not_known_is_refused(system: Callable[[], openmm.System], message: str) -> None:
    with pytest.raises(InputError, match=message):
        force_field(system())
