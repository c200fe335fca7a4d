"""What do we sample? The posterior of an image given what was measured of it."""

from __future__ import annotations

from sciflow.domains.recorded import likelihood

__all__ = ["likelihood"]
