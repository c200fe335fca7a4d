"""What learns it? A network on images; without training, the images themselves."""

from __future__ import annotations

from sciflow.domains.recorded import empirical as closed_form

__all__ = ["closed_form"]
