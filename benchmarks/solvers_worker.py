"""One process of the solver benchmark: all solvers of one side on the problems of a file.

python solvers_worker.py ours|peers PROBLEMS.pt ENDS.pt      the number of calls of each run is counted
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import time
import warnings
from pathlib import Path

import torch
from solvers_cases import Counting, denoiser

LIBRARIES = {
    "ours": ("sciflow", "torch"),
    "peers": ("diffusers", "azula", "k-diffusion", "torchdiffeq", "torch"),
}


def main(side: str, problems: Path, answer: Path) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore")
    module, given, ends = importlib.import_module(f"solvers_{side}"), torch.load(problems), {}
    with torch.no_grad():
        for problem, (numbers, start) in given["problems"].items():
            function, is_network = denoiser(numbers), "program" in numbers
            for name, run in module.variants(start).items():
                if is_network and name.removeprefix("sciflow ") not in getattr(module, "THROUGH_NETWORKS", (name,)):
                    continue
                for calls in given["budgets"]:
                    model = Counting(function)
                    try:
                        if not is_network:
                            run(model, start[:1], calls)  # plans and fetches code
                        model.calls, before = 0, time.process_time()
                        end = run(model, start, calls)
                    except (ValueError, IndexError, ZeroDivisionError):
                        continue  # refuses so few calls
                    seconds = time.process_time() - before
                    if 0 < model.calls <= calls:
                        ends[problem, name, calls] = (end, model.calls, seconds)
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES[side]}
    torch.save({"ends": ends, "versions": versions}, answer)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
