"""One process of the overhead benchmark: it is told which case to run, and answers with the seconds of each variant.

    python overhead_worker.py ours|peers        requests and answers are lines of JSON

Workers live in different environments, and the parent wakes one at a time, so that no two run together.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import random
import sys
import time
import warnings
from collections.abc import Callable

import torch
from overhead_cases import CASES, check
from torch import Tensor

SHORTEST = 0.01  # seconds of one measurement: shorter runs are repeated
Run = Callable[[], Tensor]


def prepared(side: str) -> dict[str, dict[str, Run]]:
    """The variants of every case, each run once and checked."""
    module = importlib.import_module(f"overhead_{side}")
    cases = {case: module.variants(case) for case in CASES}
    for case, variants in cases.items():
        for name, run in variants.items():
            if name == "calls":
                run()
            else:
                check(f"{name}, {case}", run(), case)
    return cases


def timed(run: Run, repeats: int) -> tuple[float, float]:
    """CPU and wall seconds of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def seconds(run: Run) -> tuple[float, float]:
    """CPU and wall seconds of one run; a short one is timed again, warm and repeated, as the first fetches its code."""
    first = timed(run, 1)
    return first if first[0] > SHORTEST else timed(run, math.ceil(SHORTEST / first[0]))


def one_round(variants: dict[str, Run], index: int) -> dict[str, tuple[float, float]]:
    """Every variant once, in an order drawn for the round: whoever follows a run that filled the caches pays for it."""
    names = list(variants)
    measured = {name: seconds(variants[name]) for name in random.Random(index).sample(names, len(names))}
    return {name: measured[name] for name in names}


def versions(side: str) -> dict[str, str]:
    libraries = ("sciflow", "torch") if side == "ours" else ("diffusers", "azula", "k-diffusion", "torch")
    return {library: importlib.metadata.version(library) for library in libraries}


def main(side: str) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # they slow score calls down by 3 where responsibilities underflow
    warnings.filterwarnings("ignore")
    answers = sys.stdout
    sys.stdout = sys.stderr  # a library may print, only answers may go out
    with torch.no_grad():
        cases = prepared(side)
        print(json.dumps({"versions": versions(side), "cpu": time.process_time()}), file=answers, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            measured = one_round(cases[request["case"]], request["round"])
            print(json.dumps({"seconds": measured, "cpu": time.process_time()}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
