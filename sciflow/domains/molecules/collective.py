"""Collective variables: torsions by the names of their atoms, and basins as boxes on their circles."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciflow.domains.molecules.force_field_bonded import dihedral
from sciflow.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from sciflow.domains.molecules.molecule import Atom

AtomName = str | int
"""`RESIDUE-ATOM` as in ALA2-CA, or the number of an atom from 0."""
Arc = tuple[float, float]
"""From one angle up to another [°]; from 150 to −150 leads through ±180."""


def wrapped(degrees: Tensor) -> Tensor:
    """Angles in [−180, 180)."""
    return (degrees + 180).remainder(360) - 180


def within(degrees: Tensor, arc: Arc) -> Tensor:
    """Which angles lie on an arc, its first end included."""
    low, high = arc
    return (degrees - low).remainder(360) < ((high - low) % 360 or 360)


def overlap(a: Arc, b: Arc) -> bool:
    """Whether two arcs have a stretch in common: then the start of one lies on the other."""
    starts = torch.tensor([b[0], a[0]], dtype=torch.float64)
    return bool(within(starts[:1], a).any() or within(starts[1:], b).any())


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
    """Torsions of a molecule, and basins in which its conformations are counted.

        basin k: all x whose torsions lie on the arcs of the basin; what a basin does not name may have any value

    Args:
        torsions: name → four atoms, each `RESIDUE-ATOM` (ALA2-CA) or a number from 0; IUPAC's sign.
        basins: name → torsion → [from, to] in degrees between −180 and 180; from above to leads through ±180. The
            first basin is what free energies are counted from.
    Raises:
        InputError: a basin of an unknown torsion, arcs that leave the circle or are empty, basins that overlap.
    """

    torsions: dict[str, tuple[AtomName, AtomName, AtomName, AtomName]] = field(default_factory=dict)
    basins: dict[str, dict[str, Arc]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, arcs in self.basins.items():
            for torsion, (low, high) in arcs.items():
                where = f"dataset.collective.basins.{name}.{torsion}"
                if torsion not in self.torsions:
                    raise InputError(f"{where}: there is no torsion {torsion!r}, known are {sorted(self.torsions)}.")
                if not (-180 <= low <= 180 and -180 <= high <= 180):
                    raise InputError(f"{where} is [{low}, {high}]: angles are degrees between -180 and 180.")
                if low == high:
                    raise InputError(f"{where} is [{low}, {high}]: nothing lies there. Leave it out for any angle.")
        for (a, first), (b, second) in itertools.combinations(self.basins.items(), 2):
            if all(overlap(first[torsion], second[torsion]) for torsion in first.keys() & second.keys()):
                raise InputError(f"dataset.collective.basins: {a!r} and {b!r} overlap. A frame belongs to one of them.")

    def atoms(self, atoms: Sequence[Atom]) -> Tensor:
        """Numbers of the atoms of each torsion, (4, torsion).

        Raises:
            InputError: an unknown atom, or one that a torsion names twice.
        """
        found = []
        for torsion, names in self.torsions.items():
            where = f"dataset.collective.torsions.{torsion}"
            numbers = [number_of(name, atoms, where) for name in names]
            if len(set(numbers)) < 4:
                raise InputError(f"{where} names an atom twice: {list(names)}. A torsion has four atoms.")
            found.append(numbers)
        return torch.tensor(found, dtype=torch.long).reshape(-1, 4).T

    def values(self, x: Tensor, atoms: Sequence[Atom]) -> Tensor:
        """Torsions [°] in [−180, 180) of positions (…, atom, 3), (…, torsion), float64."""
        points = (x.double()[..., row, :] for row in self.atoms(atoms))
        return wrapped(dihedral(*points).rad2deg())

    def basin(self, values: Tensor) -> Tensor:
        """Number of the basin of each row (…, torsion), −1 outside of all."""
        names, found = list(self.torsions), torch.full(values.shape[:-1], -1)
        for k, arcs in enumerate(self.basins.values()):
            inside = torch.ones(values.shape[:-1], dtype=torch.bool)
            for torsion, arc in arcs.items():
                inside &= within(values[..., names.index(torsion)], arc)
            found = torch.where(inside, k, found)
        return found

    def packed(self) -> str:
        """As text, for the attributes of a file."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


def collective_of(data: xr.Dataset) -> Collective:
    """The collective variables of a data set; none where it names none."""
    fields: Mapping = json.loads(str(data.attrs.get("collective", "{}")))
    torsions = {name: tuple(atoms) for name, atoms in fields.get("torsions", {}).items()}
    basins = {
        name: {torsion: tuple(arc) for torsion, arc in arcs.items()} for name, arcs in fields.get("basins", {}).items()
    }
    return Collective(torsions, basins)
