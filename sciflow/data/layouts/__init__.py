"""Files of simulations whose layout says what their axes are: recognised, read and written."""

from __future__ import annotations

from sciflow.data.layouts.cf import CF
from sciflow.data.layouts.layout import LAYOUTS, Layout, layout_of
from sciflow.data.layouts.pdebench import PDEBench, PDEBenchSeeds
from sciflow.data.layouts.pdebench_flow import PDEBenchIncompressible
from sciflow.data.layouts.simulations import Part, Simulations, check_uniform
from sciflow.data.layouts.well import TheWell

__all__ = [
    "CF",
    "LAYOUTS",
    "Layout",
    "PDEBench",
    "PDEBenchIncompressible",
    "PDEBenchSeeds",
    "Part",
    "Simulations",
    "TheWell",
    "check_uniform",
    "layout_of",
]
