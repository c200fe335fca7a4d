"""What an energy with its force costs: alanine dipeptide in torch and by OpenMM, and how far the two are apart.

    python benchmarks/molecules_force_field.py [--quick] [--json FILE] [--record]

22 atoms, three force fields, 2048 perturbed conformations at once, one thread. Speeds are the inverse of CPU seconds;
rows are written as CPU microseconds for each energy with its force, medians over rounds, so that less is better, and
10 000 in a second are 100. Errors are the largest over 100 conformations, against OpenMM's Reference platform.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import machine
import torch
from rows import Row, judged, report
from torch import Tensor

from sciflow.domains.molecules.alanine import FORCE_FIELDS, alanine_dipeptide
from sciflow.domains.molecules.force_field_openmm import of_openmm
from sciflow.random import Stream

N, N_PEER, N_ERRORS, SPREAD = 2048, 20, 100, 0.01  # conformations; nm, three times the thermal spread of a bond
PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
Case = tuple[str, str]


def frames(name: str, n: int) -> Tensor:
    positions = alanine_dipeptide(name).positions
    return positions + SPREAD * Stream(0).normal(n, tuple(positions.shape), dtype=torch.float64)


def variants() -> dict[Case, tuple[int, Callable[[], object]]]:
    """(force field, how) → conformations, and what evaluates them."""
    found: dict[Case, tuple[int, Callable[[], object]]] = {}
    for name in FORCE_FIELDS:
        molecule, x = alanine_dipeptide(name), frames(name, N)
        for precision, dtype in PRECISIONS.items():
            found[name, precision] = (N, partial(molecule.field.energy_and_force, x.to(dtype)))
        found[name, "OpenMM Reference"] = (N_PEER, partial(of_openmm, molecule.system, x[:N_PEER]))
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
        target = 100.0 if case[1] == "float32" else None
        claim = f"{case[0]}, {case[1]}: µs of one core for an energy with its force"
        return judged(claim, lambda chosen: statistics.median(values[i] for i in chosen), [len(found)], target, quiet)

    rows = [*(row(case) for case in found[0]), *errors()]
    rows.sort(key=lambda entry: entry.claim)
    versions = {library: importlib.metadata.version(library) for library in ("sciflow", "torch", "openmm")}
    report("molecules_force_field", rows, len(found), versions, machine.in_words(), (words, quiet), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
