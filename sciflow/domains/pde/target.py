"""What do we sample? The posterior of a whole event given sensor readings of a part of it."""

from __future__ import annotations

from sciflow.domains.recorded import likelihood

__all__ = ["likelihood"]
