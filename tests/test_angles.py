"""Angles read from latents on circles: sign, offset and assignment are fitted, and nothing else."""

import numpy as np
import pytest

import recparam as rp
from recparam.evaluation import angle_error, angle_of, direction_error

RNG = np.random.default_rng(0)


def on_circle(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], -1).reshape(len(angle), -1)


def test_an_angle_comes_back_from_its_cosine_and_sine_at_any_length() -> None:
    angle = RNG.uniform(-np.pi, np.pi, size=(20, 3))
    z = on_circle(angle) * np.repeat(RNG.uniform(0.1, 9, size=(20, 3)), 2, axis=1)
    assert np.allclose(rp.angle_of(z), angle)
    assert angle_of(z[:, :2]).shape == (20,)


@pytest.mark.parametrize("sign", [1, -1])
def test_sign_and_offset_are_fitted_on_training_rows_and_errors_are_medians_in_degrees(sign: int) -> None:
    angle = RNG.uniform(-np.pi, np.pi, size=400)
    noise = np.radians(RNG.choice([-12, 12], size=400))
    found = angle_error(on_circle(sign * angle[:300] + 2), angle[:300], on_circle(sign * (angle + noise) + 2), angle)
    assert found.median == pytest.approx([12], abs=1e-6)
    assert found.chance[0] == pytest.approx(90, abs=6)


def test_each_true_angle_is_read_from_the_circle_that_fits_it() -> None:
    angle = RNG.uniform(-np.pi, np.pi, size=(200, 2))
    other = RNG.uniform(-np.pi, np.pi, size=200)
    z = on_circle(np.stack([3 - angle[:, 1], other, angle[:, 0] + 1], 1))
    found = angle_error(z[:100], angle[:100], z[100:], angle[100:])
    assert found.median == pytest.approx([0, 0], abs=1e-5)
    twice = angle_error(on_circle(2 * angle[:, 0])[:100], angle[:100, 0], on_circle(2 * angle[:, 0]), angle[:, 0])
    assert twice.median[0] > 45  # a map that goes around twice is no angle


def test_chance_is_the_best_constant_of_the_training_rows() -> None:
    angle = RNG.normal(scale=0.1, size=300)
    found = angle_error(on_circle(RNG.uniform(-np.pi, np.pi, 300)), angle, on_circle(RNG.normal(size=300)), angle)
    assert found.chance[0] == pytest.approx(np.degrees(0.0674), rel=0.15)  # the median of |N(0, 0.1)|


@pytest.mark.parametrize("determinant", [1, -1])
def test_directions_are_aligned_by_a_rotation_or_a_reflection(determinant: int) -> None:
    true = RNG.normal(size=(200, 3))
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    rotation[:, 0] *= determinant * np.sign(np.linalg.det(rotation))
    z = true @ rotation * RNG.uniform(1, 2, size=(200, 1))
    found = direction_error(z[:100], true[:100], z[100:], true[100:])
    assert found.median[0] == pytest.approx(0, abs=1e-6)
    assert found.chance[0] == pytest.approx(90, abs=12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: angle_of(np.ones((4, 3))), "even number of columns"),
        (lambda: angle_error(np.ones((4, 2)), np.ones(3), np.ones((4, 2)), np.ones(4)), "angles for each row"),
        (lambda: angle_error(np.ones((4, 2)), np.ones((4, 2)), np.ones((4, 2)), np.ones((4, 2))), "as many angles"),
        (lambda: angle_error(np.ones((4, 2)), np.ones((4, 1, 1)), np.ones((4, 2)), np.ones(4)), "in radians"),
        (lambda: direction_error(np.ones((4, 3)), np.ones((3, 3)), np.ones((4, 3)), np.ones((4, 3))), "each row"),
    ],
)
def test_what_does_not_fit_is_named(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
