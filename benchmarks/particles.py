"""Particle samplers against known answers, beside the libraries of the field: one command, a part for each question.

    python benchmarks/particles.py [PART ...] [--quick] [--json FILE] [--record]

Each part is a module `particles_<part>.py` with `rows(quick) -> list[Row]` and a docstring that says what is measured.
A part judges for itself whether the machine is quiet enough for its clocks; accuracy needs no quiet. A part whose
library is not there says so and gives no rows for it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import sys
import time
from pathlib import Path

import machine
import torch
from rows import Row, libraries, markdown, record, text, write

from sciflow import __version__

PARTS = ("driver", "compose", "marginal", "filtering", "twisted")
"""Names of the parts; `particles_<part>.py` measures them, and README.md has a section for each."""


def facts(options: argparse.Namespace, parts: list[str]) -> dict[str, object]:
    """Where and when, in words."""
    command = ["python benchmarks/particles.py", *(options.parts and parts), *(["--quick"] if options.quick else [])]
    return {
        "benchmark": "particles",
        "date": datetime.date.today().isoformat(),
        "command": " ".join([*command, *(["--record"] if options.record else [])]),
        "machine": machine.in_words(),
        "versions": {"sciflow": __version__, "torch": torch.__version__},
    }


def measured(part: str, quick: bool) -> tuple[list[Row], dict[str, object]]:
    """The rows of one part, how long they took, and what else ran in the meantime."""
    watch, start = machine.Watch(), time.monotonic()
    found = importlib.import_module(f"particles_{part}").rows(quick)
    return found, {"seconds": round(time.monotonic() - start, 1), "during the run": watch.disturbance()[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--quick", action="store_true", help="less than a minute for each part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows of all parts there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}.")
    torch.set_num_threads(1)
    parts = options.parts or list(PARTS)
    known, everything = facts(options, parts), []
    print(known["machine"])
    for part in parts:
        with torch.no_grad():
            found, took = measured(part, options.quick)
        everything += [Row(f"{part}: {row.claim}", row.value, row.stderr, row.target, row.holds) for row in found]
        print(f"\n{part}, {took['seconds']} s; {took['during the run']}.\n{text(found)}")
        if options.record:
            said = (
                f"{known['date']}, `{known['command']}`, {took['seconds']} s. {known['machine']}; {libraries(known)}."
            )
            said += f" During the run: {took['during the run']}."
            record(f"particles_{part}", f"{said}\n\n{markdown(found)}", found, **known, **took)
    if options.json:
        write(options.json, everything, **known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
