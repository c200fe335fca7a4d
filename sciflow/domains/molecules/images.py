"""What a periodic box asks of conformations: the box that is meant, molecules that are whole, variables within one."""

from __future__ import annotations

import math
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
AT_ONCE = 1 << 20  # pairs or bonds of all frames that are looked at at once: 24 MB of vectors, or those of one frame
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
    box, moves = box.to(x), _neighbours(box).to(x)
    parts = [shortest(between(part.permute(1, 2, 0), i, j, box), moves).mean(0) for part in _parts(x, len(i))]
    return torch.cat(parts) if parts else x.new_zeros(0)


def _parts(x: Tensor, n: int) -> Sequence[Tensor]:
    """Rows of a batch, so many that n pairs of each can be held."""
    return x.split(max(1, AT_ONCE // max(1, n)))


def _neighbours(box: Box) -> Tensor:
    """Moves (cell, 3) [nm] by one of which what `Box.nearest` finds becomes the shortest image; none if not sheared.

    What it finds lies in the cuboid of half lengths a_x/2, b_y/2, c_z/2: the shortest one is no longer than the
    diagonal R of these, so that |z + n_c c_z| ≤ R, and y and x likewise, whither c and b lead by half a length each.
    """
    if not box.is_sheared:
        return box.vectors.new_zeros(0, 3)
    lengths, reach = box.vectors.diagonal().tolist(), [0, 0, 0]
    longest = math.hypot(*lengths) / 2
    for axis in (2, 1, 0):
        reach[axis] = int(longest / lengths[axis] + 0.5 + sum(reach[axis + 1 :]) / 2)
    return torch.cartesian_prod(*(torch.arange(-end, end + 1.0, dtype=torch.float64) for end in reach)) @ box.vectors


def shortest(d: Tensor, moves: Tensor) -> Tensor:
    """Lengths (n, batch) of vectors (n, axis, batch), or of what the nearest of some moves (cell, 3) makes of them."""
    if not len(moves):
        return d.norm(dim=1)
    least = d.square().sum(1)
    for move in moves:
        least = torch.minimum(least, (d + move[:, None]).square().sum(1))
    return least.sqrt()


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
    is_other = ~(off <= SAME)  # also of numbers that are not finite
    if bool(is_other.any()):
        k = int(is_other.nonzero()[0])
        raise InputError(
            f"{where}: the box of frame {k} differs by {float(off[k]):.3g} nm from that of the System, whose energies "
            "are of one box alone. Take frames of constant volume, and the System of that box."
        )


def check_whole(x: Tensor, bonds: Tensor, box: Box | None, atoms: Sequence[Atom], where: str = "") -> None:
    """Hold the bonds of frames (frame, atom, 3) [nm] against the box.

    Raises:
        InputError: a bond leads to the image of an atom in another cell, so that φ, ψ and distances, which are of atoms
            as they are, would be wrong, and energies too unless bonds have images in the System.
    """
    if box is None or not bonds.shape[1]:
        return
    i, j = bonds
    n_before = 0
    for part in _parts(x, len(i)):
        d = (part[:, i] - part[:, j]).double().permute(1, 2, 0).contiguous()
        moved = (box.nearest(d.clone()) - d).abs().amax(1) > box.width / 2  # 0 or a length of the box
        if bool(moved.any()):
            frame, bond = (int(value) for value in moved.T.nonzero()[0])
            a, b = (f"{atoms[int(row[bond])].name} of {atoms[int(row[bond])].residue}" for row in bonds)
            raise InputError(
                f"{where}a molecule is not whole in frame {n_before + frame}: {a} and {b} are bonded and lie in "
                "different cells of the box. Make molecules whole first, e.g. with mdtraj's `make_molecules_whole`: "
                "angles and distances are of atoms as they are. What is bonded to its own image has no such form, "
                "and run files do not take it."
            )
        n_before += len(part)


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
