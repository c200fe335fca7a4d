"""What learns it? A network on positions; without training, the frames themselves."""

from __future__ import annotations

from sciflow.domains.recorded import empirical as closed_form

__all__ = ["closed_form"]
