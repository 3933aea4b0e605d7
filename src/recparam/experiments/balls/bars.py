"""Panel C of Figure 1: the error of each arm on a logarithmic axis, with its interval and its seeds."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter

from recparam.evaluation import mean_interval
from recparam.experiments.balls.arm_style import arm_colour, arm_title, order_arms
from recparam.plots.style import INK, MUTED, missing

ARM_NOTES: dict[str, str] = {
    "supervised": "same encoder, told the true centres",
    "recipe": "Gaussian, recommended settings",
    "gaussian": "Gaussian coupling, paper's settings",
    "linear": "bilinear coupling, paper's settings",
    "steps": "one step length for each map",
    "velocity": "velocity stays about the same",
    "velocity-steps": "both",
    "untrained": "encoder as initialised",
    "constant": "mean training centre, every frame",
}
"""What each arm is, in the few words that fit next to its bar."""


def draw_bars(ax: Axes, errors: Mapping[str, Sequence[float]], *, size_px: int) -> None:
    """Draw one bar per arm up to its mean error, on a logarithmic axis.

    An interval whose lower end is zero or less has no lower cap; an arrow at the axis says so.

    Args:
        ax: where to draw.
        errors: for each arm, the mean distance of each seed, px.
        size_px: side of the square frame, px.
    """
    arms = [arm for arm in order_arms(errors) if len(errors[arm]) > 0]
    if not arms:
        missing(ax)
        return
    intervals = {arm: mean_interval(errors[arm]) for arm in arms}
    # The bars of a logarithmic axis start at a decade below everything that is drawn.
    shown = [value for arm in arms for value in (*errors[arm], *intervals[arm]) if value is not None and value > 0]
    floor = 10.0 ** math.floor(math.log10(0.8 * min(shown, default=0.1)))
    top = max(shown, default=1.0)
    decades = math.log10(top / floor)
    ax.set_xscale("log")
    for row, arm in enumerate(arms):
        mean, low, high = intervals[arm]
        ax.barh(row, max(mean - floor, 0.0), left=floor, height=0.5, color=arm_colour(arm), zorder=1)
        seeds = np.asarray(errors[arm], dtype=float)
        end = max(mean, float(seeds.max()))
        if low is not None and high is not None:
            start = max(low, floor)
            ax.plot([start, high], [row, row], color=INK, lw=1.1, zorder=2, gid=f"interval-{arm}")
            caps = [high] if low <= 0 else [low, high]
            ax.plot(caps, [row] * len(caps), ls="none", marker="|", ms=7, mew=1.1, color=INK, zorder=2)
            if low <= 0:
                ax.plot([floor], [row], ls="none", marker=4, ms=5, color=INK, zorder=4, gid=f"zero-{arm}")
            end = max(end, high)
            places = np.maximum(seeds, floor)
            heights = row + np.linspace(-0.14, 0.14, seeds.size)
            ax.scatter(places, heights, s=11, color="white", edgecolors=INK, linewidths=0.7, zorder=3)
        ax.text(
            max(end, floor) * 10 ** (0.035 * decades),
            row,
            distance_text(mean),
            va="center",
            ha="left",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
        )
        ax.annotate(
            ARM_NOTES.get(arm, ""),
            (0, row - 0.3),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=6.8,
            color=MUTED,
        )
    right = top * 10 ** (0.27 * decades)
    ax.set_xlim(floor, right)
    ax.set_ylim(max(len(arms), 5) - 0.5, -0.7)  # a lone arm keeps a bar's usual width
    ax.set_yticks(range(len(arms)), [arm_title(arm) for arm in arms])
    ax.tick_params(axis="y", length=0)
    powers = 10.0 ** np.arange(round(math.log10(floor)), math.floor(math.log10(right)) + 1)
    # Within a decade or two the powers of ten alone would leave the axis almost without numbers.
    ticks = np.outer(powers, [1, 2, 5]).ravel() if decades < 1.5 else powers[:: math.ceil(len(powers) / 6)]
    ax.xaxis.set_major_locator(FixedLocator(ticks[ticks <= right].tolist()))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"mean distance from true centre\n(px, log scale; frame {size_px} px wide)")
    ax.spines[["top", "right"]].set_visible(False)


def distance_text(value: float) -> str:
    """Write a distance in pixels with two significant digits, more from 10 on, and no exponent."""
    if value <= 0:
        return "0"
    if value < 10:
        digits = max(1, 1 - math.floor(math.log10(value)))
        return f"{value:.{digits}f}"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
