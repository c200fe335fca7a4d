"""What a layout is, those that are known, and the one that a file has."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sciflow.data.formats.mapping import existing
from sciflow.data.layouts.cf import CF, ZARR
from sciflow.data.layouts.pdebench import PDEBench, PDEBenchSeeds
from sciflow.data.layouts.pdebench_flow import PDEBenchIncompressible
from sciflow.data.layouts.simulations import WHOLE, Part, Simulations, unknown_layout
from sciflow.data.layouts.stored import opened
from sciflow.data.layouts.well import TheWell

LAYOUTS: dict[str, type] = {
    "cf": CF,
    "pdebench": PDEBench,
    "pdebench_incompressible": PDEBenchIncompressible,
    "pdebench_seeds": PDEBenchSeeds,
    "the_well": TheWell,
}


class Layout(Protocol):
    """An entry of LAYOUTS."""

    def read(self, path: str | Path, look_inside: bool = True, part: Part = WHOLE) -> Simulations:
        """What the part says of a file; without looking inside, zeros in place of fields."""
        ...

    def write(self, path: str | Path, simulations: Simulations) -> None:
        """A file in this layout."""
        ...


def layout_of(path: str | Path) -> Layout:
    """The layout that the keys of a file show; netCDF and Zarr are told by the ending of their name.

    Raises:
        InputError: no layout knows them; names the keys that were found and those that are known.
    """
    if Path(path).is_dir() or Path(path).suffix in (".nc", ".nc4", ".cdf", ZARR):
        return CF()
    with opened(existing(path)) as file:
        for layout in (TheWell(), PDEBenchSeeds(), PDEBench(), PDEBenchIncompressible()):
            if layout.knows(file):
                return layout
        raise unknown_layout(path, list(file), {name: str(vars(kind)["keys"]) for name, kind in LAYOUTS.items()})
