"""What continuous integration says at its end: nothing looks green that has not run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("said", "is_green"),
    [
        ("==== 2 passed, 900 deselected in 100.00s ====", True),
        ("SKIPPED [1] tests/laws/test_cuda.py:9: no device\n==== 2 passed, 1 skipped in 100.00s ====", True),
        ("SKIPPED [2] tests/slurm/test_cluster.py:9: needs root\n==== 2 skipped in 1.00s ====", False),
        ("SKIPPED [1] tests/slurm/test_cluster.py:9: needs root\n==== 1 passed, 1 skipped in 50.00s ====", False),
        ("==== 902 deselected in 1.00s ====", False),
    ],
)
def test_skipped_tests_on_a_cluster_do_not_look_green(said: str, is_green: bool, tmp_path: Path) -> None:
    """With stand-ins for `make` and for an installed SLURM."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    stubs = {"slurmctld": "", "make": f"[ $1 != slurm ] || echo '{said}'"}
    for name, content in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / name).chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([tmp_path / ".ci/run"], env=variables, stdout=-1, stderr=-2, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert said in done.stdout
    assert ("NOT PASSED" not in done.stdout) == is_green, done.stdout
