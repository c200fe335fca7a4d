"""Force fields in torch against OpenMM's Reference platform, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openmm
import pytest
import torch
from openmm import app
from torch import Tensor

from sciflow.domains.molecules.alanine import FORCE_FIELDS, alanine_dipeptide, check_form, heavy_atoms
from sciflow.domains.molecules.force_field_bonded import dihedral
from sciflow.domains.molecules.force_field_openmm import check_against_openmm, force_field, of_openmm
from sciflow.domains.molecules.molecule import molecule_of
from sciflow.errors import InputError
from sciflow.random import Stream

ENERGY, FORCE = 1e-4, 1e-3  # kJ/mol and kJ/mol/nm: what is promised; rounding leaves 1e-12 and 1e-10
FIELDS = sorted(FORCE_FIELDS)


def perturbed(positions: Tensor, spread: float, n: int = 20) -> Tensor:
    return positions + spread * Stream(1).normal(n, tuple(positions.shape), dtype=torch.float64)


def error(system: openmm.System, frames: Tensor, bounds: tuple[float, float] = (ENERGY, FORCE)) -> float:
    """The largest difference from OpenMM's energies and forces, over what is promised."""
    found, worst = force_field(system).energy_and_force(frames), 0.0
    for ours, theirs, bound in zip(found, of_openmm(system, frames), bounds, strict=True):
        assert float(theirs.abs().max()) > 1e3 * bound  # there is something to compare
        worst = max(worst, float((ours - theirs).abs().max()) / bound)
    return worst


def cluster(n: int = 6, seed: int = 2) -> Tensor:
    """Atoms 0.25 nm apart, moved at random by a tenth of it."""
    sites = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)[:n]
    return 0.25 * sites + 0.03 * Stream(seed).normal(n, (3,), dtype=torch.float64)


def system_of(*forces: openmm.Force, n: int = 6) -> openmm.System:
    system = openmm.System()
    for _ in range(n):
        system.addParticle(12.0)
    for force in forces:
        system.addForce(force)
    return system


@pytest.mark.parametrize("name", FIELDS)
def test_alanine_has_the_energy_and_force_of_openmm(name: str) -> None:
    molecule = alanine_dipeptide(name)
    frames = perturbed(molecule.positions, 0.02)
    assert error(molecule.system, frames) < 1
    check_against_openmm(molecule.system, molecule.field, frames)


@pytest.mark.parametrize("name", FIELDS)
def test_single_precision_is_within_its_rounding(name: str) -> None:
    """Twenty frames near the thermal spread: energies of some hundred kJ/mol are sums of parts of a thousand."""
    molecule = alanine_dipeptide(name)
    frames = perturbed(molecule.positions, 0.005)
    exact, single = molecule.field.energy_and_force(frames), molecule.field.energy_and_force(frames.float())
    # 2⁻²⁴ of positions of 0.5 nm is 3e-8 nm; with forces of 10⁴ kJ/mol/nm on 66 coordinates 3e-3 kJ/mol at the worst,
    # with stiffnesses of 5·10⁵ kJ/mol/nm² 0.06 kJ/mol/nm for each of some four bonds of an atom
    assert float((single[0] - exact[0]).abs().max()) < 3e-3
    assert float((single[1] - exact[1]).abs().max()) < 0.25
    assert single[0].dtype == single[1].dtype == torch.float32


def test_the_gradient_is_minus_the_force_and_rows_do_not_meet() -> None:
    molecule = alanine_dipeptide()
    frames = perturbed(molecule.positions, 0.01, 5)
    energy, force = molecule.field.energy_and_force(frames)
    x = frames.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(molecule.field.energy(x).sum(), x)
    assert torch.equal(gradient, -force) and torch.equal(molecule.field.force(frames), force)
    assert torch.equal(molecule.field.energy(frames[:2]), energy[:2])
    direction, h = Stream(3).normal(5, (22, 3), dtype=torch.float64), 1e-6
    slope = (molecule.field.energy(frames + h * direction) - molecule.field.energy(frames - h * direction)) / (2 * h)
    # h² of third derivatives of 10⁹, and 1e-13/h of rounding, against slopes of 10⁵
    assert torch.allclose(slope, -(force * direction).sum((1, 2)), rtol=1e-6, atol=1e-2)
    assert float(force.sum(1).abs().max()) < 1e-8  # no force on the whole: rounding of 10⁴ on 22 atoms


def test_bonded_terms_of_any_phase_and_sign() -> None:
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    bonds.addBond(0, 1, 0.2, 3e4)
    bonds.addBond(4, 2, 0.3, 1e4)
    angles.addAngle(0, 1, 2, 1.8, 400.0)
    angles.addAngle(5, 3, 1, 3.0, 200.0)
    for n, phase, height in ((1, 0.3, 5.0), (2, -1.1, -3.0), (6, 2.0, 0.7)):
        torsions.addTorsion(0, 1, 2, 3, n, phase, height)
        torsions.addTorsion(5, 2, 4, 1, n, -phase, height)
    assert error(system_of(bonds, angles, torsions), perturbed(cluster(), 0.02)) < 1


def test_exceptions_replace_what_the_atoms_say() -> None:
    nonbonded = openmm.NonbondedForce()
    for i in range(6):
        nonbonded.addParticle((-1) ** i * 0.3 + 0.1, 0.2 + 0.01 * i, 0.4 + 0.1 * i)
    nonbonded.addException(0, 1, 0.0, 0.2, 0.0)
    nonbonded.addException(4, 2, 0.25, 0.15, 0.9)
    assert error(system_of(nonbonded), perturbed(cluster(), 0.02)) < 1


SALT = {"implicitSolventKappa": 1.0}  # 1/nm, of 0.1 mol/l
NEAR = {"nonbondedMethod": app.CutoffNonPeriodic, "nonbondedCutoff": 0.5 * openmm.unit.nanometer}  # half of the pairs


@pytest.mark.parametrize("options", [{}, SALT, NEAR, {**SALT, **NEAR}], ids=["plain", "salt", "cutoff", "both"])
@pytest.mark.parametrize("solvent", ["hct", "obc1", "obc2", "gbn", "gbn2"])
def test_every_solvent_of_openmm_has_its_energy_and_force(solvent: str, options: dict[str, Any]) -> None:
    molecule = alanine_dipeptide()
    files = app.ForceField("amber14-all.xml", f"implicit/{solvent}.xml")
    system = files.createSystem(molecule.topology, constraints=None, rigidWater=False, **options)
    assert error(system, perturbed(molecule.positions, 0.02)) < 1
    if options:  # the option says something at all
        (plain,) = of_openmm(files.createSystem(molecule.topology), molecule.positions[None])[0]
        (other,) = of_openmm(system, molecule.positions[None])[0]
        assert abs(float(plain - other)) > 10 * ENERGY


def test_a_cutoff_leaves_exceptions_whole_and_has_a_dielectric_around() -> None:
    nonbonded, born = openmm.NonbondedForce(), openmm.GBSAOBCForce()
    for force in (nonbonded, born):
        force.setNonbondedMethod(force.CutoffNonPeriodic)
        force.setCutoffDistance(0.3)
    for i in range(6):
        nonbonded.addParticle((-1) ** i * 0.3 + 0.1, 0.2 + 0.01 * i, 0.4 + 0.1 * i)
        born.addParticle((-1) ** i * 0.3 + 0.1, 0.15, 0.8)
    nonbonded.addException(0, 5, 0.25, 0.15, 0.9)
    x = perturbed(cluster(), 0.02)
    assert float((x[:, 0] - x[:, 5]).norm(dim=1).max()) > 0.3  # an exception beyond the cutoff
    assert error(system_of(nonbonded, born), x) < 1


def test_a_switching_function_smooths_lennard_jones_alone() -> None:
    """Distances within, in and beyond the switch; an exception in it stays whole, as do the charges."""
    nonbonded = openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(nonbonded.CutoffNonPeriodic)
    nonbonded.setCutoffDistance(0.4)
    nonbonded.setUseSwitchingFunction(True)
    nonbonded.setSwitchingDistance(0.25)
    for i in range(6):
        nonbonded.addParticle((-1) ** i * 0.3 + 0.1, 0.2 + 0.01 * i, 0.4 + 0.1 * i)
    nonbonded.addException(0, 5, 0.25, 0.3, 0.9)
    frames, system = perturbed(cluster(), 0.02), system_of(nonbonded)
    assert error(system, frames) < 1
    field = force_field(system)
    x = frames.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(field.energy(x).sum(), x)
    assert torch.equal(gradient, -field.force(frames))
    nonbonded.setUseSwitchingFunction(False)
    plain = force_field(system_of(openmm.XmlSerializer.clone(nonbonded)))
    assert float((plain.energy(frames) - field.energy(frames)).abs().min()) > 10 * ENERGY  # it does something


def test_maps_of_two_torsions_are_those_of_openmm() -> None:
    """Two maps on angles that share atoms and on angles that do not, all around the circle."""
    force = openmm.CMAPTorsionForce()
    for seed in (5, 6):
        force.addMap(8, (20 * Stream(seed).normal(1, (64,), dtype=torch.float64)[0]).tolist())
    force.addTorsion(1, 0, 1, 2, 3, 1, 2, 3, 4)
    force.addTorsion(0, 5, 2, 4, 1, 0, 3, 5, 2)
    frames = 0.3 * Stream(4).normal(100, (6, 3), dtype=torch.float64)
    assert error(system_of(force), frames) < 1
    molecule = alanine_dipeptide()
    corrected = app.ForceField("amber19/protein.ff19SB.xml").createSystem(molecule.topology, constraints=None)
    assert "CMAPTorsionForce" in {type(force).__name__ for force in corrected.getForces()}
    assert error(corrected, perturbed(molecule.positions, 0.02)) < 1


@pytest.mark.parametrize("is_custom", [False, True])
def test_atoms_deep_inside_others_are_as_in_the_form_that_was_read(is_custom: bool) -> None:
    """Radii of 0.05 to 0.6 nm at distances of 0.25: an atom inside another one has the term 2(1/o − 1/L) or not."""
    from openmm.app.internal.customgbforces import GBSAOBC1Force

    radii, scales = (0.05, 0.6, 0.15, 0.45, 0.1, 0.2), (0.8, 0.7, 0.85, 1.2, 0.8, 0.3)
    force: Any = GBSAOBC1Force(SA="ACE") if is_custom else openmm.GBSAOBCForce()
    if is_custom:
        for i, (radius, scale) in enumerate(zip(radii, scales, strict=True)):
            force.addParticle([0.1 * i - 0.3, radius, scale])
        force.finalize()
    else:
        for i, (radius, scale) in enumerate(zip(radii, scales, strict=True)):
            force.addParticle(0.1 * i - 0.3, radius, scale)
        force.setSolventDielectric(20.0)
        force.setSoluteDielectric(2.0)
    assert error(system_of(force), perturbed(cluster(), 0.02)) < 1


def test_overlapping_and_far_atoms_have_infinite_energy_and_never_nan() -> None:
    molecule = alanine_dipeptide()
    for dtype in (torch.float32, torch.float64):
        for scale in (0.0, 1e-3, 1e30, 1e200):
            energy, force = molecule.field.energy_and_force((scale * molecule.positions[None]).to(dtype))
            assert not bool(energy.isnan().any()) and bool(force.isfinite().all())
            assert float(energy) > 1e5
    assert molecule.field.energy(torch.zeros(0, 22, 3)).shape == (0,)
    with pytest.raises(InputError, match="are \\(batch, particle, axis\\) = \\(…, 22, 3\\), got shape \\(22, 3\\)"):
        molecule.field.energy(molecule.positions)


def custom_bond() -> openmm.Force:
    force = openmm.CustomBondForce("k*r")
    force.addGlobalParameter("k", 1.0)
    force.addBond(0, 1)
    return force


def two_sizes() -> openmm.Force:
    force = openmm.CMAPTorsionForce()
    for size in (4, 8):
        force.addMap(size, [0.0] * size**2)
    force.addTorsion(1, 0, 1, 2, 3, 1, 2, 3, 4)
    return force


def switched_late() -> openmm.Force:
    force = openmm.NonbondedForce()
    for _ in range(6):
        force.addParticle(0.1, 0.2, 0.3)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(1.2)
    return force


def with_offset() -> openmm.Force:
    force = openmm.NonbondedForce()
    force.addParticle(0.0, 0.1, 0.1)
    force.addGlobalParameter("scale", 1.0)
    force.addParticleParameterOffset("scale", 0, 0.1, 0.0, 0.0)
    return force


def unknown_solvent() -> openmm.Force:
    force = openmm.CustomGBForce()
    force.addPerParticleParameter("charge")
    return force


def changed(kappa: float = 0.0, cutoff: float | None = None) -> openmm.Force:
    from openmm.app.internal.customgbforces import GBSAOBC1Force

    force = GBSAOBC1Force(kappa=kappa, cutoff=cutoff)
    for _ in range(6):
        force.addParticle([0.1, 0.15, 0.8])
    force.finalize()
    return force


def another_energy() -> openmm.Force:
    force = changed()
    force.addEnergyTerm("charge^2/B", force.SingleParticle)
    return force


def half_salted() -> openmm.Force:
    force = changed()
    force.setEnergyTermParameters(0, *changed(kappa=1.0).getEnergyTermParameters(0))
    return force


def another_shift() -> openmm.Force:
    force = changed(cutoff=0.5)
    force.setNonbondedMethod(force.CutoffNonPeriodic)
    force.setCutoffDistance(0.6)
    return force


@pytest.mark.parametrize(
    ("force", "message"),
    [
        (custom_bond, "has a CustomBondForce, known are \\['CMAPTorsionForce', 'CustomGBForce', 'GBSAOBCForce'"),
        (switched_late, "switching distance of 1.2 nm and a cutoff of 1.0 nm. Switch before the cutoff"),
        (two_sizes, "maps of \\[4, 8\\] points a side"),
        (with_offset, "depend on a global one"),
        (unknown_solvent, "CustomGBForce has the parameters \\['charge'\\] and computes"),
        (another_energy, "CustomGBForce has for an energy the formula 'charge\\^2/B', known are those of Open"),
        (half_salted, "not one self energy and one pair energy of the same dielectrics and salt"),
        (another_shift, "has a cutoff of 0.6 nm, but shifts 1/f by 2.0"),
    ],
)
def test_what_is_not_known_is_refused_by_its_name(force: Callable[[], openmm.Force], message: str) -> None:
    with pytest.raises(InputError, match=message):
        force_field(system_of(force()))


def test_constraints_two_solvents_and_nothing_are_refused() -> None:
    system = system_of(openmm.HarmonicBondForce())
    with pytest.raises(InputError, match="has no forces"):
        force_field(system)
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(InputError, match=r"1 constraints, .* Make it with constraints=None, rigidWater=False"):
        force_field(system)
    with pytest.raises(InputError, match="two forces of the class HarmonicBondForce"):
        force_field(system_of(openmm.HarmonicBondForce(), openmm.HarmonicBondForce()))


def test_a_form_that_differs_from_its_names_is_found_by_comparison() -> None:
    molecule = alanine_dipeptide()
    other = alanine_dipeptide("ff99sbildn_obc2")
    with pytest.raises(InputError, match="energy of the System is not what OpenMM finds"):
        check_against_openmm(molecule.system, other.field, molecule.positions[None])


def test_alanine_is_left_handed_trans_and_at_a_minimum() -> None:
    for name in FIELDS:
        molecule = alanine_dipeptide(name)
        x = molecule.positions[None]
        assert [len(angle.T) for angle in (molecule.phi, molecule.psi, molecule.omega)] == [1, 1, 2]
        assert molecule.phi.T.tolist() == [[4, 6, 8, 14]] and molecule.psi.T.tolist() == [[6, 8, 14, 16]]
        assert bool((molecule.handedness(x) > 0).all()) and not bool(molecule.cis(x).any())
        assert float(molecule.field.force(x).square().mean().sqrt()) < 1.0  # [kJ/mol/nm]; 0.1 were asked for
        assert 100 < -float(molecule.field.energy(x)) < 200
    mirrored = molecule_of(molecule.topology, molecule.system, molecule.positions * torch.tensor([-1.0, 1, 1]))
    with pytest.raises(InputError, match="L is positive"):
        check_form(mirrored)
    with pytest.raises(InputError, match="must be one of"):
        alanine_dipeptide("ff94")


def test_heavy_atoms_have_the_angles_that_were_asked_for() -> None:
    for phi, psi in ((-80.0, 80.0), (60.0, -170.0)):
        x = heavy_atoms(phi, psi)
        found = [float(dihedral(*x[list(atoms)]).rad2deg()) for atoms in ((1, 3, 4, 6), (3, 4, 6, 8), (0, 1, 3, 4))]
        assert found[:2] == pytest.approx([phi, psi], abs=1e-9) and abs(found[2]) == pytest.approx(180, abs=1e-6)


def test_overlapping_atoms_and_other_numbers_of_atoms_are_refused() -> None:
    molecule = alanine_dipeptide()
    with pytest.raises(InputError, match=r"atoms overlap: .* and .* are 0.0\d+ nm apart. Check the units"):
        molecule_of(molecule.topology, molecule.system, 0.1 * molecule.positions)
    with pytest.raises(InputError, match="numbers of atoms differ: topology 22, System 22, positions 21"):
        molecule_of(molecule.topology, molecule.system, molecule.positions[:21])
    with pytest.raises(InputError, match="not a finite number"):
        molecule_of(molecule.topology, molecule.system, molecule.positions * torch.nan)
