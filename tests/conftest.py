"""A working directory for the command line, and two tiny runs that are built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tiny import Place  # imports torch: only for the tests that need it


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty working directory; what plugins add is taken back at the end."""
    from tests.tiny import Place, restored_tables

    with restored_tables():
        yield Place(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A working directory in which the runs `imaging` and `analytic` are built; copy it before a change."""
    from tests.tiny import ANALYTIC, IMAGING, Place

    place = Place(tmp_path_factory.mktemp("built"))
    place.build(IMAGING, "imaging")
    place.build(ANALYTIC, "analytic")
    return place


@pytest.fixture
def copied(built: Place, tmp_path: Path) -> Iterator[Place]:
    """A copy of the built runs, to be changed."""
    from tests.tiny import Place, restored_tables

    with restored_tables():
        yield Place(built.copy(tmp_path / "copy"))
