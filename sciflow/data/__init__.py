"""Named dims and units, atomic byte-stable artefacts, resumable state, splits, and readers of the user's files.

Importing it loads neither torch nor xarray.
"""

from __future__ import annotations

from sciflow.data.arrays import from_xarray, to_xarray
from sciflow.data.formats import FORMATS, format_of
from sciflow.data.layouts import LAYOUTS, Simulations, layout_of
from sciflow.data.schema import Schema, Variable, check
from sciflow.data.split import split
from sciflow.data.state import State, state_key
from sciflow.data.store import (
    Header,
    atomic_path,
    open_dataset,
    read_header,
    read_provenance,
    sha256,
    write_dataset,
    write_provenance,
)

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "Header",
    "Schema",
    "Simulations",
    "State",
    "Variable",
    "atomic_path",
    "check",
    "format_of",
    "from_xarray",
    "layout_of",
    "open_dataset",
    "read_header",
    "read_provenance",
    "sha256",
    "split",
    "state_key",
    "to_xarray",
    "write_dataset",
    "write_provenance",
]
