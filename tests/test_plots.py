import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imread

from recparam.evaluation import mean_interval
from recparam.experiments.balls.arm_style import ARM_COLOURS, ARM_ORDER, order_arms
from recparam.experiments.balls.curves import above_ceiling, draw_curves
from recparam.experiments.balls.density import density_note
from recparam.experiments.balls.figure1 import Figure1Data, draw_figure1, figure1_caption
from recparam.plots.style import save_figure

SIZE = 16


def figure1_data(arms: tuple[str, ...] = ARM_ORDER, seeds: int = 3) -> Figure1Data:
    rng = np.random.default_rng(0)
    true = rng.uniform(2, SIZE - 3, (30, 3, 2))
    mass = rng.uniform(0, 1, (12, 12))
    frames = rng.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    return Figure1Data(
        video="black",
        label="quick preset",
        frames=frames,
        first_frame=70,
        frame_centres=true[:4],
        ball_names=("red", "green", "blue"),
        true=true,
        decoded={arm: true + rng.normal(size=true.shape) for arm in arms if arm != "constant"},
        errors={arm: [1.0 + index + 0.1 * seed for seed in range(seeds)] for index, arm in enumerate(arms)},
        current_frame=frames[0],
        current_index=71,
        ball=1,
        current_centre=true[0, 0],
        next_centre=true[1, 0],
        predicted={arm: {"uniform": mass, "marginal": mass**2} for arm in ("gaussian", "linear") if arm in arms},
        size_px=SIZE,
    )


def pixels(fig: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=50)
    buffer.seek(0)
    return imread(buffer)[..., :3]


def texts(fig: Figure) -> list[str]:
    return [item.get_text() for item in fig.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.fixture(scope="module")
def full() -> Figure:
    """Draw every arm, under a label as long as they come; drawn once, since tests only look at it."""
    return draw_figure1(replace(figure1_data(), label="a long label of many words " * 20))


def test_files_open_and_show_every_panel(full: Figure, tmp_path: Path) -> None:
    assert set("ABCDE") <= set(texts(full)) and "not in this run" not in texts(full)
    png, pdf = save_figure(full, tmp_path / "new" / "figure1.v1-black")
    assert (png.name, pdf.name) == ("figure1.v1-black.png", "figure1.v1-black.pdf")
    image = imread(png)
    assert image.shape[:2] == (1670, 2000)
    # Ink in each ninth of the page: no panel is blank.
    for rows in np.array_split(image[..., :3], 3, axis=0):
        for block in np.array_split(rows, 3, axis=1):
            assert block.std() > 0.02
    assert pdf.read_bytes().startswith(b"%PDF") and b"%%EOF" in pdf.read_bytes()[-16:]
    assert sorted(path.name for path in png.parent.iterdir()) == [pdf.name, png.name]


def test_panels_of_absent_arms_say_so() -> None:
    fig = draw_figure1(figure1_data(("gaussian",), seeds=1))
    # Supervised and linear in B, both linear images in E.
    assert texts(fig).count("not in this run") == 4


def test_no_text_overlaps_another(full: Figure) -> None:
    full.canvas.draw()
    boxes = [
        (item.get_text(), item.get_window_extent())
        for item in full.findobj(matplotlib.text.Text)
        if item.get_text().strip() and item.get_visible()
    ]
    assert len(boxes) > 30
    for index, (first, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= full.bbox.x1 and box.y0 >= 0 and box.y1 <= full.bbox.y1, first
        for second, other in boxes[index + 1 :]:
            assert not box.overlaps(other), (first, second)


def bars_of(errors: Mapping[str, Sequence[float]]) -> Axes:
    fig = draw_figure1(replace(figure1_data(), errors=errors))
    return next(ax for ax in fig.axes if "distance" in ax.get_xlabel())


def interval_of(ax: Axes, arm: str) -> np.ndarray:
    (line,) = [line for line in ax.lines if line.get_gid() == f"interval-{arm}"]
    return np.asarray(line.get_xdata())


def test_bars_stand_in_the_order_of_the_arms_at_their_means() -> None:
    errors = figure1_data().errors
    bars = bars_of(dict(reversed(errors.items())))
    assert [label.get_text().lower() for label in bars.get_yticklabels()] == list(ARM_ORDER)
    ends = [patch.get_x() + patch.get_width() for patch in bars.patches]
    assert ends == pytest.approx([np.mean(errors[arm]) for arm in ARM_ORDER])


def test_bars_of_four_decades_are_all_seen_with_their_values() -> None:
    bars = bars_of({"supervised": [0.0199], "recipe": [0.28], "linear": [26.72], "constant": [92.8]})
    to_screen = bars.transData.transform
    lengths = [
        to_screen((patch.get_x() + patch.get_width(), 0))[0] - to_screen((patch.get_x(), 0))[0]
        for patch in bars.patches
    ]
    assert min(lengths) > 0.05 * bars.bbox.width and sorted(lengths) == lengths
    assert {"0.020", "0.28", "26.7", "92.8"} <= {item.get_text() for item in bars.texts}
    assert "log scale" in bars.get_xlabel()


def test_whiskers_span_the_interval_over_seeds() -> None:
    _, low, high = mean_interval([2.0, 2.1, 2.4])
    assert low is not None and low > 0
    bars = bars_of({"linear": [2.0, 2.1, 2.4]})
    assert interval_of(bars, "linear") == pytest.approx([low, high])
    assert not [line for line in bars.lines if line.get_gid() == "zero-linear"]


def test_an_interval_that_reaches_zero_runs_to_the_axis_and_says_so() -> None:
    seeds = [1.0, 2.0, 4.0]
    _, low, high = mean_interval(seeds)
    assert low is not None and low < 0
    bars = bars_of({"linear": seeds, "gaussian": [0.2, 0.21, 0.22]})
    assert interval_of(bars, "linear") == pytest.approx([bars.get_xlim()[0], high])
    (arrow,) = [line for line in bars.lines if line.get_gid() == "zero-linear"]
    assert arrow.get_xdata()[0] == pytest.approx(bars.get_xlim()[0])
    assert "reaches down to zero" in figure1_caption(replace(figure1_data(), errors={"linear": seeds}))
    assert "reaches down to zero" not in figure1_caption(replace(figure1_data(), errors={"linear": [2.0, 2.1, 2.4]}))


def test_an_error_of_zero_and_a_single_seed_still_draw() -> None:
    bars = bars_of({"supervised": [0.0], "linear": [3.0]})
    assert {"0", "3.0"} <= {item.get_text() for item in bars.texts}
    assert not [line for line in bars.lines if str(line.get_gid()).startswith("interval")]
    assert np.isfinite(bars_of({"supervised": [0.0, 0.0]}).get_xlim()).all()


def test_the_axis_of_the_bars_has_numbers_also_within_a_decade() -> None:
    bars = bars_of({"gaussian": [3.0], "linear": [7.0]})
    ticks = bars.get_xticks()
    assert len(ticks) >= 3 and bars.get_xlim()[0] <= min(ticks) and max(ticks) <= bars.get_xlim()[1]


def test_balls_and_frames_are_named(full: Figure) -> None:
    words = texts(full)
    assert {"true: ball 1 (red)", "ball 2 (green)", "ball 3 (blue)"} <= set(words)
    assert {"frame 70", "frame 73", "ball 2 (green) in frame 71", "ball 2 (green) in frame 72"} <= set(words)
    for arm in ("Gaussian", "linear"):
        assert f"Predicted place of ball 2 (green) in frame 72, {arm}" in words
    caption = figure1_caption(figure1_data())
    assert "place of ball 2 (green) in frame 72, seen from frame 71" in caption
    assert "ball 1 (red), ball 2 (green), ball 3 (blue)" in caption


def test_each_ball_of_panel_b_has_a_mark_of_its_own(full: Figure) -> None:
    panel = next(ax for ax in full.axes if ax.get_title() == "supervised")
    marks = [item for item in panel.collections if isinstance(item, PathCollection) and not len(item.get_facecolors())]
    assert len(marks) == 3
    assert len({tuple(item.get_edgecolors()[0]) for item in marks}) == 3
    assert len({len(item.get_paths()[0].vertices) for item in marks}) >= 2
    data = figure1_data()
    for ball, item in enumerate(marks):
        np.testing.assert_allclose(item.get_offsets(), data.true[:, ball])


def point(row: int, column: int) -> np.ndarray:
    mass = np.full((12, 12), 1e-6)
    mass[row, column] = 1.0
    return mass


def tilted(factor: float) -> np.ndarray:
    return np.geomspace(1.0, factor, 12)[:, None].repeat(12, axis=1)


@pytest.mark.parametrize(
    ("mass", "arm", "words"),
    [
        (np.full((12, 12), 1 / 144), "linear", "flat: the linear arm's density does not depend on place here"),
        (np.full((12, 12), 7.0, dtype=np.float32), "gaussian", "flat: the Gaussian arm's"),
        (tilted(1.3), "linear", "nearly flat: the largest density is only 1.30 × the smallest"),
        (point(0, 11), "linear", "all mass in one corner (ring): the bilinear score grows without limit"),
        (point(0, 4), "linear", "all mass in one cell at the border (ring): the bilinear score grows without limit"),
        (point(5, 5), "gaussian", "all mass in one cell inside the frame (ring): narrower than the grid"),
        (tilted(4.0), "linear", None),
        (figure1_data().predicted["linear"]["uniform"], "linear", None),
    ],
)
def test_a_density_that_shows_no_place_is_explained(mass: np.ndarray, arm: str, words: str | None) -> None:
    note = density_note(mass, arm)
    assert note is None if words is None else note is not None and note.text.startswith(words)
    data = replace(figure1_data(), predicted={arm: {"uniform": mass}})
    letter = {"gaussian": "D", "linear": "E"}[arm]
    if note is None:
        assert f"{letter}, uniform base:" not in figure1_caption(data)
    else:
        assert f"{letter}, uniform base: {note.text}." in figure1_caption(data)


def test_the_note_is_printed_in_its_panel() -> None:
    flat = {"uniform": np.ones((12, 12)), "marginal": tilted(4.0)}
    fig = draw_figure1(replace(figure1_data(), predicted={"linear": flat}))
    printed = [text.replace("\n", " ") for text in texts(fig)]
    assert printed.count("flat: the linear arm's density does not depend on place here") == 1


@pytest.mark.parametrize("cell", [(0, 11), (11, 3)])
def test_the_single_cell_is_ringed_and_its_note_stands_clear(cell: tuple[int, int]) -> None:
    fig = draw_figure1(replace(figure1_data(), predicted={"linear": {"uniform": point(*cell)}}))
    fig.canvas.draw()
    panel, (note,) = next(
        (ax, found) for ax in fig.axes if (found := [item for item in ax.texts if "(ring)" in item.get_text()])
    )
    place = np.array(cell[::-1]) * (SIZE - 1) / 11
    rings = [line.get_xydata()[0] for line in panel.lines]
    assert any(np.allclose(ring, place) for ring in rings)
    box = note.get_window_extent()
    middle = (panel.bbox.y0 + panel.bbox.y1) / 2
    # On the other half of the panel than the point.
    assert box.y1 < middle if cell[0] == 0 else box.y0 > middle
    assert box.x0 >= panel.bbox.x0 and box.x1 <= panel.bbox.x1


def test_labels_are_text_and_not_mathematics() -> None:
    fig = draw_figure1(replace(figure1_data(("gaussian",)), video="a$b", label=r"$\nonsense{ $"))
    assert pixels(fig).std() > 0


def test_same_data_gives_the_same_files_and_leaves_the_global_state_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    history = {"linear": [(0, 0.1, 3.4), (1, 0.2, 3.4)]}
    first = save_figure(draw_curves(history), tmp_path / "a")
    second = save_figure(draw_curves(history), tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    draw_figure1(figure1_data(("gaussian",)))
    assert dict(matplotlib.rcParams) == before


def test_curves_draw_bounds_solid_and_the_shared_ceiling_once() -> None:
    fig = draw_curves(
        {
            "linear": [(0, 0.1, 3.4), (1, None, 3.4), (2, 0.3, 3.4)],
            "gaussian": [(0, 1.0, 3.4), (1, 2.0, 3.4), (2, 2.5, 3.4)],
            "supervised": [(0, None, None)],
        }
    )
    lines = {str(line.get_label()): line for line in fig.axes[0].lines}
    assert list(lines) == ["Gaussian", "linear", "ceiling"]
    assert lines["Gaussian"].get_color() == ARM_COLOURS["gaussian"]
    assert lines["ceiling"].is_dashed() and not lines["linear"].is_dashed()
    np.testing.assert_array_equal(lines["linear"].get_ydata(), [0.1, np.nan, 0.3])
    assert "nats" in fig.axes[0].get_ylabel()


def test_curves_of_different_ceilings_draw_each() -> None:
    fig = draw_curves({"gaussian": [(0, 1.0, 3.4)], "recipe": [(0, 1.0, 4.2)]})
    labels = [line.get_label() for line in fig.axes[0].lines]
    assert {"ceiling, Gaussian", "ceiling, recipe"} <= set(labels)


def height_of(ax: Axes, nats: float) -> float:
    return float(ax.transAxes.inverted().transform(ax.transData.transform((0, nats)))[1])


def test_curves_far_below_zero_leave_room_for_the_others() -> None:
    wide = {
        "linear": [(0, -60_000.0, 3.4), (1, -0.1, 3.4)],
        "gaussian": [(0, 1.0, 3.4), (1, 3.3, 3.4)],
    }
    fig = draw_curves(wide)
    (ax,) = fig.axes
    fig.canvas.draw()
    assert 0 < height_of(ax, -60_000.0) < height_of(ax, -100.0) < height_of(ax, 0.0) < height_of(ax, 3.4) < 1
    assert height_of(ax, 3.3) - height_of(ax, 1.0) > 0.2
    assert "linear from −1 to 4, log beyond" in ax.get_ylabel()
    assert {"−10,000", "−100", "0", "3"} <= {label.get_text() for label in ax.get_yticklabels()}
    assert "log" not in draw_curves({"gaussian": wide["gaussian"]}).axes[0].get_ylabel()


def test_curves_mark_the_values_above_their_ceiling() -> None:
    fig = draw_curves({"linear": [(0, -900.0, 3.4), (1, 131072.0, 3.4), (2, 3.4005, 3.4), (3, None, 3.4)]})
    (ax,) = fig.axes
    (marks,) = [line for line in ax.lines if "not a bound" in str(line.get_label())]
    np.testing.assert_array_equal(marks.get_xydata(), [[1, 131072.0]])
    assert 0 < height_of(ax, -900.0) and height_of(ax, 131072.0) < 1
    fig.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[i + 1 :])
    clean = draw_curves({"linear": [(0, 3.3, 3.4)]}).axes[0]
    assert not [line for line in clean.lines if "not a bound" in str(line.get_label())]


@pytest.mark.parametrize(
    ("value", "ceiling", "above"),
    [(3.5, 3.4, True), (3.4004, 3.4, False), (3.3, 3.4, False), (None, 3.4, False), (9.0, None, False)],
)
def test_above_ceiling_is_more_than_rounding(value: float | None, ceiling: float | None, above: bool) -> None:
    assert above_ceiling(value, ceiling) is above


def test_no_history_still_draws() -> None:
    assert "not in this run" in texts(draw_curves({}))


def test_unknown_arms_come_last() -> None:
    assert order_arms(["mine", "linear", "supervised"]) == ["supervised", "linear", "mine"]


def test_caption_says_what_the_panels_depend_on() -> None:
    caption = figure1_caption(figure1_data())
    for words in (
        "linear decoder",
        "other coordinates held",
        "uniform base",
        "R(z′)",
        "3 seeds",
        "held-out video",
        "recipe is the Gaussian coupling trained as this library recommends",
        "constant always answers the mean centre of the training video",
        "R(z′), the density of the latents",
    ):
        assert words in caption
    assert "no interval" in figure1_caption(figure1_data(seeds=1))
    assert "recipe is" not in figure1_caption(figure1_data(("gaussian",)))


def test_the_figure_itself_says_what_the_arms_and_the_bases_are(full: Figure) -> None:
    words = " ".join(texts(full))
    assert "Gaussian, recommended settings" in words and "mean training centre, every frame" in words
    assert "base R(z′), density of latents" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size_px": 0}, "size_px"),
        (
            {"predicted": {"linear": {"uniform": np.full((3, 3), np.nan)}}},
            r"predicted\['linear'\]\['uniform'\]",
        ),
        ({"predicted": {"linear": {"marginal": np.zeros((3, 3))}}}, "positive sum"),
        ({"ball_names": ("red",)}, "ball_names"),
        ({"ball": 3}, "ball: expected"),
        ({"errors": {"linear": [1.0, float("nan")]}}, r"errors\['linear'\]"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw_figure1(replace(figure1_data(), **change))


def test_a_spot_of_a_few_cells_is_named() -> None:
    mass = np.full((64, 64), 1e-6)
    mass[:2, :3] = 0.15
    note = density_note(mass, "linear")
    assert note is not None
    assert note.text.startswith("nearly all mass in one corner")
    mass[:40, :40] += 1e-3
    assert density_note(mass, "linear") is None
