"""sciflow: generative physics and inverse problems, each method proven against a closed form.

Importing the package loads neither torch nor xarray; `sciflow.open` and the sub-packages load what they need.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import xarray

try:
    __version__ = version("sciflow")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"


def open(path: str | Path) -> xarray.Dataset:
    """Open one artefact of a run (`data.nc`, `samples.nc`, `metrics.nc`) as an xarray data set."""
    from sciflow.data.store import open_dataset

    return open_dataset(path)
