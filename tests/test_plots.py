import io
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from recparam.evaluation import mean_interval
from recparam.plots import (
    ARM_COLOURS,
    ARM_ORDER,
    Figure1Data,
    draw_curves,
    draw_figure1,
    figure1_caption,
    order_arms,
    save_figure,
)

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
        frame_centres=true[:4],
        true=true,
        decoded={arm: true + rng.normal(size=true.shape) for arm in arms if arm != "constant"},
        errors={arm: [1.0 + index + 0.1 * seed for seed in range(seeds)] for index, arm in enumerate(arms)},
        current_frame=frames[0],
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


def test_bars_stand_in_the_order_of_the_arms_at_their_means() -> None:
    data = figure1_data()
    shuffled = replace(data, errors=dict(reversed(data.errors.items())))
    axes = draw_figure1(shuffled).axes
    bars = next(ax for ax in axes if "distance" in ax.get_xlabel())
    assert [label.get_text().lower() for label in bars.get_yticklabels()] == list(ARM_ORDER)
    widths = [patch.get_width() for patch in bars.patches]
    assert widths == pytest.approx([np.mean(data.errors[arm]) for arm in ARM_ORDER])


def test_whiskers_span_the_interval_over_seeds() -> None:
    data = replace(figure1_data(), errors={"linear": [1.0, 2.0, 4.0]})
    bars = next(ax for ax in draw_figure1(data).axes if "distance" in ax.get_xlabel())
    (whisker,) = bars.containers[-1].lines[2]
    _, low, high = mean_interval([1.0, 2.0, 4.0])
    assert low is not None and high is not None
    assert whisker.get_segments()[0][:, 0] == pytest.approx([max(low, 0.0), high])


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
    ):
        assert words in caption
    assert "no interval" in figure1_caption(figure1_data(seeds=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size_px": 0}, "size_px"),
        (
            {"predicted": {"linear": {"uniform": np.full((3, 3), np.nan)}}},
            r"predicted\['linear'\]\['uniform'\]",
        ),
        ({"predicted": {"linear": {"marginal": np.zeros((3, 3))}}}, "positive sum"),
        ({"errors": {"linear": [1.0, float("nan")]}}, r"errors\['linear'\]"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw_figure1(replace(figure1_data(), **change))
