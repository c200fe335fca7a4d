"""The public table of potentials."""

from __future__ import annotations

from sciflow.domains.molecules.clusters import DW4, LJ13ECNF, LJ13IDEM
from sciflow.domains.molecules.wells import GMM40, DoubleWell, DoubleWellChain, ManyWell, MullerBrown

POTENTIALS: dict[str, type] = {
    "muller_brown": MullerBrown,
    "double_well": DoubleWell,
    "double_well_chain": DoubleWellChain,
    "many_well": ManyWell,
    "gmm40": GMM40,
    "dw4": DW4,
    "lj13_ecnf": LJ13ECNF,
    "lj13_idem": LJ13IDEM,
}
