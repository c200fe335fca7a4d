"""What continuous integration says at its end: nothing looks green that has not run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def ci(folder: Path, make: str) -> subprocess.CompletedProcess[str]:
    """The script with a stand-in for `make`, on a machine with an installed SLURM."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    for name, content in {"slurmctld": "", "make": make}.items():
        (folder / name).write_text(f"#!/bin/sh\n{content}\n")
        (folder / name).chmod(0o755)
    variables = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run([folder / ".ci/run"], env=variables, stdout=-1, stderr=-2, text=True, check=False)


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
    done = ci(tmp_path, f"[ $1 != slurm ] || echo '{said}'")
    assert done.returncode == 0, done.stdout
    assert said in done.stdout
    assert ("NOT PASSED" not in done.stdout) == is_green, done.stdout


@pytest.mark.parametrize("target", ["lint", "smoke", "test", "slurm"])
def test_whatever_fails_fails_the_whole_and_is_told(target: str, tmp_path: Path) -> None:
    done = ci(tmp_path, f"echo 1 passed by $1; [ $1 != {target} ] || exit 2")
    assert done.returncode == 2, done.stdout
    assert f"1 passed by {target}" in done.stdout
