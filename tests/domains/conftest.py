"""A molecule as a user would bring it."""

from __future__ import annotations

from pathlib import Path

import openmm
import pytest
from openmm import app

from sciflow.domains.molecules.systems import AlanineDipeptide, OpenMMSystem


@pytest.fixture
def own(tmp_path: Path) -> OpenMMSystem:
    """Alanine dipeptide as a PDB file and the XML of a System."""
    molecule = AlanineDipeptide("ff99sbildn_obc2").molecule
    with (tmp_path / "own.pdb").open("w") as file:
        app.PDBFile.writeFile(molecule.topology, molecule.positions.numpy() * openmm.unit.nanometer, file)
    (tmp_path / "own.xml").write_text(openmm.XmlSerializer.serialize(molecule.system))
    return OpenMMSystem(str(tmp_path / "own.pdb"), str(tmp_path / "own.xml"))
