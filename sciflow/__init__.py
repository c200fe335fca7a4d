"""sciflow: generative physics and inverse problems, each method proven against a closed form.

Importing the package loads neither torch nor xarray; `sciflow.open` and the sub-packages load what they need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import xarray

    __version__: str


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: the look-up costs more than the rest of the import."""
    if name != "__version__":
        raise AttributeError(f"module 'sciflow' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sciflow")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+source"


def open(path: str | Path) -> xarray.Dataset:
    """Open one artefact of a run (`data.nc`, `samples.nc`, `metrics.nc`) as an xarray data set."""
    from sciflow.data.store import open_dataset

    return open_dataset(path)
