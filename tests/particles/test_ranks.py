"""One ensemble, the same bytes: on one process, two and four, in launches of any size, and after any restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.particles.worker"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(4)
    ]
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, "\n".join(errors)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["systematic", "multinomial", "ssp"])
def test_bytes_do_not_depend_on_launches_ranks_or_restarts(found, scheme: str) -> None:
    digests = {case: value for case, value in found["digests"].items() if case.startswith(scheme)}
    n_restarts, n_joined = (3 * 6, 3 * 3) if scheme == "systematic" else (0, 0)
    assert len(digests) == 9 + n_restarts + n_joined
    assert len(set(digests.values())) == 1, digests


@pytest.mark.slow
def test_digests_can_differ(found) -> None:
    """Three schemes and the islands: four different runs."""
    assert len(set(found["digests"].values())) == 4


@pytest.mark.slow
def test_islands_do_not_depend_on_ranks(found) -> None:
    digests = [value for case, value in found["digests"].items() if case.startswith("islands")]
    assert len(digests) == 3 and len(set(digests)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["seed", "n"])
def test_ranks_that_disagree_are_refused(found, what: str) -> None:
    assert "4 ranks of one ensemble were given different seeds" in found["refusals"][what]
