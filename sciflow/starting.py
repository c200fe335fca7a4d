"""How a command starts: what it imports lives as long as it does, and is looked at by nobody meanwhile."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without the garbage collector, and keep what is there at the end out of its sight.

    It looks at every object of torch, pydantic and the rest again and again, half a second in all, to find that none is
    garbage. Set aside is what the first of these blocks leaves: a later one may find the work of others.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
