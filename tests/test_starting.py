"""How a command begins: the garbage collector waits while it imports, and shards from the future are refused."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sciflow.errors import InputError
from sciflow.starting import importing, part_of

FROZEN = """import gc
from sciflow.starting import importing
with importing():
    import decimal
    assert not gc.isenabled()
first = gc.get_freeze_count()
with importing():
    import tomllib
assert gc.isenabled() and gc.get_freeze_count() == first > 1000, first
"""


def test_what_is_imported_first_is_set_aside_once() -> None:
    """In a process of its own: there is no way back."""
    subprocess.run([sys.executable, "-c", FROZEN], check=True, timeout=60)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_collector_is_as_it_was(is_enabled: bool) -> None:
    try:
        (gc.enable if is_enabled else gc.disable)()
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == is_enabled
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()


def test_shards_from_the_future_are_refused(tmp_path: Path) -> None:
    """What is joined of them would be older, and Snakemake would delete it."""
    shards = [tmp_path / name for name in ("a.nc", "b.nc")]
    for shard in shards:
        shard.touch()
    assert part_of("sample", "1/1", True, [*shards, tmp_path / "absent.nc"]) == (1, 1)
    ahead = time.time() + 600
    os.utime(shards[1], (ahead, ahead))
    with pytest.raises(InputError, match=r"b\.nc was changed 10 min ahead"):
        part_of("sample", "1/1", True, shards)
