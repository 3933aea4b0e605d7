"""Models side by side: the evidence of each with its two sides, and the difference of each two with its interval."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recparam.plots.style import INK, MUTED, style

_DECIDED, _OPEN = "#0072B2", "#8C8C8C"
_LONGEST = 34  # letters of a name


def draw_comparison(facts: Mapping[str, Any]) -> Figure:
    """Draw what `Comparison.facts` says.

    Left, each model: the estimate with its 95 % interval (thick), its lower and upper side (thin, with caps) and its
    ceiling (dashed). Right, each two: the difference of the estimates with its paired interval (thick), and what the
    sides of both leave open (thin). What is decided is blue, and filled where the bounds decide it. A side that lies
    far outside is cut off, with an arrow.

    Args:
        facts: Of a comparison.

    Returns:
        A figure with an Agg canvas, unknown to pyplot.
    """
    models, differences = facts["models"], facts["differences"]
    rows = max(len(models), len(differences))
    with style():
        fig = Figure(figsize=(10.0, 1.5 + 0.42 * rows), layout="constrained")
        FigureCanvasAgg(fig)
        left, right = fig.subplots(1, 2)
        _draw(
            left,
            [
                (
                    _short(m["name"]) + ("" if m["fair"] else " (*)"),
                    m["value_nats"],
                    (m["low_nats"], m["high_nats"]),
                    (m["lower_nats"], m["upper_nats"]),
                    INK,
                    True,
                )
                for m in models
            ],
        )
        inside = left.get_xlim()
        for row, m in enumerate(models):
            ceiling = m["ceiling_nats"]
            if ceiling is not None and inside[0] <= ceiling <= inside[1]:
                place = [row - 0.35, row + 0.35]
                left.plot([ceiling, ceiling], place, color=INK, lw=1.1, ls=(0, (3, 2)), gid="ceiling")
        left.set_xlabel(f"{facts['targets']} (nats per row)")
        left.set_title(f"evidence: {facts['rows']} rows; bank: {facts['bank']}", loc="left")
        _draw(
            right,
            [
                (
                    f"{_short(d['first'])} − {_short(d['second'])}",
                    d["difference_nats"],
                    (d["difference_low_nats"], d["difference_high_nats"]),
                    (d["bounds_low_nats"], d["bounds_high_nats"]),
                    _DECIDED if d["better"] else _OPEN,
                    d["basis"] == "bounds",
                )
                for d in differences
            ],
        )
        right.axvline(0, color=MUTED, lw=0.8, zorder=0)
        right.set_xlabel("difference (nats per row)")
        right.set_title("differences, paired: filled where the bounds decide", loc="left")
    return fig


_Row = tuple[str, float, tuple[float | None, float | None], tuple[float | None, float | None], str, bool]


def _draw(ax: Axes, rows: Sequence[_Row]) -> None:
    """One line per row: sides thin, interval thick, value a dot; the axis shows all intervals and what is near them."""
    near = [v for _, value, interval, _, _, _ in rows for v in (value, *interval) if v is not None]
    low, high = min(near), max(near)
    margin = max(0.6 * (high - low), 0.05 * max(abs(low), abs(high)), 1e-3)
    sides = [v for _, _, _, pair, _, _ in rows for v in pair if v is not None]
    low, high = (
        min([low, *(v for v in sides if v >= low - margin)]),
        max([high, *(v for v in sides if v <= high + margin)]),
    )
    pad = 0.06 * max(high - low, 1e-3)
    low, high = low - pad, high + pad
    for row, (_, value, interval, pair, colour, filled) in enumerate(rows):
        ends = [(-math.inf if pair[0] is None else pair[0]), (math.inf if pair[1] is None else pair[1])]
        if pair != (None, None):
            ax.plot([max(ends[0], low), min(ends[1], high)], [row, row], color=colour, lw=0.9, gid=f"sides-{row}")
        for end, place, marker in ((ends[0], low, 8), (ends[1], high, 9)):  # carets that end at the point
            if low <= end <= high:
                ax.plot([end], [row], ls="none", marker="|", ms=9, mew=0.9, color=colour)
            elif math.isfinite(end):
                ax.plot([place], [row], ls="none", marker=marker, ms=5, color=colour, clip_on=False, gid=f"cut-{row}")
        first, last = interval
        if first is not None and last is not None:
            ax.plot([first, last], [row, row], color=colour, lw=3.2, solid_capstyle="butt", gid=f"interval-{row}")
        face = colour if filled else "white"
        ax.plot([value], [row], ls="none", marker="o", ms=5.5, mew=1.2, mec=colour, mfc=face, zorder=4)
    ax.set_xlim(low, high)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)  # names are text, dollars too


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
