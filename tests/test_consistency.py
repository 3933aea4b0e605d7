"""Agreement of runs and sessions, against answers known by construction."""

from typing import Any

import numpy as np
import pytest

from recparam.evaluation import consistency


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def turned(z: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return 3 * z @ np.array([[cos, -sin], [sin, cos]]) - 7


def test_turned_scaled_and_shifted_copies_agree_in_full(rng: np.random.Generator) -> None:
    z = rng.normal(size=(300, 2))
    found = consistency([z, turned(z, 30), turned(z, 200)])
    assert found.names == ("0", "1", "2") and found.rows == 300
    np.testing.assert_allclose(found.r2, 1, atol=1e-12)
    assert found.mean == pytest.approx(1, abs=1e-12)
    assert consistency(np.stack([z, turned(z, 30)])).mean == pytest.approx(1)


def test_unrelated_latents_agree_as_often_as_chance_says(rng: np.random.Generator) -> None:
    # The mean over 400 draws is known to about 0.0025; few rows, so that chance is not nought.
    scores = []
    for _ in range(400):
        found = consistency([rng.normal(size=(21, 2)), rng.normal(size=(21, 3))])
        scores.append(found.r2)
    np.testing.assert_allclose(found.chance, [[1, 2 / 20], [3 / 20, 1]])
    np.testing.assert_allclose(np.mean(scores, 0), found.chance, atol=0.01)


def test_directions_differ_where_one_run_says_less(rng: np.random.Generator) -> None:
    z = rng.normal(size=(500, 2))
    found = consistency({"both": z, "first": z[:, :1]})
    row = found.names.index("both")
    assert found.r2[row, 1 - row] == pytest.approx(1)  # the one latent is read from both
    assert found.r2[1 - row, row] == pytest.approx(0.5, abs=0.02)  # the first of two is known, the second is not


def test_what_a_linear_map_cannot_undo_counts(rng: np.random.Generator) -> None:
    z = rng.normal(size=(20_000, 1))
    # R^2 of z^3 on z, and of z on z^3, is their squared correlation: (E z^4)^2 / (E z^2 E z^6) = 9/15.
    np.testing.assert_allclose(consistency([z, z**3]).r2, [[1, 0.6], [0.6, 1]], atol=0.02)


def session(rng: np.random.Generator, low: float, high: float, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A latent ring by position, seen with noise."""
    place = rng.uniform(low, high, size=rows)
    return np.column_stack([np.cos(place), np.sin(place)]) + 0.1 * rng.normal(size=(rows, 2)), place


def test_sessions_are_aligned_by_a_declared_variable(rng: np.random.Generator) -> None:
    (one, at_one), (two, at_two) = session(rng, 0, 5, 4000), session(rng, 1, 6, 3000)
    found = consistency({"mon": one, "tue": turned(two, 75)}, labels={"tue": at_two, "mon": at_one}, bins=40)
    assert found.rows == 40 and found.mean > 0.99
    shuffled = consistency([one, turned(two, 75)], labels=[at_one, rng.permutation(at_two)], bins=40)
    assert shuffled.mean < 0.2


def test_values_that_a_session_lacks_are_left_out() -> None:
    rng = np.random.default_rng(1)
    labels = [np.repeat(np.arange(8), 3), np.repeat(np.arange(2, 10), 5)]
    means = rng.normal(size=(10, 2))
    found = consistency([means[labels[0]], turned(means, 10)[labels[1]]], labels=labels, bins=None)
    assert found.rows == 6  # 2 to 7
    assert found.mean == pytest.approx(1)


def test_aligned_latents_are_means_over_the_bin() -> None:
    labels = np.repeat([0.0, 1.0, 2.0, 3.0], 2)
    means = np.array([0.0, 4.0, 1.0, 2.0])
    spread = np.tile([-1.0, 1.0], 4)
    one, two = (np.repeat(means, 2) + spread)[:, None], np.repeat(means, 2)[:, None]
    assert consistency([one, two], labels=[labels, labels], bins=4).mean == pytest.approx(1)
    assert consistency([one, two]).mean < 0.8


Z = np.random.default_rng(0).normal(size=(20, 2))
AT = np.linspace(0, 1, 20)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latents": [Z]}, "at least 2 runs"),
        ({"latents": Z}, r"latents of 0 of shape \(N, D\)"),
        ({"latents": {"a": Z, "b": Z[:, 0]}}, r"latents of b of shape \(N, D\)"),
        ({"latents": {"a": Z, "b": np.full_like(Z, np.nan)}}, "finite values in latents of b"),
        ({"latents": [Z, Z[:10]]}, r"\[20, 10\] rows.*labels="),
        ({"latents": [Z[:3], Z[:3]]}, "at least 4 rows"),
        ({"latents": {"a": Z, "flat": np.ones((20, 2))}}, "constant ones in flat: column 0"),
        ({"latents": [Z, Z], "labels": [AT]}, "labels for each run, 0, 1; got 0"),
        ({"latents": {"a": Z, "b": Z}, "labels": [AT, AT]}, "labels for each run, a, b"),
        ({"latents": [Z, Z], "labels": [AT, AT[:5]]}, r"labels of 1 of shape \(20,\)"),
        ({"latents": [Z, Z], "labels": [AT, AT + 9]}, "ranges overlap"),
        ({"latents": [Z, Z], "labels": [AT, AT], "bins": 0}, "bins >= 1"),
        ({"latents": [Z, Z], "labels": [AT, AT], "bins": 3}, "at least 4 values of the labels"),
        ({"latents": [Z, Z], "labels": [AT, AT + 1e-9], "bins": None}, "at least 4 values of the labels"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        consistency(**arguments)
