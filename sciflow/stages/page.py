"""What all pages share: templates, numbers as text, figures as text."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from sciflow.data.store import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def templates() -> jinja2.Environment:
    """The page templates; every value is escaped."""
    loader = jinja2.PackageLoader("sciflow.stages", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    environment.filters["score"] = score
    return environment


def number(value: Any) -> str:
    """A number to four digits; anything else as text."""
    try:
        return f"{float(value):.4g}"
    except (TypeError, ValueError):
        return str(value)


def score(row: Mapping[str, Any]) -> str:
    """value ± standard error, both to the digit that the error leaves standing."""
    value, stderr = float(row["value"]), float(row["stderr"])
    if not 0 < stderr < math.inf or not math.isfinite(value):
        return f"{value:.4g}"
    digits = max(0, 1 - int(f"{stderr:e}".partition("e")[2]))
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def embedded(figure: Figure) -> str:
    """A figure as text that a page can hold."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write(path: Path, page: str) -> None:
    """The page, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
