"""Figure 1 of the moving-balls experiment: five panels for one video, and their caption."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Real, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from recparam.evaluation import mean_interval
from recparam.experiments.balls.arm_style import arm_colour, arm_title, order_arms
from recparam.experiments.balls.bars import draw_bars
from recparam.experiments.balls.density import DENSITY_MAP, EDGE, NEXT_MARK, NOW_MARK, density_note, draw_density
from recparam.plots.style import MUTED, bare, missing, style

_BASES = (("uniform", "uniform base"), ("marginal", "base R(z′), density of latents"))
# Shape and shade tell the balls apart; pure green would be too pale on white.
_BALL_MARKS = ("o", "s", "D")
_BALL_SHADES = {"red": "#C00000", "green": "#007A00", "blue": "#0000D0"}
_ARM_MEANINGS = {
    "supervised": "supervised is the same encoder trained on the true centres",
    "recipe": "recipe is the Gaussian coupling trained as this library recommends instead of with the paper's settings",
    "gaussian": "Gaussian is the Gaussian coupling with the paper's settings",
    "linear": "linear is the bilinear coupling with the paper's settings",
    "steps": "steps is a coupling by which each map moves by one learned step length, the best of several starts",
    "velocity": "velocity is a coupling by which all latents keep their velocity, the best of several starts",
    "velocity-steps": "velocity-steps is both, the best of several starts",
    "untrained": "untrained is the encoder as initialised",
    "constant": "constant always answers the mean centre of the training video",
}
_POINTS = 40  # frames in panel B: enough to fill the arena, few enough to follow a single error
_WIDTH, _HEIGHT = 10.0, 8.35  # inches


@dataclass(frozen=True, kw_only=True)
class Figure1Data:
    """What Figure 1 shows for one video; positions are pixels, origin top left, y downwards.

    Args:
        video: name of the video, e.g. ``"clutter"``.
        label: what was run, e.g. the preset, the size and the number of seeds.
        frames: consecutive frames of panel A.
        first_frame: number of the first of them in the held-out video, counted from 0.
        frame_centres: centres of the balls in these frames, px.
        ball_names: what tells each ball apart for a reader, e.g. its colour.
        true: centres of the balls over the held-out video, px.
        decoded: for each arm, the decoded centres over the same frames, px.
        errors: for each arm, the mean distance of each seed, px.
        current_frame: the frame from which panels D and E predict.
        current_index: its number in the held-out video, counted from 0.
        ball: index of the ball of panels D and E.
        current_centre: centre of this ball in that frame, px.
        next_centre: centre of the same ball one frame later, px.
        predicted: for each arm, the mass of the next place under the bases ``"uniform"`` and
            ``"marginal"``, on a grid from the first to the last pixel of the frame.
        size_px: side of the square frame, px.
    """

    video: str
    label: str
    frames: UInt8[np.ndarray, "frames height width 3"]
    first_frame: int
    frame_centres: Real[np.ndarray, "frames balls 2"]
    ball_names: Sequence[str]
    true: Real[np.ndarray, "time balls 2"]
    decoded: Mapping[str, Real[np.ndarray, "time balls 2"]]
    errors: Mapping[str, Sequence[float]]
    current_frame: UInt8[np.ndarray, "height width 3"]
    current_index: int
    ball: int
    current_centre: Real[np.ndarray, "2"]
    next_centre: Real[np.ndarray, "2"]
    predicted: Mapping[str, Mapping[str, Real[np.ndarray, "_ _"]]]
    size_px: int

    def ball_title(self, ball: int) -> str:
        """Return the name of a ball as the figure and its caption print it, counted from 1."""
        return f"ball {ball + 1} ({self.ball_names[ball]})"


def _check(data: Figure1Data) -> None:
    if data.size_px <= 0:
        raise ValueError(f"size_px: expected a positive number of pixels, got {data.size_px}")
    if len(data.frames) == 0 or len(data.frames) != len(data.frame_centres):
        raise ValueError(
            "frames: expected at least one frame and as many frames as frame_centres, "
            f"got {len(data.frames)} and {len(data.frame_centres)}"
        )
    balls = data.true.shape[1]
    if len(data.ball_names) != balls:
        raise ValueError(f"ball_names: expected one name for each of the {balls} balls, got {list(data.ball_names)}")
    if not 0 <= data.ball < balls:
        raise ValueError(f"ball: expected the index of one of the {balls} balls, from 0, got {data.ball}")
    for arm, centres in data.decoded.items():
        if centres.shape != data.true.shape:
            raise ValueError(
                f"decoded[{arm!r}]: expected the shape of true, {data.true.shape}, got {centres.shape}; "
                "decode the same frames of the held-out video"
            )
    for arm, distances in data.errors.items():
        if not np.isfinite(np.asarray(distances, dtype=float)).all():
            raise ValueError(
                f"errors[{arm!r}]: expected finite distances in px, got {list(distances)}; leave out failed seeds"
            )
    for arm, masses in data.predicted.items():
        for base, mass in masses.items():
            if not np.isfinite(mass).all() or mass.min() < 0 or mass.sum() <= 0:
                raise ValueError(
                    f"predicted[{arm!r}][{base!r}]: expected finite masses >= 0 with a positive sum; "
                    "normalise in log space before taking the exponential"
                )


def _place(fig: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes placed in inches from the top left corner."""
    return fig.add_axes((left / _WIDTH, 1 - (top + height) / _HEIGHT, width / _WIDTH, height / _HEIGHT))


def _heading(fig: Figure, left: float, top: float, letter: str, text: str) -> None:
    y = 1 - top / _HEIGHT
    fig.text(left / _WIDTH, y, letter, fontsize=13, fontweight="bold", va="baseline")
    fig.text((left + 0.24) / _WIDTH, y, text, fontsize=10, va="baseline")


def _draw_frames(axes: Sequence[Axes], data: Figure1Data) -> None:
    last = len(data.frames) - 1
    for index, ax in enumerate(axes):
        bare(ax)
        ax.imshow(data.frames[index], interpolation="nearest")
        # A white arrow on a dark edge is seen on black, on clutter and on the balls themselves.
        for ball in range(data.frame_centres.shape[1]):
            path = data.frame_centres[: index + 1, ball]
            if index > 0:
                (trail,) = ax.plot(path[:, 0], path[:, 1], color="white", lw=1.0, ls=(0, (1, 1.5)))
                trail.set_path_effects([withStroke(linewidth=2.2, foreground="black")])
            if index < last:
                arrow = ax.annotate(
                    "",
                    xy=tuple(data.frame_centres[index + 1, ball]),
                    xytext=tuple(data.frame_centres[index, ball]),
                    arrowprops={
                        "arrowstyle": "-|>,head_length=0.35,head_width=0.2",
                        "color": "white",
                        "lw": 1.4,
                        "shrinkA": 0,
                        "shrinkB": 0,
                        "path_effects": EDGE,
                    },
                )
                arrow.set_clip_on(True)
        ax.set_xlim(-0.5, data.frames.shape[2] - 0.5)
        ax.set_ylim(data.frames.shape[1] - 0.5, -0.5)
        ax.set_title(f"frame {data.first_frame + index}", pad=3, fontsize=8.5, color=MUTED)


def _draw_decoded(ax: Axes, arm: str, data: Figure1Data) -> None:
    ax.set_title(arm_title(arm), pad=4, color=arm_colour(arm), fontweight="bold")
    if arm not in data.decoded:
        missing(ax)
        return
    rows = np.unique(np.linspace(0, len(data.true) - 1, _POINTS).round().astype(int))
    true, decoded = data.true[rows], data.decoded[arm][rows]
    errors = np.stack([true, decoded], axis=2).reshape(-1, 2, 2)  # (points, ends, 2)
    ax.add_collection(LineCollection(list(errors), colors=arm_colour(arm), linewidths=0.5, alpha=0.6, zorder=1))
    for ball in range(true.shape[1]):
        mark, shade = _ball_mark(data, ball)
        ring = {"facecolors": "none", "edgecolors": shade, "linewidths": 0.7, "marker": mark}
        ax.scatter(true[:, ball, 0], true[:, ball, 1], s=16, zorder=2, **ring)
    places = decoded.reshape(-1, 2)
    ax.scatter(places[:, 0], places[:, 1], s=7, color=arm_colour(arm), linewidths=0, zorder=3)
    ax.set_xlim(-0.5, data.size_px - 0.5)
    ax.set_ylim(data.size_px - 0.5, -0.5)
    ax.set_aspect("equal")
    bare(ax)


def _ball_mark(data: Figure1Data, ball: int) -> tuple[str, str]:
    return _BALL_MARKS[ball % len(_BALL_MARKS)], _BALL_SHADES.get(data.ball_names[ball], "#555555")


def _ball_key(data: Figure1Data) -> list[Line2D]:
    handles: list[Line2D] = []
    for ball in range(len(data.ball_names)):
        mark, shade = _ball_mark(data, ball)
        label = ("" if ball else "true: ") + data.ball_title(ball)
        handles.append(Line2D([], [], ls="none", marker=mark, ms=4.5, mfc="none", mec=shade, label=label))
    return handles


def _legend(fig: Figure, left: float, top: float, handles: Sequence[Line2D], columns: int) -> None:
    fig.legend(
        handles=list(handles),
        loc="center left",
        bbox_to_anchor=(left / _WIDTH, 1 - top / _HEIGHT),
        ncols=columns,
        borderaxespad=0,
        borderpad=0,
        handletextpad=0.5,
        columnspacing=1.6,
    )


def draw_figure1(data: Figure1Data) -> Figure:
    """Draw the five panels of Figure 1 for one video.

    Arms that are absent from ``data`` leave a labelled empty panel or no bar.

    Args:
        data: what to draw, positions and distances in pixels.

    Returns:
        A figure of 10 x 8.35 inches with an Agg canvas, unknown to pyplot.

    Raises:
        ValueError: if shapes disagree, a mass is negative or not finite, or an error is not finite.
    """
    _check(data)
    with style():
        fig = Figure(figsize=(_WIDTH, _HEIGHT))
        FigureCanvasAgg(fig)
        left = 0.3
        fig.text(
            left / _WIDTH,
            1 - 0.27 / _HEIGHT,
            f"Moving balls, video “{data.video}”",
            fontsize=12,
            fontweight="bold",
            parse_math=False,
        )
        label = textwrap.shorten(data.label, 280, placeholder=" …")
        fig.text(
            left / _WIDTH,
            1 - 0.36 / _HEIGHT,
            textwrap.fill(label, 150),
            fontsize=8.5,
            va="top",
            linespacing=1.25,
            color=MUTED,
            parse_math=False,
        )

        _heading(fig, left, 0.9, "A", "Consecutive frames, with the step to the next one")
        count = len(data.frames)
        gap, span = 0.08, 6.16
        side = min((span - gap * (count - 1)) / count, 1.48)
        _draw_frames([_place(fig, left + i * (side + gap), 1.18, side, side) for i in range(count)], data)

        _heading(fig, left, 3.02, "B", "Decoded centres in the held-out video")
        for i, arm in enumerate(("supervised", "gaussian", "linear")):
            _draw_decoded(_place(fig, left + i * 2.08, 3.32, 2.0, 2.0), arm, data)
        _legend(
            fig,
            left,
            5.46,
            [
                *_ball_key(data),
                Line2D([], [], ls="none", marker="o", ms=3, color=MUTED, label="decoded"),
                Line2D([], [], color=MUTED, lw=0.7, label="error"),
            ],
            len(data.ball_names) + 2,
        )

        _heading(fig, 6.75, 0.9, "C", "Error of every arm")
        draw_bars(_place(fig, 7.62, 1.1, 2.2, 3.72), data.errors, size_px=data.size_px)

        top, side = 6.12, 1.98
        for letter, arm, start in (("D", "gaussian", left), ("E", "linear", 4.95)):
            name = arm_title(arm)
            where = f"Predicted place of {data.ball_title(data.ball)} in frame {data.current_index + 1}, {name}"
            _heading(fig, start, top - 0.32, letter, where)
            for i, (base, title) in enumerate(_BASES):
                mass = data.predicted.get(arm, {}).get(base)
                draw_density(
                    _place(fig, start + i * (side + 0.1), top, side, side),
                    mass,
                    title=title,
                    arm=arm,
                    frame=data.current_frame,
                    now=data.current_centre,
                    following=data.next_centre,
                )
        scale = _place(fig, 4.95 + 2 * side + 0.2, top, 0.1, side)
        bar = fig.colorbar(ScalarMappable(Normalize(0, 1), DENSITY_MAP), cax=scale, ticks=[0, 0.5, 1])
        bar.ax.tick_params(labelsize=8, length=2)
        bar.set_label("density / its maximum", fontsize=8.5, labelpad=3)
        ball = data.ball_title(data.ball)
        _legend(
            fig,
            left,
            top + side + 0.14,
            [
                Line2D([], [], label=f"{ball} in frame {data.current_index}", path_effects=EDGE, **NOW_MARK),
                Line2D([], [], label=f"{ball} in frame {data.current_index + 1}", **NEXT_MARK),
            ],
            2,
        )
    return fig


def figure1_caption(data: Figure1Data) -> str:
    """Return the caption of Figure 1 as plain text.

    Args:
        data: what the figure was drawn from.

    Returns:
        One paragraph that says what each panel shows and how it was made.
    """
    counts = {len(values) for values in data.errors.values() if len(values) > 0}
    most = max(counts, default=0)
    seeds = "1 seed" if most == 1 else f"{most} seeds"
    if len(counts) > 1:
        seeds = f"{min(counts)} to {most} seeds"
    spread = (
        "a single seed has no interval"
        if most <= 1
        else "dots are seeds, whiskers the 95% interval of the mean (Student's t)"
    )
    lows = [mean_interval(values)[1] for values in data.errors.values() if len(values) > 0]
    if any(low is not None and low <= 0 for low in lows):
        spread += "; an arrow at the axis: the interval reaches down to zero, which the logarithmic axis cannot show"
    arms = [_ARM_MEANINGS[arm] for arm in order_arms(data.errors) if data.errors[arm] and arm in _ARM_MEANINGS]
    balls = ", ".join(data.ball_title(ball) for ball in range(len(data.ball_names)))
    notes = [
        f"{letter}, {title.partition(',')[0]}: {note.text}."
        for letter, arm in (("D", "gaussian"), ("E", "linear"))
        for base, title in _BASES
        if (mass := data.predicted.get(arm, {}).get(base)) is not None and (note := density_note(mass, arm))
    ]
    return " ".join(
        [
            f"Figure 1, video “{data.video}” ({data.label}).",
            "A: consecutive frames of the held-out video, counted from 0; arrows lead to the next centre of each "
            "ball, dotted lines show its path.",
            f"B: centres of {balls} after linear decoding, in frames spread evenly over a held-out video of "
            "another seed; lines join each decoded centre to the true one.",
            "C: mean distance between decoded and true centres on the held-out video, on a logarithmic axis, "
            f"{seeds}; {spread}.",
            *([f"Arms: {'; '.join(arms)}."] if arms else []),
            f"D, E: predicted density of the place of {data.ball_title(data.ball)} in frame "
            f"{data.current_index + 1}, seen from frame {data.current_index}, for the Gaussian and the linear "
            "coupling. “Uniform base” is f / Z, normalised on the grid under a uniform base (as in Eq. 26); "
            "“base R(z′)” is the same times R(z′), the density of the latents over all frames, estimated from the "
            "training video. Densities are drawn over the image through the linear decoder, with the other "
            "coordinates held at their values in the current frame; each panel is scaled to its own maximum, and "
            "the current frame shows through as a grey veil.",
            *notes,
        ]
    )
