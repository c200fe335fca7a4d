"""What do we sample? The posterior of a whole event given sensor readings of a part of it."""

from __future__ import annotations

from sciflow.domains.pde import chain  # noqa: F401  a model may hold one: what is drawn of it depends on this code
from sciflow.domains.recorded import likelihood

__all__ = ["likelihood"]
