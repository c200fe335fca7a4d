"""Every notebook runs from top to bottom in seconds, checks in it included, and is a notebook for Jupyter too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs_and_its_checks_hold(file: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:__main__", file],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,  # seconds; it takes 20 CPU s, and a shared core may be ten times slower
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exact" in done.stdout, "a notebook prints its numbers beside the exact ones"
    assert not list(tmp_path.iterdir()), "a notebook leaves nothing behind"


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_is_a_notebook(file: Path) -> None:
    """Text and code alternate, there is a figure and a check for each part, and no output is stored."""
    cells = jupytext.read(file, fmt="py:percent").cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[0] == "markdown" and {"markdown", "code"} == set(kinds)
    parts = [cell for cell in cells if cell.cell_type == "markdown" and cell.source.startswith("## ")]
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert sum("plt.show()" in source for source in code) >= len(parts) > 0
    assert sum("assert " in source for source in code) >= len(parts)
    assert not any(cell.get("outputs") for cell in cells)
