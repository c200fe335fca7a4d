"""One look for every figure: sizes, a palette that colour-blind readers can tell apart, titles that say what is shown.

Nothing here touches pyplot or the global settings of matplotlib: every property is set on the Axes that is drawn. All
modules of figures import matplotlib where they draw: every command knows their tables, and few of them draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, FAINT, BAND = "#222222", "#7a7a7a", "#dcdcdc"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
VALUES, SPREAD, SIGNED = "gray", "magma", "RdBu_r"
DPI = 150
ABREAST = 3  # panels in a row
ERRORS = 2
"""Half-width of every band and bar, in standard errors: about 95 %."""


def panels(n: int = 1, width: float = 5.2, height: float = 3.6) -> list[Axes]:
    """`n` Axes of width × height inches each, side by side in one new Figure with constrained layout."""
    return grid(1, n, width, height)


def grid(n_rows: int, n_columns: int, width: float = 5.2, height: float = 3.6) -> list[Axes]:
    """Axes of width × height inches each in one new Figure, row by row."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    size = (n_columns * width, n_rows * height)
    figure = Figure(figsize=size, dpi=DPI, layout=layout, facecolor="white")
    return list(figure.subplots(n_rows, n_columns, squeeze=False).flat)


def wrapped(n: int, width: float = 5.2, height: float = 3.6) -> list[Axes]:
    """`n` Axes in rows of ABREAST in one new Figure: more in a row could not be read on a page."""
    found = grid(-(-n // ABREAST), min(n, ABREAST), width, height)
    for ax in found[n:]:
        ax.set_axis_off()
    return found[:n]


def axes(ax: Axes | None, width: float = 5.2, height: float = 3.6) -> Axes:
    """The given Axes, or that of a new Figure of width × height inches."""
    return panels(1, width, height)[0] if ax is None else ax


def label(name: str, unit: str = "1") -> str:
    """`name [unit]`; a dimensionless quantity has its name alone."""
    return name if unit in ("1", "") else f"{name} [{unit}]"


def colour(index: int) -> str:
    """The colour of the k-th curve."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """The marker of the k-th curve: with more curves than colours, the pair still differs."""
    return MARKERS[(index + index // len(PALETTE)) % len(MARKERS)]


def dress(ax: Axes, title: str, note: str = "", x: str = "", y: str = "") -> Axes:
    """Title on the left, a grey note of a line or two that says how to read it, axis labels, thin open frame."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10 + 11 * len(note.splitlines()))
    text = ax.annotate(note, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=8, color=FAINT, va="bottom")
    text.set_in_layout(False)
    ax.set_xlabel(x, fontsize=9.5, color=INK)
    ax.set_ylabel(y, fontsize=9.5, color=INK)
    ax.tick_params(which="both", labelsize=8.5, color=FAINT, labelcolor=INK, width=0.6)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=FAINT, linewidth=0.8)
    return ax


def log_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of each decade on a logarithmic axis that spans less than 300; else as they are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    if high < 300 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def right(ax: Axes, label: str) -> Axes:
    """A second axis of values, on the right, for dashed lines."""
    other = ax.twinx()
    other.set_ylabel(label, fontsize=9.5, color=INK)
    other.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK, width=0.6)
    for side, spine in other.spines.items():
        spine.set_visible(side == "right")
        spine.set(color=FAINT, linewidth=0.8)
    return other


def legend(ax: Axes, **options) -> None:
    """A small legend without a frame; none when nothing is labelled."""
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=8.5, frameon=False, labelcolor=INK, handlelength=1.6, **options)
