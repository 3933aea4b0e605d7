"""The moving-balls generator: the motion of App. D, exact centres, determinism, and clear refusals."""

import time

import numpy as np
import pytest

from recparam.experiments.balls import videos as balls_module
from recparam.experiments.balls.videos import consecutive_pairs, moving_balls


@pytest.fixture(scope="module")
def video():
    return moving_balls(300, size=128, diameter=16, seed=3)


def test_shapes_and_settings(video):
    assert video.frames.shape == (300, 128, 128, 3)
    assert video.frames.dtype == np.uint8
    assert video.centres.shape == (300, 3, 2)
    assert video.centres.dtype == np.float64
    assert (video.size, video.diameter, video.background, video.seed) == (128, 16, "black", 3)
    assert video.colours == ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def test_every_step_is_one_diameter(video):
    steps = np.linalg.norm(np.diff(video.centres, axis=0), axis=-1)
    np.testing.assert_allclose(steps, 16, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "balls", "diameter"), [(128, 3, 16), (64, 3, 8), (60, 6, 11.5), (40, 1, 16)]
)
def test_balls_stay_inside_and_apart(size, balls, diameter):
    centres = moving_balls(300, size=size, balls=balls, diameter=diameter, seed=1).centres
    assert centres.min() >= diameter / 2 - 0.5
    assert centres.max() <= size - 0.5 - diameter / 2
    gaps = np.linalg.norm(centres[:, :, None] - centres[:, None, :], axis=-1)
    assert gaps[:, ~np.eye(balls, dtype=bool)].min(initial=np.inf) >= diameter


def test_undisturbed_turns_are_within_two_degrees(video):
    dx, dy = np.moveaxis(np.diff(video.centres, axis=0), -1, 0)
    angles = np.degrees(np.arctan2(dy, dx))
    turns = (np.diff(angles, axis=0) + 180) % 360 - 180
    # Away from the walls and the other balls nothing can disturb a step.
    centres = video.centres[1:-1]
    gaps = np.linalg.norm(centres[:, :, None] - centres[:, None, :], axis=-1) + 1e9 * np.eye(3)
    far = (gaps.min(-1) > 3 * 16) & (centres.min(-1) > 24) & (centres.max(-1) < 127 - 24)
    assert far.sum() > 100
    assert np.abs(turns[far]).max() <= 2 + 1e-6
    assert np.abs(turns[far]).max() > 1.8
    # At the walls they must turn more: nothing but a larger range can save the ball.
    assert np.abs(turns).max() > 60


def test_centre_of_mass_of_a_drawn_ball_is_its_centre(video):
    positions = np.arange(128)
    for ball in range(3):
        mass = video.frames[..., ball].astype(float)
        total = mass.sum((1, 2))
        x = (mass.sum(1) * positions).sum(1) / total
        y = (mass.sum(2) * positions).sum(1) / total
        np.testing.assert_allclose(np.stack([x, y], -1), video.centres[:, ball], rtol=0, atol=0.05)
        # and its area is that of the disc
        np.testing.assert_allclose(total / 255, np.pi * 8**2, rtol=0.01)


def test_same_seed_same_bytes_and_other_seed_other_video():
    for background in ("black", "clutter"):
        first = moving_balls(20, size=64, diameter=8, background=background, seed=5)
        again = moving_balls(20, size=64, diameter=8, background=background, seed=5)
        other = moving_balls(20, size=64, diameter=8, background=background, seed=6)
        assert first.frames.tobytes() == again.frames.tobytes()
        assert first.centres.tobytes() == again.centres.tobytes()
        assert not np.array_equal(first.centres, other.centres)
        assert not np.array_equal(first.frames, other.frames)


def test_clutter_lies_behind_the_balls_and_changes_every_frame():
    black = moving_balls(12, size=64, diameter=8, seed=2)
    clutter = moving_balls(12, size=64, diameter=8, seed=2, background="clutter")
    np.testing.assert_array_equal(black.centres, clutter.centres)
    inside = (black.frames == 255).any(-1)  # pixels that a ball covers fully
    assert inside.sum() > 12 * 3 * 20
    np.testing.assert_array_equal(clutter.frames[inside], black.frames[inside])
    empty = (black.frames == 0).all(-1)
    assert clutter.frames[empty].std() > 20
    for now, later in zip(clutter.frames, clutter.frames[1:], strict=False):
        both = now[:32].astype(float).ravel(), later[:32].astype(float).ravel()
        assert abs(np.corrcoef(*both)[0, 1]) < 0.5


def test_colours_are_those_asked_for():
    video = moving_balls(3, size=64, balls=2, diameter=12, colours=[(10, 200, 30), [255, 255, 0]], seed=0)
    for places, frame in zip(video.centres, video.frames, strict=True):
        x, y = np.rint(places).astype(int).T
        np.testing.assert_array_equal(frame[y, x], [[10, 200, 30], [255, 255, 0]])


def test_pairs_are_views(video):
    x, x_prime = consecutive_pairs(video)
    assert x.shape == x_prime.shape == (299, 128, 128, 3)
    assert np.shares_memory(x, video.frames)
    assert np.shares_memory(x_prime, video.frames)
    np.testing.assert_array_equal(x_prime[7], video.frames[8])
    with pytest.raises(ValueError, match="at least 2 frames"):
        consecutive_pairs(moving_balls(1, size=32, diameter=4))


def test_dead_ends_are_left_behind(monkeypatch):
    dead_ends = 0
    step = balls_module._step

    def counting(*args):
        nonlocal dead_ends
        moved = step(*args)
        dead_ends += moved is None
        return moved

    monkeypatch.setattr(balls_module, "_step", counting)
    # Tight enough for the motion to run into dead ends, loose enough for a way out.
    centres = moving_balls(200, size=44, balls=5, diameter=11, seed=0).centres
    assert dead_ends > 20
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
    np.testing.assert_allclose(steps, 11, rtol=0, atol=1e-9)


def test_too_crowded_is_an_error_and_not_a_hang():
    start = time.perf_counter()
    with pytest.raises(ValueError, match="too crowded"):
        moving_balls(200, size=40, balls=7, diameter=15, seed=0)
    assert time.perf_counter() - start < 10  # it takes about 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frames": 0}, "frames"),
        ({"frames": -3}, "frames"),
        ({"frames": 2.5}, "frames"),
        ({"size": 0}, "size"),
        ({"size": -64}, "size"),
        ({"balls": 0}, "balls"),
        ({"balls": True}, "balls"),
        ({"diameter": 0}, "diameter"),
        ({"diameter": -8}, "diameter"),
        ({"diameter": float("nan")}, "diameter"),
        ({"seed": -1}, "seed"),
        ({"size": 16, "diameter": 32}, "does not fit"),
        ({"size": 50, "diameter": 32, "balls": 1}, "no room"),
        ({"size": 64, "diameter": 20, "balls": 20}, "cannot fit"),
        ({"balls": 8, "diameter": 8}, "colours"),
        ({"colours": [(255, 0, 0)]}, "3 RGB triples"),
        ({"colours": [(255, 0, 0), (0, 256, 0), (0, 0, 1)]}, "3 RGB triples"),
        ({"colours": [(255, 0, 0), (0, -1, 0), (0, 0, 1)]}, "3 RGB triples"),
        ({"colours": [(255, 0), (0, 1, 0), (0, 0, 1)]}, "3 RGB triples"),
        ({"colours": [(0.5, 0, 0), (0, 1, 0), (0, 0, 1)]}, "3 RGB triples"),
        ({"background": "white"}, "'black' or 'clutter'"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    # What is asked for must fail by its value, so annotations are not what refuses it here.
    call = getattr(moving_balls, "__wrapped__", moving_balls)
    with pytest.raises(ValueError, match=words):
        call(**settings)
