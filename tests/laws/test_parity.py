"""Solvers of the same name do the same: ours beside the peers, through the script that writes the table of the docs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".venv-peers/bin/python"


def rows(folder: Path, *options: str) -> list[dict]:
    file = folder / "parity.json"
    command = [sys.executable, "benchmarks/parity.py", "--json", str(file), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())["rows"]


def test_ours_have_their_orders_without_the_peers(tmp_path: Path) -> None:
    found = rows(tmp_path, "--no-peers")
    assert all(row["holds"] for row in found if row["target"] is not None)
    assert sum(row["target"] is not None for row in found) == 3


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.exists(), reason="no .venv-peers: `make peers` makes it")
def test_ours_are_the_peers_where_they_are_right(tmp_path: Path) -> None:
    """T6: to rounding, or to float32 where a peer computes in it; where they are not, the table tells the order."""
    found = rows(tmp_path)
    assert [row["claim"] for row in found if row["target"] is not None and not row["holds"]] == []
    assert sum(row["claim"].startswith("(a)") for row in found) >= 20
    wrong = [row["value"] for row in found if "measured order" in row["claim"] and row["target"] is None]
    assert len(wrong) == 3 and max(wrong) < 2.15  # of 3; if this fails, a peer has mended its code


def test_without_the_peers_environment_the_script_says_what_to_do() -> None:
    command = [sys.executable, "benchmarks/parity.py", "--peers", "no/such/python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "make peers" in done.stderr
