"""Where each map of the encoder is over a segment of video, as a figure and as an animation."""

import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from PIL import Image

from recparam.experiments.balls.arm_style import arm_colour, arm_title
from recparam.plots.style import INK, MUTED, bare, style
from recparam.utils.storage import replacing

MAP_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7")
"""One per map, none of them a ball's."""

_PANEL = 2.3  # inches
_LETTERS = 36  # of the title, over one panel
_ANIMATION_DPI = 80
_STEP_MS = 120
_TAIL = 8  # frames
_DRAWN = 16  # frames of the figure: more would be a tangle


@dataclass(frozen=True)
class Tracks:
    """A segment of video and where the maps of each arm are in it.

    Args:
        title: what the video is.
        frames: (T, H, W, 3).
        true: places of the balls, (T, 3, 2) pixels.
        places: for each arm, the places that its maps tell, (T, 3, 2) pixels: each coordinate one latent, shifted and
            scaled, without a linear decoder.
        notes: for each arm, a line under its panel.
    """

    title: str
    frames: UInt8[np.ndarray, "T H W 3"]
    true: Float[np.ndarray, "T K 2"]
    places: Mapping[str, Float[np.ndarray, "T K 2"]]
    notes: Mapping[str, str]

    def __post_init__(self) -> None:
        for name, places in {"true": self.true, **self.places}.items():
            if places.shape[0] != len(self.frames) or places.shape[1:] != self.true.shape[1:]:
                raise ValueError(
                    f"Expected places {name!r} of shape ({len(self.frames)}, {self.true.shape[1]}, 2), one for each "
                    f"frame; got {places.shape}. Cut all to one segment."
                )


def draw_tracks(tracks: Tracks) -> Figure:
    """Draw one panel per arm: the balls' true paths in grey, the maps' places in colour, the last frame behind.

    Args:
        tracks: a segment of video, of which the last 16 frames are drawn.

    Returns:
        A figure with an Agg canvas, unknown to pyplot.
    """
    with style():
        figure, axes = _panels(tracks)
        for ax, (arm, places) in zip(axes, tracks.places.items(), strict=True):
            _background(ax, tracks.frames[-1])
            for ball in range(tracks.true.shape[1]):
                true = tracks.true[-_DRAWN:, ball]
                ax.plot(*true.T, color="white", lw=5.5, alpha=0.55, solid_capstyle="round", zorder=2)
            for number, path in enumerate(places[-_DRAWN:].transpose(1, 0, 2)):
                ax.plot(*path.T, color=MAP_COLOURS[number % 3], lw=1.4, zorder=3)
                ax.plot(*path[-1], marker="o", ms=5, mec=INK, mew=0.8, color=MAP_COLOURS[number % 3], zorder=4)
            _labels(ax, arm, tracks.notes.get(arm, ""))
        return figure


def write_animation(tracks: Tracks, path: str | os.PathLike[str]) -> Path:
    """Write a GIF: the video, the balls as they are, and the maps' places with a short tail, one panel per arm.

    Args:
        tracks: a segment of some tens of frames.
        path: the file; replaced whole, or not at all.

    Returns:
        The path written.
    """
    images: list[Image.Image] = []
    with style():
        figure, axes = _panels(tracks)
        pictures = [_background(ax, tracks.frames[0]) for ax in axes]
        tails: list[tuple[Line2D, Line2D, np.ndarray]] = []
        for ax, (arm, places) in zip(axes, tracks.places.items(), strict=True):
            for number in range(places.shape[1]):
                colour = MAP_COLOURS[number % 3]
                (line,) = ax.plot([], [], color=colour, lw=1.6, zorder=3)
                (dot,) = ax.plot([], [], marker="o", ms=7, mec="white", mew=1.2, color=colour, zorder=4)
                tails.append((line, dot, places[:, number]))
            _labels(ax, arm, tracks.notes.get(arm, ""))
        figure.set_dpi(_ANIMATION_DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")  # the panels stay where they are
        for now, frame in enumerate(tracks.frames):
            for picture in pictures:
                picture.set_data(_dimmed(frame))
            for line, dot, path_of_map in tails:
                line.set_data(*path_of_map[max(0, now - _TAIL) : now + 1].T)
                dot.set_data(*path_of_map[now : now + 1].T)
            canvas.draw()
            drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            # Coverage, not counts: the maps' colours are few pixels, and must stay apart.
            images.append(drawn.quantize(64, method=Image.Quantize.MAXCOVERAGE))
    target = Path(path)
    with replacing(target) as file:
        images[0].save(file, format="GIF", save_all=True, append_images=images[1:], duration=_STEP_MS, loop=0)
    return target


def _panels(tracks: Tracks) -> tuple[Figure, list[Axes]]:
    count = max(1, len(tracks.places))
    figure = Figure(figsize=(_PANEL * count, _PANEL + 0.55), layout="constrained")
    FigureCanvasAgg(figure)
    title = "\n".join(textwrap.wrap(tracks.title, _LETTERS * count))
    figure.suptitle(title, fontsize=9, color=MUTED)
    return figure, [figure.add_subplot(1, count, column + 1) for column in range(count)]


def _background(ax: Axes, frame: UInt8[np.ndarray, "H W 3"]) -> AxesImage:
    bare(ax)
    picture = ax.imshow(_dimmed(frame), zorder=1, interpolation="nearest")
    ax.set_xlim(-0.5, frame.shape[1] - 0.5)
    ax.set_ylim(frame.shape[0] - 0.5, -0.5)
    return picture


def _dimmed(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (0.45 * frame).astype(np.uint8)


def _labels(ax: Axes, arm: str, note: str) -> None:
    ax.set_title(arm_title(arm), color=arm_colour(arm), fontweight="bold", pad=4)
    ax.set_xlabel(note, color=MUTED)
