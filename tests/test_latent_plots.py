"""Figures of one fitted model: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from recparam.plots.latents import draw_latent_plane, draw_latent_series, draw_training


def test_the_training_curve_shows_each_number_once_and_what_is_missing_is_left_out() -> None:
    history = [
        {"step": k, "bound_nats": 4 - 3 * 0.9**k, "ceiling_nats": 5.0, "validation_nats": 3.5 if k % 10 == 0 else None}
        for k in range(50)
    ]
    (ax,) = draw_training(history).axes
    lines = {str(line.get_label()): np.asarray(line.get_xydata()) for line in ax.lines}
    assert list(lines) == ["bound, training", "its ceiling", "bound, held out"]
    assert np.allclose(lines["bound, training"], [[row["step"], row["bound_nats"]] for row in history])
    assert lines["bound, held out"][:, 0].tolist() == [0, 10, 20, 30, 40]


def test_one_wild_step_does_not_flatten_the_curve_and_the_ceiling_stays_in_view() -> None:
    history = [{"step": k, "bound_nats": 4 - 3 * 0.9**k, "ceiling_nats": 5.0} for k in range(100)]
    history[0]["bound_nats"] = -400.0
    (ax,) = draw_training(history).axes
    low, high = ax.get_ylim()
    assert -5 < low < 1.3 and 5 < high < 7


def test_a_history_without_numbers_is_said_to_be_empty() -> None:
    for history in ([], [{"step": 0, "bound_nats": float("nan"), "validation_nats": None}]):
        (ax,) = draw_training(history).axes
        assert not ax.lines and ax.texts[0].get_text() == "nothing recorded"


def test_latents_over_time_break_between_sessions_and_held_out_rows_are_shaded() -> None:
    z = np.random.default_rng(0).normal(size=(30, 2))
    sessions = np.repeat([0, 1], 15)
    figure = draw_latent_series(z, times=np.arange(30.0) / 10, sessions=sessions, held_out=[(12, 14), (27, 29)])
    assert len(figure.axes) == 2
    drawn = [np.asarray(line.get_ydata()) for line in figure.axes[1].lines if len(np.asarray(line.get_ydata())) == 15]
    assert np.array_equal(np.concatenate(drawn), z[:, 1])
    assert len(figure.axes[0].patches) == 2
    assert figure.axes[1].get_xlabel() == "row of the data"  # each session has times of its own
    alone = draw_latent_series(z, times=np.arange(30.0) / 10)
    assert alone.axes[1].get_xlabel() == "time (s)"
    assert float(np.asarray(alone.axes[0].lines[0].get_xdata())[-1]) == pytest.approx(2.9)


@pytest.mark.parametrize(("dims", "panels"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 3)])
def test_every_latent_of_a_few_is_in_a_panel(dims: int, panels: int) -> None:
    z = np.random.default_rng(0).normal(size=(40, dims))
    figure = draw_latent_plane(z, colour=np.linspace(0, 1, 40), title="speed")
    drawn = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert len(drawn) == panels
    names = {ax.get_xlabel() for ax in drawn} | {ax.get_ylabel() for ax in drawn}
    if dims <= 5:
        assert {f"$z_{{{k + 1}}}$" for k in range(dims)} <= names


def test_colours_are_the_values_and_rows_without_one_are_left_out() -> None:
    z = np.random.default_rng(0).normal(size=(40, 2))
    colour = np.linspace(0, 1, 40)
    colour[::4] = np.nan
    (points,) = [c for c in draw_latent_plane(z, colour=colour, title="$x$").axes[0].collections]
    assert isinstance(points, PathCollection)
    assert np.allclose(np.asarray(points.get_offsets()), z[np.isfinite(colour)])
    assert np.allclose(np.asarray(points.get_array()), colour[np.isfinite(colour)])


def test_few_whole_values_are_classes_with_a_legend() -> None:
    z = np.random.default_rng(0).normal(size=(40, 2))
    figure = draw_latent_plane(z, colour=np.arange(40) % 3 + 0.0, title="state")
    legend = figure.axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["0", "1", "2"]
    assert legend.get_title().get_text() == "state" and len(figure.axes) == 1
