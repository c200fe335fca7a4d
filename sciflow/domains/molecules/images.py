"""What a periodic box asks of conformations: the box that is meant, molecules that are whole, variables within one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciflow.domains.molecules.force_field import ForceField
from sciflow.domains.molecules.force_field_bonded import Bonds
from sciflow.domains.molecules.force_field_terms import Box, between
from sciflow.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sciflow.domains.molecules.molecule import Atom

SAME = 1e-3  # nm: PDB files hold lengths to 10⁻⁴ nm and angles to 0.01°, 5·10⁻⁴ nm of vectors of 3 nm
AT_ONCE = 64  # frames whose pairs are looked at, for the sake of memory
UNSET = 2.0 * torch.eye(3, dtype=torch.float64)  # what OpenMM gives a System whose box nobody has set [nm]


def bonds_of(field: ForceField) -> Tensor:
    """Atoms of each bond with an energy, (2, bond)."""
    found = [term.atoms for term in field.terms if isinstance(term, Bonds)]
    return torch.cat(found, 1) if found else torch.zeros(2, 0, dtype=torch.long)


def molecules_of(bonds: Tensor, n: int) -> Tensor:
    """Number of the molecule of each of n atoms, (atom,): atoms are of one molecule if bonds (2, bond) join them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    i, j = bonds.numpy()
    _, labels = connected_components(coo_array(([1.0] * len(i), (i, j)), shape=(n, n)), directed=False)
    return torch.from_numpy(labels).long()


def mean_distance(x: Tensor, box: Box) -> Tensor:
    """Mean distance of all pairs, of nearest images, of positions (batch, atom, 3) [nm], (batch,)."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    box = box.to(x)
    parts = [between(part.permute(1, 2, 0), i, j, box).norm(dim=1).mean(0) for part in x.split(AT_ONCE)]
    return torch.cat(parts) if parts else x.new_zeros(0)


def check_box(box: Box | None, told: Any) -> None:
    """Hold the box of a System against that of the PDB file beside it.

    Args:
        box: of the System, None where its atoms have no images.
        told: vectors of an OpenMM topology, None where the file names none.

    Raises:
        InputError: they differ, or the file names none and that of the System is what OpenMM takes if none is set.
    """
    if box is None:
        return
    if told is None:
        if torch.equal(box.vectors, UNSET):
            raise InputError(
                "the System has periodic images, its box is the cube of 2 nm that OpenMM takes where none is set, and "
                "the PDB file has no CRYST1. Set it with topology.setPeriodicBoxVectors before createSystem, and write "
                "the PDB file anew."
            )
        return
    theirs = torch.tensor([list(row) for row in told._value], dtype=torch.float64)
    if float(_off(theirs, box)) > SAME:
        raise InputError(
            f"the box of the PDB file is {_told(theirs)} nm, that of the System {_told(box.vectors)} nm. Make the "
            "System from this topology, or write the PDB file with the System's box."
        )


def _off(theirs: Tensor, box: Box) -> Tensor:
    """How far boxes (…, 3, 3) are from one of the same images as `box` [nm], (…,): a + b − c may stand for c."""
    turns = (theirs @ torch.linalg.inv(box.vectors)).round()
    same = turns @ box.vectors
    is_box = (torch.linalg.det(turns).abs() - 1).abs() < 0.5  # of whole numbers: 1
    return (theirs - torch.where(is_box[..., None, None], same, box.vectors)).abs().amax((-2, -1))


def _told(vectors: Tensor) -> str:
    return str([[round(value, 4) for value in row] for row in vectors.tolist()])


def check_cells(box: Box | None, cells: np.ndarray, where: str) -> None:
    """Hold the boxes of frames (…, 3, 3) [nm] against that of the System; energies know no other one.

    Raises:
        InputError: one differs.
    """
    if box is None:
        return
    off = _off(torch.as_tensor(cells, dtype=torch.float64), box).flatten()
    if float(off.max()) > SAME:
        k = int((off > SAME).nonzero()[0])
        raise InputError(
            f"{where}: the box of frame {k} differs by {float(off[k]):.3g} nm from that of the System, whose energies "
            "are of one box alone. Take frames of constant volume, and the System of that box."
        )


def check_whole(x: Tensor, bonds: Tensor, box: Box | None, atoms: Sequence[Atom], where: str = "") -> None:
    """Hold the bonds of frames (frame, atom, 3) [nm] against the box.

    Raises:
        InputError: a bond leads to the image of an atom in another cell, so that angles and energies would be wrong.
    """
    if box is None or not bonds.shape[1]:
        return
    i, j = bonds
    d = (x[:, i] - x[:, j]).double().permute(1, 2, 0).contiguous()
    moved = (box.nearest(d.clone()) - d).abs().amax(1) > box.width / 2  # 0 or a length of the box
    if bool(moved.any()):
        bond, frame = (int(value) for value in moved.nonzero()[0])
        a, b = (f"{atoms[int(row[bond])].name} of {atoms[int(row[bond])].residue}" for row in bonds)
        raise InputError(
            f"{where}a molecule is not whole in frame {frame}: {a} and {b} are bonded and lie in different cells of "
            "the box. Make molecules whole first, e.g. with mdtraj's `make_molecules_whole`."
        )


def check_within(numbers: Mapping[str, Sequence[int]], molecules: Tensor, box: Box | None) -> None:
    """Hold the atoms of each collective variable against the molecules (atom,).

    Raises:
        InputError: a variable is of two molecules in a box, where it depends on which images are taken.
    """
    for name, chosen in numbers.items() if box is not None else ():
        if len(set(molecules[list(chosen)].tolist())) > 1:
            raise InputError(
                f"dataset.collective: {name!r} names atoms of several molecules, which have images in a periodic box: "
                "which one is meant is not said. Name atoms of one molecule."
            )
