"""Numbers of latents: the held-out bound and the predicted share of each, and the one that is chosen."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recparam.plots.style import INK, MUTED, style

_CHOSEN = "#0072B2"


def draw_dims(facts: Mapping[str, Any]) -> Figure:
    """Draw what `LatentDims.facts` says.

    Left, the held-out bound of each number of latents in nats, with its 95 % interval. Right, the share of the
    targets that the latents predict, where there is one. The number that is chosen is blue, with a line.

    Args:
        facts: Of a choice.

    Returns:
        A figure with an Agg canvas, unknown to pyplot.
    """
    rows, chosen = facts["dims"], facts["chosen"]
    shares = [row["predicted_share"] for row in rows]
    panels = 1 if None in shares else 2
    with style():
        fig = Figure(figsize=(4.2 * panels, 3.0), layout="constrained")
        FigureCanvasAgg(fig)
        axes = fig.subplots(1, panels, squeeze=False)[0]
        _draw(axes[0], rows, "value_nats", chosen)
        for row in rows:
            if row["low_nats"] is not None and row["high_nats"] is not None:
                colour = _CHOSEN if row["latents"] == chosen else INK
                ends = [row["low_nats"], row["high_nats"]]
                axes[0].plot([row["latents"]] * 2, ends, color=colour, lw=1.1, gid=f"interval-{row['latents']}")
        axes[0].set_ylabel("held-out bound (nats per pair)")
        axes[0].set_title(f"evidence: {facts['pairs']} pairs", loc="left")
        if panels == 2:
            _draw(axes[1], rows, "predicted_share", chosen)
            axes[1].set_ylabel("predicted share")
            axes[1].set_ylim(bottom=min(0.0, *shares))
            axes[1].set_title("what the latents predict", loc="left")
    return fig


def _draw(ax: Axes, rows: Any, key: str, chosen: int) -> None:
    dims = [row["latents"] for row in rows]
    ax.axvline(chosen, color=MUTED, lw=0.8, ls=(0, (3, 2)), zorder=0, gid="chosen")
    ax.plot(dims, [row[key] for row in rows], color=MUTED, lw=0.8)
    for row in rows:
        colour = _CHOSEN if row["latents"] == chosen else INK
        ax.plot([row["latents"]], [row[key]], ls="none", marker="o", ms=5, color=colour, clip_on=False)
    ax.set_xticks(dims)
    ax.set_xlabel("latents")
    ax.spines[["top", "right"]].set_visible(False)
