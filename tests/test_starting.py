"""The garbage collector is put aside while a command imports, and back after it, whatever happens."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from sciflow.starting import importing

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
