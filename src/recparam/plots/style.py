"""What the figures share: the arms and their colours, the style, and how a figure is saved."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recparam.utils.storage import replacing

INK = "#222222"
MUTED = "#666666"
_DPI = 200

_STYLE: dict[Any, Any] = {
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": False,
    "axes.facecolor": "white",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType: the text of the PDF stays text
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save in the style of the figures, whatever the caller has set."""
    with matplotlib.rc_context(_STYLE):
        yield


def bare(ax: Axes) -> None:
    """Remove the ticks."""
    ax.set_xticks([])
    ax.set_yticks([])


def dot_with_interval(
    ax: Axes,
    found: Mapping[str, Any],
    row: float | int,
    colour: str,
    *,
    marker: str = "o",
    label: str | None = None,
) -> None:
    """Draw a mean at the height of a row, and its interval as a line where there is one.

    Args:
        ax: the panel.
        found: mean, low and high; the last two may be None.
        row: where on the vertical axis.
        colour: of both.
        marker: of the mean.
        label: of the mean, for a legend.
    """
    ax.plot([found["mean"]], [row], ls="none", marker=marker, ms=4, color=colour, label=label)
    if found["low"] is not None and found["high"] is not None:
        ax.plot([found["low"], found["high"]], [row, row], color=colour, lw=1.1)


def missing(ax: Axes) -> None:
    """Say in an empty panel that its arm was not run, instead of leaving a hole."""
    bare(ax)
    ax.set_facecolor("#F4F4F4")
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.text(0.5, 0.5, "not in this run", transform=ax.transAxes, ha="center", va="center", color=MUTED)


def save_figure(fig: Figure, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Save a figure as PNG (200 dpi) and PDF, each written atomically.

    Args:
        fig: the figure.
        stem: path without extension; its folder is made if missing.

    Returns:
        The paths of the PNG and of the PDF.
    """
    base = Path(stem)
    png, pdf = base.with_name(base.name + ".png"), base.with_name(base.name + ".pdf")
    # Without dates and program names the same data gives the same bytes.
    with style(), replacing(png) as file:
        fig.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    with style(), replacing(pdf) as file:
        fig.savefig(file, format="pdf", dpi=_DPI, metadata={"CreationDate": None})
    return png, pdf
