"""The library `particles` in a process of its own: each line of its input asks for the seconds of one resampling.

    python -P benchmarks/particles_peer.py N        -P: this folder holds a particles.py of our own

Answers with the CPU seconds from log-weights and, of these, from normalised weights.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np


def main(n: int) -> None:
    warnings.filterwarnings("ignore")
    from particles import resampling

    log_weights = np.random.default_rng(0).standard_normal(n)
    resampling.systematic(resampling.exp_and_normalise(log_weights))  # compiled at the first call
    print(json.dumps((0.0, 0.0)), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        weights = resampling.exp_and_normalise(log_weights)
        middle = time.process_time()
        resampling.systematic(weights)
        end = time.process_time()
        print(json.dumps((end - start, end - middle)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
