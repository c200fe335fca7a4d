"""What an energy with its force costs: alanine dipeptide in torch and by OpenMM, and how far the two are apart.

    python benchmarks/molecules_force_field.py [--quick] [--json FILE] [--record]

22 atoms, three force fields, 2048 perturbed conformations at once, one thread. Speeds are the inverse of CPU seconds;
rows are written as CPU microseconds for each energy with its force, medians over rounds, so that less is better, and
10 000 in a second are 100. Errors are the largest over 100 conformations, against OpenMM's Reference platform.

Periodic boxes: errors of alanine dipeptide in water, 337 atoms, by three methods; costs of water, 651 atoms with PME at
OpenMM's default tolerance, and how far OpenMM's PME is from the sum over all waves there. Two conformations each.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import openmm
import torch
from openmm import app, unit
from rows import Row, judged, report
from torch import Tensor

from sciflow.domains.molecules.alanine import FORCE_FIELDS, alanine_dipeptide
from sciflow.domains.molecules.force_field_openmm import force_field, of_openmm
from sciflow.random import Stream

N, N_PEER, N_ERRORS, SPREAD = 2048, 20, 100, 0.01  # conformations; nm, three times the thermal spread of a bond
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
Case = tuple[str, str]
WATER, N_BOXED = "water in a box, 651 atoms", 2
METHODS: dict[str, dict[str, Any]] = {
    "reaction field": {"nonbondedMethod": app.CutoffPeriodic},
    "reaction field, switched": {"nonbondedMethod": app.CutoffPeriodic, "switchDistance": 0.45},
    "Ewald at 1e-8": {"nonbondedMethod": app.Ewald, "ewaldErrorTolerance": 1e-8},
    "PME at 1e-7": {"nonbondedMethod": app.PME, "ewaldErrorTolerance": 1e-7},
}


def frames(name: str, n: int) -> Tensor:
    positions = alanine_dipeptide(name).positions
    return positions + SPREAD * Stream(0).normal(n, tuple(positions.shape), dtype=torch.float64)


def boxed(with_alanine: bool, width: float, **options: Any) -> tuple[openmm.System, Tensor]:
    """TIP3P in a cube [nm], with alanine dipeptide or without, and conformations of it."""
    start: Any = (app.Topology(), [] * unit.nanometer)
    if with_alanine:
        molecule = alanine_dipeptide()
        start = molecule.topology, molecule.positions.numpy() * unit.nanometer
    modeller, files = app.Modeller(*start), app.ForceField("amber14-all.xml", "tip3p.xml")
    modeller.addSolvent(files, boxSize=openmm.Vec3(width, width, width) * unit.nanometer)
    system = files.createSystem(modeller.topology, constraints=None, rigidWater=False, **options)
    positions = torch.from_numpy(np.array(modeller.positions.value_in_unit(unit.nanometer)))
    return system, positions + SPREAD / 2 * Stream(1).normal(N_BOXED, tuple(positions.shape), dtype=torch.float64)


@functools.cache
def water() -> tuple[openmm.System, Tensor]:
    return boxed(False, 1.9, nonbondedMethod=app.PME, nonbondedCutoff=0.9)


def variants() -> dict[Case, tuple[int, Callable[[], object]]]:
    """(force field, how) → conformations, and what evaluates them."""
    found: dict[Case, tuple[int, Callable[[], object]]] = {}
    for name in FORCE_FIELDS:
        molecule, x = alanine_dipeptide(name), frames(name, N)
        for precision, dtype in PRECISIONS.items():
            found[name, precision] = (N, functools.partial(molecule.field.energy_and_force, x.to(dtype)))
        found[name, "OpenMM Reference"] = (N_PEER, functools.partial(of_openmm, molecule.system, x[:N_PEER]))
    system, x = water()
    field = force_field(system)
    for precision, dtype in PRECISIONS.items():
        found[WATER, precision] = (N_BOXED, functools.partial(field.energy_and_force, x.to(dtype)))
    found[WATER, "OpenMM Reference"] = (N_BOXED, functools.partial(of_openmm, system, x))
    return found


def rounds(seconds: float) -> list[dict[Case, float]]:
    """CPU microseconds of one energy with its force, of each variant per round; at least three rounds."""
    found, stop, table = [], time.monotonic() + seconds, variants()
    for _, run in table.values():
        run()
    while len(found) < 3 or time.monotonic() < stop:
        one = {}
        for case in random.Random(len(found)).sample(list(table), len(table)):
            n, run = table[case]
            before = time.process_time()
            run()
            one[case] = 1e6 * (time.process_time() - before) / n
        found.append(one)
    return found


def errors() -> list[Row]:
    """The largest differences from OpenMM, with what is promised for float64."""
    found = []
    for name in FORCE_FIELDS:
        molecule, x = alanine_dipeptide(name), frames(name, N_ERRORS)
        theirs = of_openmm(molecule.system, x)
        for precision, dtype in PRECISIONS.items():
            ours = molecule.field.energy_and_force(x.to(dtype))
            targets = (1e-4, 1e-3) if precision == "float64" else (None, None)
            for a, b, what, target in zip(ours, theirs, ("energy [kJ/mol]", "force [kJ/mol/nm]"), targets, strict=True):
                value = float((a.double() - b).abs().max())
                holds = None if target is None else value <= target
                found.append(Row(f"{name}, {precision}: largest error of the {what}", value, 0.0, target, holds))
    return found


def errors_in_boxes() -> list[Row]:
    """The largest differences from OpenMM in periodic boxes, in float64; what is promised is a matter of tests."""
    systems = {
        f"alanine dipeptide in water, 337 atoms, {name}": boxed(True, 1.6, nonbondedCutoff=0.6, **options)
        for name, options in METHODS.items()
    }
    found = []
    for name, (system, x) in {**systems, f"{WATER}, PME at 5e-4": water()}.items():
        both = zip(force_field(system).energy_and_force(x), of_openmm(system, x), strict=True)
        for (a, b), what in zip(both, ("energy [kJ/mol]", "force [kJ/mol/nm]"), strict=True):
            found.append(Row(f"{name}: largest error of the {what}", float((a - b).abs().max()), 0.0))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten seconds instead of a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch, own = machine.Watch(), time.process_time()
    found = rounds(10 if options.quick else 60)
    words, quiet = watch.disturbance(time.process_time() - own)

    def row(case: Case) -> Row:
        values = [one[case] for one in found]
        target = 100.0 if case[1] == "float32" and case[0] in FORCE_FIELDS else None
        claim = f"{case[0]}, {case[1]}: µs of one core for an energy with its force"
        return judged(claim, lambda chosen: statistics.median(values[i] for i in chosen), [len(found)], target, quiet)

    rows = [*(row(case) for case in found[0]), *errors(), *errors_in_boxes()]
    rows.sort(key=lambda entry: entry.claim)
    versions = {library: importlib.metadata.version(library) for library in ("sciflow", "torch", "openmm")}
    report("molecules_force_field", rows, len(found), versions, machine.in_words(), (words, quiet), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
