"""What do we sample? The posterior of a vector given linear measurements of it."""

from __future__ import annotations

from sciflow.domains.recorded import likelihood

__all__ = ["likelihood"]
