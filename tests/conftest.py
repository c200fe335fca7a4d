"""A working directory for the command line, and two tiny runs that are built once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tiny import Place  # imports torch: only for the tests that need it


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How often runs were killed, as tests note it under `kills`, and what became of them."""
    ended = {outcome: terminalreporter.getreports(outcome) for outcome in ("passed", "failed")}
    noted = {
        outcome: [value for report in reports for name, value in report.user_properties if name == "kills"]
        for outcome, reports in ended.items()
    }
    if noted["passed"] or noted["failed"]:
        terminalreporter.write_line(
            f"{sum(noted['passed'])} kills in {len(noted['passed'])} tests, all artefacts as if undisturbed; "
            f"{len(ended['failed'])} tests failed"
        )


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
