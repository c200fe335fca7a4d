"""Fields: generators against analytic solutions, and what they and Fourier networks cost beside the peers.

    python benchmarks/pde.py [--quick] [--json FILE] [--record]

Accuracy needs no quiet machine. Costs are CPU time at one thread, medians of paired ratios of processes that take
turns; ratios get no verdict where the error exceeds 5 % or the machine does other work. A peer that is not there is
said, and its rows are left out.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import machine  # noqa: E402
import pde_parts as parts  # noqa: E402
import torch  # noqa: E402
from rows import asked, report  # noqa: E402


def main() -> int:
    options = asked(__doc__, "a minute")
    torch.set_num_threads(1)
    watch = machine.Watch()
    with torch.no_grad():
        found = parts.soliton_rows() + parts.burgers_rows() + parts.flow_rows() + parts.set_rows(options.quick)
    disturbance = watch.disturbance(time.process_time())
    quiet = disturbance[1]
    found += parts.network_rows(options.quick, quiet) + parts.stepping_rows(options.quick, quiet)
    versions = {name: importlib.metadata.version(name) for name in ("sciflow", "torch", "numpy", "scipy")}
    seconds = f"{time.monotonic() - options.begun:.1f} s"
    report("pde", found, seconds, versions, machine.in_words(), disturbance, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
