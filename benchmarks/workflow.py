"""The workflow: what it costs beside the work itself.

    python benchmarks/workflow.py [--quick] [--json FILE] [--record]

Commands and files are real; the jobs of the sweep are a stand-in, because 600 real ones would take half an hour and
tell the same of Snakemake: `python -IS` with a tenth of a second of arithmetic. Medians over rounds, things to be
compared by turns in each; no verdict where the error exceeds 5 % or the machine did other work during that part. A
target stands on a row that can meet such an error: on files in memory, where no disk is slow now and then.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import machine  # noqa: E402
import workflow_files as files  # noqa: E402
import workflow_jobs as jobs  # noqa: E402
from rows import Row, judged, report  # noqa: E402

LIBRARIES = ("sciflow", "snakemake", "torch", "h5py", "h5netcdf", "xarray")
PARTS: dict[str, Callable[[Path, bool], list[jobs.Found]]] = {
    "commands": jobs.commands,
    "sweep": jobs.sweep,
    "together": jobs.together,
    "checkpoint": files.checkpoint,
    "resume": jobs.resume,
    "store": files.store,
    "ranks": files.ranks,
}


def row(found: jobs.Found, quiet: bool) -> Row:
    """The median of the rounds; a single round has an error that nobody knows, and gets no verdict."""

    def median(chosen: Sequence[int]) -> float:
        return statistics.median(found.rounds[i] for i in chosen)

    if len(found.rounds) == 1:
        return Row(found.claim, found.rounds[0], float("nan"), found.target)
    return judged(found.claim, median, [len(found.rounds)], found.target, quiet)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [all]")
    parser.add_argument("--quick", action="store_true", help="three minutes: a smaller sweep on one core and on two")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    rows, said, n_rounds = [], {}, 0
    for name in options.parts or PARTS:
        watch = machine.Watch()
        with tempfile.TemporaryDirectory(prefix=f"sciflow-{name}-") as folder:
            found = PARTS[name](Path(folder), options.quick)
        said[name] = watch.disturbance()  # of each part alone: what disturbs one spoils no other
        rows += [row(one, said[name][1]) for one in found]
        n_rounds += sum(len(one.rounds) for one in found)
        print(f"{name} done", file=sys.stderr)
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    words, quiet = "; ".join(f"{name} {said[name][0]}" for name in said), all(is_quiet for _, is_quiet in said.values())
    report("workflow", rows, n_rounds, versions, machine.in_words(), (words, quiet), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
