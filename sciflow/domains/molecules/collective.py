"""Collective variables: torsions, distances and radii by the names of their atoms, and basins as boxes of them."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sciflow.data.arrays import from_xarray
from sciflow.domains.molecules.axes import FULL, Axis, Interval, wrapped
from sciflow.domains.molecules.force_field_bonded import dihedral
from sciflow.domains.molecules.molecule import radius_of_gyration
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from sciflow.domains.molecules.molecule import Atom

AtomName = str | int
"""`RESIDUE-ATOM` as in ALA2-CA, or the number of an atom from 0."""
WHERE = "dataset.collective"
MARGIN = 0.05  # of the values seen, left free at both ends of a line


def number_of(name: AtomName, atoms: Sequence[Atom], where: str) -> int:
    """Which atom is meant.

    Raises:
        InputError: there is no such atom, or several have the name.
    """
    if isinstance(name, int):
        if not 0 <= name < len(atoms):
            raise InputError(f"{where}: there is no atom {name}, the molecule has atoms 0 to {len(atoms) - 1}.")
        return name
    known = [f"{atom.residue}-{atom.name}" for atom in atoms]
    if known.count(name) != 1:
        near = difflib.get_close_matches(name, known, 3)
        hint = f" Did you mean {' or '.join(near)}?" if near else f" Known are {', '.join(known[:8])}, …"
        found = "there is no atom" if name not in known else "several atoms are called"
        raise InputError(f"{where}: {found} {name!r}. Write RESIDUE-ATOM, or the number of the atom.{hint}")
    return known.index(name)


@dataclass(frozen=True)
class Collective:
    """Collective variables of a molecule, and basins in which its conformations are counted.

        torsion: dihedral angle [°]      distance: |x_i − x_j| [nm]
        radius: of gyration, √(mean of |x_i − centre|²) [nm], all atoms of one weight
        basin k: all x whose variables lie in the intervals of the basin; what a basin does not name may have any value

    Variables stand in this order wherever the first two are shown.

    Args:
        torsions: name → four atoms, each `RESIDUE-ATOM` (ALA2-CA) or a number from 0; IUPAC's sign.
        basins: name → variable → [from, to]; of a torsion in degrees between −180 and 180, from above to leads through
            ±180; of a distance or radius in nm. The first basin is what free energies are counted from.
        distances: name → two atoms.
        radii: name → two atoms or more, or `all`.
        ranges: distance or radius → [from, to] [nm], what is shown and cut into cells; those that are not named are
            shown where held-out frames lie.
    Raises:
        InputError: two variables of one name, a basin or range of an unknown variable, intervals that are empty or
            leave the circle or the line, basins that overlap.
    """

    torsions: dict[str, tuple[AtomName, AtomName, AtomName, AtomName]] = field(default_factory=dict)
    basins: dict[str, dict[str, Interval]] = field(default_factory=dict)
    distances: dict[str, tuple[AtomName, AtomName]] = field(default_factory=dict)
    radii: dict[str, tuple[AtomName, ...] | Literal["all"]] = field(default_factory=dict)
    ranges: dict[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(f"{WHERE}: two variables are called {' and '.join(twice)}. Give each its own name.")
        for name, interval in self.ranges.items():
            where = f"{WHERE}.ranges.{name}"
            self._known(where, name)
            if name in self.torsions:
                raise InputError(f"{where}: {name!r} is a torsion, all of its circle is shown. Leave it out.")
            _check_line(where, interval)
        for basin, box in self.basins.items():
            for name, interval in box.items():
                where = f"{WHERE}.basins.{basin}.{name}"
                self._known(where, name)
                (_check_circle if name in self.torsions else _check_line)(where, interval)
        for (a, first), (b, second) in itertools.combinations(self.basins.items(), 2):
            shared = [axis for axis in self.axes if axis.name in first.keys() & second.keys()]
            if all(axis.overlap(first[axis.name], second[axis.name]) for axis in shared):
                raise InputError(f"{WHERE}.basins: {a!r} and {b!r} overlap. A frame belongs to one of them.")

    def _known(self, where: str, name: str) -> None:
        if name not in self.names:
            raise InputError(f"{where}: there is no collective variable {name!r}, known are {sorted(self.names)}.")

    @property
    def names(self) -> list[str]:
        """Of all variables: torsions, distances, radii."""
        return [*self.torsions, *self.distances, *self.radii]

    @property
    def axes(self) -> list[Axis]:
        """Where each variable lives; the ends of a line are NaN where no range is known."""
        return [
            Axis(name, "°", *FULL, is_circle=True)
            if name in self.torsions
            else Axis(name, "nm", *self.ranges.get(name, (math.nan, math.nan)), is_circle=False)
            for name in self.names
        ]

    @property
    def unit(self) -> str:
        """Of all variables, or where to look where they differ."""
        units = {axis.unit for axis in self.axes}
        return units.pop() if len(units) == 1 else "variable_unit"

    def atoms(self, atoms: Sequence[Atom]) -> dict[str, list[int]]:
        """Numbers of the atoms of each variable.

        Raises:
            InputError: an unknown atom, one that a variable names twice, or a radius of fewer than two.
        """
        kinds: dict[str, Mapping[str, Any]] = {
            "torsions": self.torsions,
            "distances": self.distances,
            "radii": self.radii,
        }
        wanted = {"torsions": "A torsion has four atoms", "distances": "A distance has two atoms",
                  "radii": "Name each once"}  # fmt: skip
        found: dict[str, list[int]] = {}
        for kind, variables in kinds.items():
            for name, named in variables.items():
                where = f"{WHERE}.{kind}.{name}"
                chosen: Sequence[AtomName] = range(len(atoms)) if named == "all" else named
                found[name] = [number_of(atom, atoms, where) for atom in chosen]
                if len(set(found[name])) < len(found[name]):
                    raise InputError(f"{where} names an atom twice: {list(named)}. {wanted[kind]}.")
                if len(found[name]) < 2:
                    raise InputError(f"{where} has {len(found[name])} atoms, needs two or more, or `all`.")
        return found

    def values(self, x: Tensor, atoms: Sequence[Atom]) -> Tensor:
        """Variables of positions (…, atom, 3) [nm], (…, variable), float64; torsions in [−180, 180)."""
        x = x.double()
        columns = []
        for name, numbers in self.atoms(atoms).items():
            points = x[..., numbers, :]
            if name in self.torsions:
                columns.append(wrapped(dihedral(*points.unbind(-2)).rad2deg()))
            elif name in self.distances:
                columns.append((points[..., 0, :] - points[..., 1, :]).norm(dim=-1))
            else:
                columns.append(radius_of_gyration(points))
        return torch.stack(columns, -1) if columns else x.new_zeros(*x.shape[:-2], 0)

    def basin(self, values: Tensor) -> Tensor:
        """Number of the basin of each row (…, variable), −1 outside of all."""
        found = torch.full(values.shape[:-1], -1)
        for k, box in enumerate(self.basins.values()):
            inside = torch.ones(values.shape[:-1], dtype=torch.bool)
            for column, axis in zip(values.unbind(-1), self.axes, strict=True):
                if axis.name in box:
                    inside &= axis.within(column, box[axis.name])
            found = torch.where(inside, k, found)
        return found

    def spanning(self, values: Tensor) -> Collective:
        """The same with a range for each line that has none: where values (n, variable) lie, and a margin."""
        found = dict(self.ranges)
        for axis, column in zip(self.axes, values.unbind(-1), strict=True):
            if not axis.is_circle and axis.name not in found:
                low, high = float(column.min()), float(column.max())
                margin = MARGIN * ((high - low) or high or 1.0)
                found[axis.name] = (max(0.0, low - margin), high + margin)
        return dataclasses.replace(self, ranges=found)

    def packed(self) -> str:
        """As text, for the attributes of a file."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


def _check_circle(where: str, interval: Interval) -> None:
    low, high = interval
    if not (-180 <= low <= 180 and -180 <= high <= 180):
        raise InputError(f"{where} is [{low}, {high}]: angles are degrees between -180 and 180.")
    if low == high:
        raise InputError(f"{where} is [{low}, {high}]: nothing lies there. Leave it out for any angle.")


def _check_line(where: str, interval: Interval) -> None:
    low, high = interval
    if not 0 <= low < high < math.inf:
        raise InputError(f"{where} is [{low}, {high}]: give nm, 0 or more, the smaller one first.")


def collective_of(data: xr.Dataset) -> Collective:
    """The collective variables of a data set, with their ranges; none where it names none."""
    fields: Mapping[str, Any] = json.loads(str(data.attrs.get("collective", "{}")))
    made = {kind: {name: _as_tuple(entry) for name, entry in fields.get(kind, {}).items()}
            for kind in ("torsions", "distances", "radii", "ranges")}  # fmt: skip
    basins = {
        basin: {name: _as_tuple(interval) for name, interval in box.items()}
        for basin, box in fields.get("basins", {}).items()
    }
    found = Collective(basins=basins, **made)
    if not found.names:
        return found
    held_out = data["collective"][data["split"].to_numpy() == "test"]
    return found.spanning(from_xarray(held_out, ("sample", "variable"), torch.float64))


def _as_tuple(entry: Any) -> Any:
    return entry if isinstance(entry, str) else tuple(entry)
