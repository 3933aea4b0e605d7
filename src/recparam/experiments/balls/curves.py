"""Training curves: the bound of each arm over the epochs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from recparam.experiments.balls.arm_style import arm_colour, arm_title, order_arms
from recparam.plots.style import INK, missing, style

CEILING_TOLERANCE = 1e-3
"""How far, in nats, rounding may carry a bound above its ceiling."""

_LINEAR_SHARE = 0.6  # of the height of a wide axis, kept for the range up to the ceiling


def above_ceiling(value: float | None, ceiling: float | None) -> bool:
    """Say whether a bound lies above its ceiling by more than rounding.

    In exact arithmetic none does. One that does was computed from scores so large that single precision no
    longer resolves the nats between them, and bounds nothing.

    Args:
        value: of the bound, nats.
        ceiling: of the bound, nats.

    Returns:
        Whether it does; False if one of the two is absent or not finite.
    """
    if value is None or ceiling is None or not (math.isfinite(value) and math.isfinite(ceiling)):
        return False
    return value > ceiling + CEILING_TOLERANCE


def draw_curves(histories: Mapping[str, Sequence[tuple[int, float | None, float | None]]]) -> Figure:
    """Draw the training curves: the bound of each arm over the epochs, its ceiling dashed.

    Where a curve lies far below zero or far above its ceiling, the axis turns logarithmic there, so that
    everything is shown and the range up to the ceiling stays readable. Crosses mark values above their ceiling.

    Args:
        histories: for each arm, tuples of epoch, bound (nats) and ceiling (nats); None and non-finite
            numbers are left out of the line.

    Returns:
        A figure of 7 x 3.2 inches with an Agg canvas, unknown to pyplot.
    """
    with style():
        fig = Figure(figsize=(7.0, 3.2), layout="constrained")
        FigureCanvasAgg(fig)
        ax = fig.add_subplot()
        ceilings: dict[tuple[float, ...], list[str]] = {}
        epochs_of: dict[tuple[float, ...], np.ndarray] = {}
        wrong: list[tuple[float, float]] = []
        for arm in order_arms(histories):
            # None becomes nan, which matplotlib leaves out of a line.
            table = np.array([[np.nan if v is None else v for v in row] for row in histories[arm]], dtype=float)
            if table.size == 0 or not np.isfinite(table[:, 1]).any():
                continue
            single = "o" if len(table) == 1 else None
            ax.plot(table[:, 0], table[:, 1], color=arm_colour(arm), lw=1.8, marker=single, label=arm_title(arm))
            wrong += [(epoch, bound) for epoch, bound, ceiling in table.tolist() if above_ceiling(bound, ceiling)]
            if np.isfinite(table[:, 2]).any():
                key = tuple(np.unique(table[np.isfinite(table[:, 2]), 2].round(9)))
                ceilings.setdefault(key, []).append(arm)
                if key not in epochs_of or len(epochs_of[key]) < len(table):
                    epochs_of[key] = table[:, [0, 2]]
        if not ax.lines:
            missing(ax)
            return fig
        for key, arms in ceilings.items():
            # One line for a ceiling that all arms share, else each in the colour of its arms.
            shared = len(ceilings) == 1
            label = "ceiling" if shared else "ceiling, " + ", ".join(arm_title(arm) for arm in arms)
            colour = INK if shared else arm_colour(arms[0])
            rows = epochs_of[key]
            ax.plot(rows[:, 0], rows[:, 1], color=colour, lw=1.1, ls=(0, (4, 3)), label=label)
        if wrong:
            label = "above its ceiling:\nnot a bound"
            ax.plot(*zip(*wrong, strict=True), ls="none", marker="x", ms=5, color=INK, label=label)
        ax.set_xlabel("epoch")
        ax.set_ylabel("bound (nats)")
        _widen(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
    return fig


def _widen(ax: Axes) -> None:
    """Make the axis logarithmic below -1 and above the ceilings, if a curve leaves that range by far."""
    drawn = [(line.is_dashed(), np.asarray(line.get_ydata(), dtype=float)) for line in ax.lines]
    values = np.concatenate([ys[np.isfinite(ys)] for _, ys in drawn])
    ceilings = [float(np.nanmax(ys)) for dashed, ys in drawn if dashed]
    edge = float(math.ceil(max([1.0, *ceilings])))
    low, high = float(values.min()), float(values.max())
    if low >= -2 * edge and high <= 2 * edge:
        return
    below, above = math.log10(max(-low, 1.0)), math.log10(max(high / edge, 1.0))
    decade = (edge + 1) * (1 - _LINEAR_SHARE) / _LINEAR_SHARE / (below + above)

    def forward(nats: np.ndarray) -> np.ndarray:
        shrunk = -1 - decade * np.log10(np.maximum(-nats, 1.0))
        grown = edge + decade * np.log10(np.maximum(nats / edge, 1.0))
        return np.where(nats < -1, shrunk, np.where(nats > edge, grown, nats))

    def backward(place: np.ndarray) -> np.ndarray:
        shrunk = -(10.0 ** (np.maximum(-1 - place, 0.0) / decade))
        grown = edge * 10.0 ** (np.maximum(place - edge, 0.0) / decade)
        return np.where(place < -1, shrunk, np.where(place > edge, grown, place))

    ax.set_yscale("function", functions=(forward, backward))
    ends = forward(np.array([min(low, -1.0), max(high, edge)]))
    margin = 0.03 * (ends[1] - ends[0])
    ax.set_ylim(*backward(ends + [-margin, margin]))
    step = max(1, math.ceil((below + above) / 5))
    powers = 10.0 ** np.arange(step, 40, step)
    outer = np.concatenate([-powers[powers <= -low], powers[(powers > edge) & (powers <= high)]])
    # A tick too near the end of the linear part would print over its last one.
    near = np.minimum(np.abs(forward(outer) + 1), np.abs(forward(outer) - edge))
    ticks = [*outer[near > 1.5 * margin], *np.arange(0.0, edge + 0.5, math.ceil(edge / 5))]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace("-", "−"))
    for end, reached in ((-1.0, low < -1), (edge, high > edge)):
        if reached:
            ax.axhline(end, color="#BBBBBB", lw=0.7, zorder=0)
    ax.set_ylabel(f"bound (nats)\nlinear from −1 to {edge:g}, log beyond")
