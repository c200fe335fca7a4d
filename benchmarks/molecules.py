"""Molecules: is the dynamics what it says, and are the references right?

    python benchmarks/molecules.py [--quick] [--json FILE] [--record]

(a) BAOAB in a harmonic well: the error of ⟨x²⟩ close to the stability limit. Target: rounding.
(b) References: errors of log Z over their stated error, and how far a known faulty set of frames is from ours.

Models that sample and simulate are measured by `molecules_muller_brown.py`. Nothing is timed, so any machine will do.
"""

from __future__ import annotations

import math

import machine
import torch
from rows import Row, asked, conclude
from torch import Tensor

from sciflow import __version__
from sciflow.domains.molecules.clusters import DW4, pair_distances
from sciflow.domains.molecules.reference import Tempered
from sciflow.domains.molecules.wells import DoubleWell, DoubleWellChain, MullerBrown
from sciflow.random import Stream
from sciflow.solvers import BAOAB, Kinetic

SHIPPED_DISTANCE = 3.974  # mean distance of 10⁵ frames of DW4 that published code compares with


def harmonic_row() -> Row:
    """|⟨x²⟩/(kT/k) − 1| of BAOAB at hω = 1.9, from its matrices."""
    well, h = Kinetic(lambda x: -x, 1.0, 0.7), 1.9
    solver = BAOAB()
    (step,) = solver.plan(well, [0.0, h])

    def moved(state: Tensor, draw: float) -> Tensor:
        noise = torch.full((len(state), 2, 1), draw, dtype=torch.float64)
        start = solver.init(well, [0.0, h], state)
        return solver.value(solver.step(well, step, start, lambda k=0: noise))[..., 0]  # type: ignore[arg-type]

    unit = torch.eye(2, dtype=torch.float64)[..., None]
    matrix, gain = moved(unit, 0.0).T, moved(torch.zeros(1, 2, 1, dtype=torch.float64), 1.0)[0]
    system = torch.eye(4, dtype=torch.float64) - torch.kron(matrix, matrix)
    covariance = torch.linalg.solve(system, torch.outer(gain, gain).flatten())
    error = abs(float(covariance[0]) - 1)
    return Row("(a) BAOAB at hω = 1.9: relative error of ⟨x²⟩", error, 0.0, 1e-12, error <= 1e-12)


def reference_rows(quick: bool) -> list[Row]:
    made, rows = Tempered(1024 if quick else 8192), []
    for potential in (MullerBrown(), DoubleWell(), DoubleWellChain()):
        found = made(potential, 1, Stream(11)).certificate
        off = abs(found.log_partition - potential.log_partition()) / found.log_partition_stderr
        name = type(potential).__name__
        rows.append(Row(f"(b) {name}: error of log Z [its standard errors, 8 islands]", off, 1.0, 4.0, off <= 4))
        rows.append(Row(f"(b) {name}: standard error of log Z", found.log_partition_stderr, 0.0))
    reference = made(DW4(), 4, Stream(12))
    means = pair_distances(reference.frames.flatten(0, 1)).mean(1).reshape(8, -1).mean(1)
    stderr = float(means.std()) / math.sqrt(8)
    rows.append(Row("(b) DW4: log Z", reference.certificate.log_partition, reference.certificate.log_partition_stderr))
    rows.append(Row("(b) DW4: mean distance", float(means.mean()), stderr))
    rows.append(Row(f"(b) DW4: mean distance above shipped frames ({SHIPPED_DISTANCE})",
                    float(means.mean()) - SHIPPED_DISTANCE, stderr))  # fmt: skip
    return rows


def main() -> None:
    options = asked(__doc__, "fewer chains: seconds")
    torch.set_num_threads(1)
    with torch.no_grad():
        rows = [harmonic_row(), *reference_rows(options.quick)]
    conclude("molecules", rows, {"sciflow": __version__, "torch": torch.__version__}, machine.in_words(), options)


if __name__ == "__main__":
    main()
