"""The library `particles` in a process of its own: each line of its input, a seed, asks for one bootstrap filter.

    python -P benchmarks/particles_filtering_peer.py N FILE        -P: this folder holds a particles.py of our own

FILE holds one measurement a line. Answers with CPU seconds and log-evidence.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings

import numpy as np


def main(n: int, file: str) -> None:
    warnings.filterwarnings("ignore")
    import particles
    from particles import distributions, state_space_models

    y = np.loadtxt(file)

    class Decay(state_space_models.StateSpaceModel):
        def PX0(self):
            return distributions.Normal(0.0, 1.0)

        def PX(self, t, xp):
            return distributions.Normal(0.9 * xp, math.sqrt(0.19))

        def PY(self, t, xp, x):
            return distributions.Normal(x, 0.5)

    for line in sys.stdin:
        np.random.seed(int(line))
        model = state_space_models.Bootstrap(ssm=Decay(), data=y)
        run = particles.SMC(fk=model, N=n, resampling="systematic", ESSrmin=0.5, collect="off")
        start = time.process_time()
        run.run()
        print(json.dumps((time.process_time() - start, float(run.logLt))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
