"""Molecules: is the dynamics what it says, are the references right, and do sampling and simulation give the law?

    python benchmarks/molecules.py [--quick] [--json FILE] [--record] [--results FOLDER]

(a) BAOAB in a harmonic well: the error of ⟨x²⟩ close to the stability limit. Target: rounding.
(b) References: errors of log Z over their stated error, and how far a known faulty set of frames is from ours.
(c) Müller–Brown: what perfect draws score, and the models of the run `muller-brown`, if results/ has them: divergence
    and error of the potential of mean force on 100² cells, of draws and of frames of a simulation with the learned
    force. Targets: what ScoreMD published for its best model with 10⁵ frames, 0.0108 and 0.099.

Nothing is timed, so any machine will do. --quick takes fewer chains and 10⁴ frames, and then has no targets for (c).
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from importlib.metadata import version
from pathlib import Path

import machine
import torch
from rows import Row, libraries, markdown, record, text, write
from torch import Tensor

from sciflow.diffusion.model import load
from sciflow.diffusion.times import Karras
from sciflow.domains.molecules.clusters import DW4, pair_distances
from sciflow.domains.molecules.law import Law
from sciflow.domains.molecules.reference import Tempered
from sciflow.domains.molecules.target import Unobserved
from sciflow.domains.molecules.wells import DoubleWell, DoubleWellChain, MullerBrown
from sciflow.errors import InputError
from sciflow.inverse import Simulated, Unguided
from sciflow.metrics.floor import Floor, floor
from sciflow.random import Stream
from sciflow.solvers import BAOAB, Kinetic

SHIPPED_DISTANCE = 3.974  # mean distance of 10⁵ frames of DW4 that published code compares with
PUBLISHED = {"js": 0.0108, "pmf_error": 0.099}  # ScoreMD, "Both", simulation, 10⁵ frames
CELLS, STRIDE = 100, 40
PLAIN, TIED = "0.0", "0.1"  # weight of the Fokker–Planck residual, as the folders of the run say it


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


def law() -> Law:
    """Müller–Brown on 100² cells."""
    potential = MullerBrown()
    return Law(potential, torch.zeros(2, 2, dtype=torch.float64), CELLS, Stream(13))


def drawn(model: Path, n: int) -> dict[str, Tensor]:
    """n draws, and n frames of a simulation, as in the run but with more chains."""
    prior, like = load(model), Unobserved(torch.zeros(1))
    times = Karras(25, ratio_max=40.0, ratio_min=0.02)(prior.schedule)
    simulation = Simulated(n_chains=400, thinning=STRIDE, step=0.008, friction=1.0, speed=6.782)
    samplers = {"sampling": Unguided(), "simulation": simulation}
    return {name: sampler(prior, like, times, n, Stream(14, tile=400)).x for name, sampler in samplers.items()}


def model_rows(results: Path, quick: bool) -> list[Row]:
    exact, n = law(), 10_000 if quick else 100_000
    distances = {"js": exact.js, "pmf_error": exact.pmf_error}
    perfect = [exact.perfect(k, n) for k in range(1, 9)]
    floors: dict[str, Floor] = {name: floor([of(x) for x in perfect]) for name, of in distances.items()}
    rows = [Row(f"(c) perfect draws, {n} frames: {name}", own.mean, own.std) for name, own in floors.items()]
    for weight, said in ((PLAIN, "score matching"), (TIED, "with Fokker–Planck residual")):
        model = results / f"muller-brown~train.loss.weight={weight}" / "model.pt"
        if not model.is_file():
            continue
        for kind, x in drawn(model, n).items():
            for name, of in distances.items():
                value, target = of(x), None if quick or weight == PLAIN else PUBLISHED[name]
                holds = None if target is None else value <= target
                z = floors[name].z(value)
                rows.append(Row(f"(c) {said}, {kind}: {name} (z = {z:.0f})", value, floors[name].std, target, holds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer chains and frames: a minute")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--record", action="store_true", help="add a dated result and renew the table in README.md")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with the run muller-brown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            rows = [harmonic_row(), *reference_rows(options.quick), *model_rows(options.results, options.quick)]
    except InputError as error:
        parser.error(str(error))
    command = " ".join(["python", "benchmarks/molecules.py", *sys.argv[1:]])
    facts: dict[str, object] = {"date": str(datetime.date.today()), "command": command, "machine": machine.in_words()}
    facts["versions"] = {name: version(name) for name in ("sciflow", "torch")}
    print(text(rows))
    if options.json:
        write(options.json, rows, **facts)
    if options.record:
        record("molecules", f"{facts['date']}, `{command}`. {libraries(facts)}.\n\n{markdown(rows)}", rows, **facts)


if __name__ == "__main__":
    main()
