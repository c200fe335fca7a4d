"""The potential of a data set, as text in its attributes."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from sciflow.domains.molecules.potential import Potential
from sciflow.domains.molecules.potentials import POTENTIALS
from sciflow.domains.molecules.systems import MOLECULES
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


def known() -> dict[str, type]:
    """Every potential that a file may name."""
    return {**POTENTIALS, **MOLECULES}


def packed(potential: Potential) -> str:
    """A potential as text: its kind and its numbers."""
    kind = next(kind for kind, entry in known().items() if entry is type(potential))
    return json.dumps({"kind": kind, **dataclasses.asdict(potential)})  # type: ignore[call-overload]


def potential_of(data: xr.Dataset) -> Potential:
    """The potential whose law a data set holds.

    Raises:
        InputError: the file names none, or one that no table knows.
    """
    fields = json.loads(str(data.attrs.get("potential", "{}")))
    kind = fields.pop("kind", None)
    if kind not in known():
        raise InputError(
            f"data.nc names the potential {kind!r}, known are {sorted(known())}. Load the plugin that defines it, "
            "or make the data anew."
        )
    return known()[kind](**fields)
