"""Fields: generators against analytic solutions, and what they and Fourier networks cost beside the peers.

    python benchmarks/pde.py [--quick] [--json FILE] [--record]

Accuracy needs no quiet machine. Costs are CPU time at one thread, medians of paired ratios of processes that take
turns; ratios get no verdict where the error exceeds 5 % or the machine does other work. A peer that is not there is
said, and its rows are left out.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import machine  # noqa: E402
import pde_parts as parts  # noqa: E402
import torch  # noqa: E402
from rows import libraries, markdown, record, text, write  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/ and benchmarks/README.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch, begun = machine.Watch(), time.monotonic()
    with torch.no_grad():
        found = parts.soliton_rows() + parts.burgers_rows() + parts.flow_rows() + parts.set_rows(options.quick)
    alone = time.process_time()
    words, quiet = watch.disturbance(alone)
    found += parts.network_rows(options.quick, quiet) + parts.stepping_rows(options.quick, quiet)
    facts = {
        "benchmark": "pde",
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python benchmarks/pde.py", *sys.argv[1:]]),
        "machine": machine.in_words(),
        "versions": {name: importlib.metadata.version(name) for name in ("sciflow", "torch", "numpy", "scipy")},
        "during the run": words,
        "quiet": quiet,
        "seconds": round(time.monotonic() - begun, 1),
    }
    if options.json:
        write(options.json, found, **facts)
    if options.record:
        said = f"{facts['date']}, `{facts['command']}`, {facts['seconds']} s. {facts['machine']}; {libraries(facts)}."
        record("pde", f"{said} During the run: {words}.\n\n{markdown(found)}", found, **facts)
    print(f"{facts['machine']}; {words}.\n{text(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
