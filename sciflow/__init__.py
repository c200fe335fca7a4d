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


def open(path: str | Path) -> xarray.Dataset | xarray.DataTree:
    """Open results: a run or a sweep as a tree, one artefact as a data set.

    A folder gives a tree with the groups `data`, `model`, `samples`, `metrics` and `arrays`, as far as they are built,
    and `sweep` over the swept keys; arrays are read when they are used, and the attributes `missing` and `stale` name
    what is not there or out of date. `tree.sciflow` draws the figures of the report and of the comparison.

    Args:
        path: the folder `results/<run>`, of a run or of the base of a sweep; or a file: `data.nc`, `samples.nc`,
            `metrics.nc`, which is read whole.

    Raises:
        InputError: it is not there, no run, no artefact, or damaged.
    """
    from pathlib import Path

    from sciflow.data.store import open_dataset

    path = Path(path)
    if path.is_file() or (path.suffix == ".nc" and not path.is_dir()):
        return open_dataset(path)
    from sciflow.tree import open_tree

    return open_tree(path)
