"""One fitted model: its training curve, and its latents over time and against one another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recparam.plots.style import MUTED, bare, style

_BOUND, _VALIDATION = "#0072B2", "#D55E00"  # of Okabe & Ito's palette, as the arms of the experiment
_LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CLASSES = 10  # labels with at most so many whole values are classes, with a legend instead of a scale
_PANELS = 3
_POINTS = 5000  # drawn per panel: more only makes one blot
_ROWS = 100_000  # drawn per line


def draw_training(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the bound of each step, its ceiling, and the held-out bound.

    Args:
        history: entries with "step" and any of "bound_nats", "ceiling_nats", "validation_nats" and
            "validation_ceiling_nats", in nats; None and numbers that are not finite are left out.

    Returns:
        A figure of 7 x 3 inches with an Agg canvas, unknown to pyplot.
    """
    with style():
        fig, ax = _single((7.0, 3.0))
        lines = (
            ("bound_nats", "bound, training", {"color": _BOUND, "lw": 1.4}),
            ("ceiling_nats", "its ceiling", {"color": _BOUND, "lw": 1.0, "ls": (0, (4, 3))}),
            ("validation_nats", "bound, held out", {"color": _VALIDATION, "lw": 1.6, "marker": "o", "ms": 2.5}),
            ("validation_ceiling_nats", "its ceiling", {"color": _VALIDATION, "lw": 1.0, "ls": (0, (4, 3))}),
        )
        nats_drawn: list[float] = []
        for key, label, line_style in lines:
            points = [(float(row["step"]), float(row[key])) for row in history if row.get(key) is not None]
            points = [(step, nats) for step, nats in points if np.isfinite(nats)]
            if points:
                ax.plot(*zip(*points, strict=True), label=label, **line_style)
                nats_drawn += [nats for _, nats in points]
        if not nats_drawn:
            bare(ax)
            ax.text(0.5, 0.5, "nothing recorded", transform=ax.transAxes, ha="center", va="center", color=MUTED)
            return fig
        # The first steps of a run can be hundreds of nats below the rest and would flatten all of it.
        bottom, top = float(np.quantile(nats_drawn, 0.02)), max(nats_drawn)
        if min(nats_drawn) < bottom - 2 * (top - bottom):
            ax.set_ylim(bottom - 0.3 * (top - bottom), top + 0.1 * (top - bottom))
        ax.set_xlabel("step")
        ax.set_ylabel("nats per pair")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0)
    return fig


def draw_latent_series(
    z: Float[np.ndarray, "N D"],
    *,
    times: Float[np.ndarray, " N"] | None = None,
    sessions: Int[np.ndarray, " N"] | None = None,
    held_out: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Draw each latent over time, the first six at most, held-out segments shaded.

    Args:
        z: latents in order of time, shape (N, D).
        times: in seconds, shape (N,); None counts rows.
        sessions: number of each row's session, shape (N,); lines break between sessions, and rows are counted.
        held_out: first and last row of each segment that was not trained on.

    Returns:
        A figure of 7 inches' width with an Agg canvas, unknown to pyplot.
    """
    shown = min(z.shape[1], len(_LINES))
    breaks = np.flatnonzero(np.diff(sessions)) + 1 if sessions is not None else np.array([], dtype=int)
    seconds = times is not None and not len(breaks)
    place = np.asarray(times) if seconds else np.arange(len(z), dtype=float)
    with style():
        fig = Figure(figsize=(7.0, 0.5 + 1.0 * shown), layout="constrained")
        FigureCanvasAgg(fig)
        axes = np.atleast_1d(np.asarray(fig.subplots(shown, 1, sharex=True)))
        for k, ax in enumerate(axes):
            for rows in np.split(np.arange(len(z)), breaks):
                part = rows[:: max(1, len(z) // _ROWS)]
                ax.plot(place[part], z[part, k], color=_LINES[k], lw=0.7)
            for first, last in held_out:
                ax.axvspan(place[first], place[last], color="#000000", alpha=0.07, lw=0)
            for start in breaks:
                ax.axvline(place[start], color=MUTED, lw=0.6)
            ax.set_ylabel(f"$z_{{{k + 1}}}$", rotation=0, labelpad=10, va="center")
            ax.yaxis.set_major_locator(MaxNLocator(3))
            ax.spines[["top", "right"]].set_visible(False)
            ax.margins(x=0)
        axes[-1].set_xlabel("time (s)" if seconds else "row of the data")
    return fig


def draw_latent_plane(z: Float[np.ndarray, "N D"], *, colour: Float[np.ndarray, " N"], title: str) -> Figure:
    """Draw latents against one another, coloured by a value per row.

    Args:
        z: latents, shape (N, D). One is drawn against the colour; of more, neighbouring ones against each other,
            in three panels at most.
        colour: a value per row, shape (N,); rows where it is NaN are left out. Few whole values are classes.
        title: what the colour is, as plain text.

    Returns:
        A figure with an Agg canvas, unknown to pyplot.
    """
    title = title.replace("$", r"\$")  # or matplotlib would read a name as a formula
    dims = z.shape[1]
    starts = [*range(0, dims - 1, 2), *([dims - 2] if dims % 2 else [])]  # of an odd number, the last joins in too
    pairs = [(k, k + 1) for k in starts][:_PANELS] if dims > 1 else [(0, 0)]
    kept = np.flatnonzero(np.isfinite(colour))
    kept = kept[:: max(1, -(-len(kept) // _POINTS))]
    values = colour[kept]
    classes = np.unique(values)
    discrete = len(classes) <= _CLASSES and bool((classes == classes.round()).all())
    with style():
        # Room for the scale or the legend at the side, so that one panel stays about square.
        fig = Figure(figsize=(1.4 + 3.0 * len(pairs), 3.2), layout="constrained")
        FigureCanvasAgg(fig)
        axes = np.atleast_1d(np.asarray(fig.subplots(1, len(pairs))))
        size = float(np.clip(4000 / max(len(kept), 1), 2.0, 14.0))
        for (x, y), ax in zip(pairs, axes, strict=True):
            across, up = (values, z[kept, 0]) if dims == 1 else (z[kept, x], z[kept, y])
            if discrete:
                for index, value in enumerate(classes):
                    own = values == value
                    ax.scatter(across[own], up[own], s=size, lw=0, color=f"C{index}", label=f"{value:g}", alpha=0.8)
            else:
                points = ax.scatter(across, up, c=values, s=size, lw=0, cmap="viridis", alpha=0.9)
                if ax is axes[-1]:
                    fig.colorbar(points, ax=ax, label=title, pad=0.02)
            if dims > 1:  # distances are what most couplings see: the same scale either way
                ax.set_aspect("equal", adjustable="datalim")
            _label(ax, title if dims == 1 else f"$z_{{{x + 1}}}$", f"$z_{{{1 if dims == 1 else y + 1}}}$")
        if discrete:
            legend = axes[-1].legend(title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=2)
            legend.set_in_layout(True)
    return fig


def _label(ax: Axes, across: str, up: str) -> None:
    ax.set_xlabel(across)
    ax.set_ylabel(up, rotation=0, labelpad=8, va="center")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.spines[["top", "right"]].set_visible(False)


def _single(size: tuple[float, float]) -> tuple[Figure, Axes]:
    fig = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(fig)
    return fig, fig.add_subplot()
