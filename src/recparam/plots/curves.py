"""Training curves: the bound of each arm over the epochs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recparam.plots.style import INK, arm_colour, arm_title, missing, order_arms, style


def draw_curves(histories: Mapping[str, Sequence[tuple[int, float | None, float | None]]]) -> Figure:
    """Draw the training curves: the bound of each arm over the epochs, its ceiling dashed.

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
        for arm in order_arms(histories):
            # None becomes nan, which matplotlib leaves out of a line.
            table = np.array([[np.nan if v is None else v for v in row] for row in histories[arm]], dtype=float)
            if table.size == 0 or not np.isfinite(table[:, 1]).any():
                continue
            single = "o" if len(table) == 1 else None
            ax.plot(table[:, 0], table[:, 1], color=arm_colour(arm), lw=1.8, marker=single, label=arm_title(arm))
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
        ax.set_xlabel("epoch")
        ax.set_ylabel("bound (nats)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
    return fig
