"""Panels D and E of Figure 1: a predicted density over the current frame, and what to say of an extreme one."""

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Real, UInt8
from matplotlib.axes import Axes
from matplotlib.patheffects import AbstractPathEffect, withStroke

from recparam.experiments.balls.arm_style import arm_title
from recparam.plots.style import INK, bare, missing

EDGE: list[AbstractPathEffect] = [withStroke(linewidth=3.4, foreground="black")]
NOW_MARK: dict[str, Any] = {
    "ls": "none",
    "marker": "o",
    "ms": 6.5,
    "mfc": "none",
    "mec": "white",
    "mew": 1.6,
}
NEXT_MARK: dict[str, Any] = {
    "ls": "none",
    "marker": "X",
    "ms": 8,
    "mfc": "#56B4E9",
    "mec": "black",
    "mew": 0.7,
}
DENSITY_MAP = "inferno"

_POINT_SHARE = 0.99  # of the mass in one cell: nothing but a point is seen
_SPOT_SHARE, _SPOT = 0.8, 0.005  # so much of the mass in so small a share of the cells: a spot that is easily missed
_FLAT_RATIO = 1.01  # of the largest to the smallest density: one colour all over
_ALMOST_FLAT_RATIO = 2.0  # a gradient the colour map exaggerates, since it is scaled to the maximum
_CELLS = ("a few cells", "one cell")


@dataclass(frozen=True, kw_only=True)
class DensityNote:
    """What a reader must be told of a density that shows no place.

    Args:
        text: one short phrase.
        cell: row and column of the cell that holds the mass, if a single one does.
    """

    text: str
    cell: tuple[int, int] | None = None


def density_note(mass: Real[np.ndarray, "rows columns"], arm: str) -> DensityNote | None:
    """Explain a density that is flat over the frame or a single point, judged from the density alone.

    Args:
        mass: of the cells of a grid, of any positive sum.
        arm: that predicts it.

    Returns:
        The note, or None for a density that explains itself.
    """
    share = np.asarray(mass, dtype=float) / float(np.sum(mass, dtype=float))
    if share.size == 1:
        return None
    least, most = float(share.min()), float(share.max())
    if most <= _FLAT_RATIO * least:
        return DensityNote(text=f"flat: the {arm_title(arm)} arm's density does not depend on place here")
    if most <= _ALMOST_FLAT_RATIO * least:
        return DensityNote(text=f"nearly flat: the largest density is only {most / least:.2f} × the smallest")
    spot = float(np.sort(share, axis=None)[-max(1, int(_SPOT * share.size)) :].sum())
    if most <= _POINT_SHARE and (spot <= _SPOT_SHARE or share.size * _SPOT < 2):
        return None
    amount = "all mass" if most > _POINT_SHARE else "nearly all mass"
    row, column = (int(index) for index in np.unravel_index(share.argmax(), share.shape))
    borders = (row in (0, share.shape[0] - 1)) + (column in (0, share.shape[1] - 1))
    where = ("inside the frame", "at the border", "in one corner")[borders]
    where = f"{amount} {where} (ring)" if borders == 2 else f"{amount} in {_CELLS[most > _POINT_SHARE]} {where} (ring)"
    if borders and arm == "linear":
        where += ": the bilinear score grows without limit"
    elif not borders:
        where += ": narrower than the grid"
    return DensityNote(text=where, cell=(row, column))


def draw_density(
    ax: Axes,
    mass: Real[np.ndarray, "rows columns"] | None,
    *,
    title: str,
    arm: str,
    frame: UInt8[np.ndarray, "height width 3"],
    now: Real[np.ndarray, "2"],
    following: Real[np.ndarray, "2"],
) -> None:
    """Draw a density, scaled to its maximum, under a veil of the current frame.

    Args:
        ax: where to draw.
        mass: of the cells of a grid from the first to the last pixel of the frame; None if there is none.
        title: above the panel.
        arm: that predicts it.
        frame: current frame.
        now: centre of the ball in this frame, px.
        following: its centre one frame later, px.
    """
    ax.set_title(title, pad=5)
    if mass is None:
        missing(ax)
        return
    bare(ax)
    relative = np.asarray(mass, dtype=float) / float(mass.max())
    height, width = frame.shape[:2]
    # Cell centres lie on the first and the last pixel, so the cells reach half a cell beyond.
    x_half = 0.5 * (width - 1) / max(relative.shape[1] - 1, 1)
    y_half = 0.5 * (height - 1) / max(relative.shape[0] - 1, 1)
    extent = (-x_half, width - 1 + x_half, height - 1 + y_half, -y_half)
    ax.imshow(relative, extent=extent, cmap=DENSITY_MAP, vmin=0, vmax=1, interpolation="bilinear")
    # The frame shows through faintly as a grey veil, so that its colours are not read as density.
    light = frame.astype(float).max(axis=-1) / 255
    veil = np.ones((height, width, 4))
    veil[..., 3] = 0.4 * light
    ax.imshow(veil, interpolation="nearest")
    (current,) = ax.plot([now[0]], [now[1]], **NOW_MARK)
    current.set_path_effects(EDGE)
    ax.plot([following[0]], [following[1]], **NEXT_MARK)
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    note = density_note(mass, arm)
    if note is not None:
        _write_note(ax, note, relative.shape, frame.shape)


def _write_note(ax: Axes, note: DensityNote, grid: tuple[int, ...], frame: tuple[int, ...]) -> None:
    low = True  # the note is at the bottom, unless the point it explains is there
    if note.cell is not None:
        x = note.cell[1] * (frame[1] - 1) / max(grid[1] - 1, 1)
        y = note.cell[0] * (frame[0] - 1) / max(grid[0] - 1, 1)
        ax.plot([x], [y], ls="none", marker="o", ms=7.5, mfc="none", mec="#D55E00", mew=1.5, clip_on=False, zorder=5)
        low = y < frame[0] / 2
    ax.text(
        0.5,
        0.035 if low else 0.965,
        _balanced(note.text, 34),
        transform=ax.transAxes,
        ha="center",
        va="bottom" if low else "top",
        fontsize=7.5,
        color=INK,
        linespacing=1.15,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.88, "boxstyle": "round,pad=0.25"},
        zorder=6,
    )


def _balanced(text: str, width: int) -> str:
    """Break a text into as few lines as the width allows, of about the same length."""
    count = len(textwrap.wrap(text, width))
    narrowest = next(least for least in range(1, width + 1) if len(textwrap.wrap(text, least)) <= count)
    return textwrap.fill(text, narrowest)
