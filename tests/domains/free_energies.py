"""Whether the errors of free energies say how wrong they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sciflow.domains.protocol import Row

N_SETS, N_BLOCKS = 60, 32


def check_errors(row_of: Callable[[int], Row], exact: float) -> None:
    """Over 60 sets of 32 independent blocks, (value − exact)/error has mean 0 and variance 1.

    Args:
        row_of: seed → the free energy of one set, with its standard error.
        exact: the free energy [kJ/mol].
    """
    scores = [row_of(seed).score for seed in range(N_SETS)]
    z = [(score.value - exact) / score.stderr for score in scores]
    assert max(map(abs, z)) < 5  # of sixty: 32 blocks are Student's t with some thirty degrees, 1e-3
    assert abs(np.mean(z)) < 4 / math.sqrt(N_SETS)
    # χ² of 59, and the bootstrap's 31/32
    assert abs(np.var(z) - 1) < 4 * math.sqrt(2 / (N_SETS - 1)) + 2 / (N_BLOCKS - 1)
