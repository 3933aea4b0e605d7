"""Single values that are missing, declared by a mask: how they are read, and latents in spite of them."""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

import recparam as rp
from quick_fits import quick, reflected_walk
from recparam.data.pairs import aligned, consecutive
from recparam.data.recording import Recording
from recparam.estimator import FitWarning
from recparam.networks import MLP, Standardised

ROWS, FIT, TEST = 800, slice(600), slice(600, None)


def walk() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A walk in the unit square, a smooth view of it in 12 columns, and which of its values were seen: two thirds."""
    rng = np.random.default_rng(0)
    z = reflected_walk(rng, ROWS, step=0.1)
    x = 5 + np.tanh(2 * (z - 0.5) @ rng.normal(size=(2, 12)))
    seen = rng.random(x.shape) > 1 / 3
    seen[[3, 700]] = False
    return z, x, seen


Z, X, SEEN = walk()
HOLED = np.where(SEEN, X, np.nan)
MASKED = Recording.of(HOLED, mask=SEEN)
estimator = partial(quick, max_steps=60)


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return estimator().fit(Recording.of(HOLED[FIT], mask=SEEN[FIT]))


def test_missing_values_are_read_as_nan_and_may_have_been_anything() -> None:
    np.testing.assert_array_equal(MASKED[:], HOLED)
    np.testing.assert_array_equal(Recording.of(X, mask=SEEN)[5:9], HOLED[5:9])
    counts = np.arange(12, dtype=np.uint8).reshape(4, 3)
    recording = Recording.of(counts, mask=counts != 4)
    assert recording.dtype == np.float32 and np.isnan(recording[np.array([1])]).tolist() == [[False, True, False]]
    assert np.isfinite(Recording.of(HOLED, mask=SEEN).filled(np.arange(12.0))[:3]).all()


def test_a_row_of_which_nothing_was_seen_is_in_no_pair_and_is_not_filled() -> None:
    pairs = consecutive(MASKED)
    assert not {2, 3, 699, 700} & set(pairs.first.tolist()) and len(pairs) == 799 - 4
    filled = MASKED.filled(np.arange(12.0))
    assert np.isnan(filled[np.array([3, 700])]).all()
    rest = np.delete(filled[:], [3, 700], 0)
    np.testing.assert_array_equal(rest, np.delete(np.where(SEEN, X, np.arange(12.0)), [3, 700], 0))


def test_masks_of_sessions_and_recordings_that_are_joined() -> None:
    parts = Recording.of([HOLED[:300], HOLED[300:]], mask=[SEEN[:300], SEEN[300:]])
    np.testing.assert_array_equal(parts[:], HOLED)
    joined = Recording.join([Recording.of(X[:300]), Recording.of(HOLED[300:], mask=SEEN[300:])])
    np.testing.assert_array_equal(joined[:], np.r_[X[:300], HOLED[300:]])
    assert joined.usable.sum() == 799


def test_missing_values_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", HOLED)
    recording = Recording.of(np.load(tmp_path / "x.npy", mmap_mode="r"), mask=SEEN)
    assert recording.on_disk
    np.testing.assert_array_equal(recording[10:20], HOLED[10:20])
    wrong = SEEN.copy()
    row, column = np.argwhere(~SEEN)[40]
    wrong[row, column] = True
    with pytest.raises(ValueError, match=f"NaN or infinity in row {row}"):
        Recording.of(np.load(tmp_path / "x.npy", mmap_mode="r"), mask=wrong)[:]


def test_an_encoder_standardises_by_the_values_that_there_are() -> None:
    rows = torch.tensor([[1.0, torch.nan], [3.0, 5.0], [torch.nan, 9.0]])
    net = Standardised(nn.Identity(), mean=torch.zeros(2), scale=torch.ones(2))
    net.set_from(rows)
    assert net.mean.tolist() == [2, 7] and net.scale.tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"none in \(1,\)"):
        net.set_from(rows[:1])


def test_latents_in_spite_of_a_third_of_the_values(fitted: rp.RPMEstimator) -> None:
    z = fitted.transform(MASKED)
    assert np.isnan(z).any(1).nonzero()[0].tolist() == [3, 700]  # of which nothing is known
    keep = np.delete(np.arange(600), 3)
    test = np.delete(np.arange(600, 800), 100)
    assert LinearRegression().fit(z[keep], Z[keep]).score(z[test], Z[test]) > 0.85


def test_a_missing_value_counts_as_the_mean_of_those_that_were_fitted(fitted: rp.RPMEstimator) -> None:
    fill = np.nanmean(np.delete(HOLED[:479], 3, 0)[: 479 - 3], 0)
    mean = fitted.encoder_.mean.numpy()
    np.testing.assert_allclose(mean, fill, atol=0.02)
    by_hand = fitted.transform(np.where(SEEN, X, mean))
    np.testing.assert_allclose(fitted.transform(Recording.of(HOLED[600:700], mask=SEEN[600:700])), by_hand[600:700])
    score = fitted.elbo(MASKED)
    assert len(score.per_observation) == 795 and np.isfinite(float(score))
    held = np.where(SEEN, X, mean)[600:700]
    assert fitted.score(held) == fitted.score(Recording.of(HOLED[600:700], mask=SEEN[600:700]))
    assert np.isfinite(fitted.predict_next(Recording.of(HOLED[:2], mask=SEEN[:2]))).all()


def test_either_side_may_miss_values_and_a_saved_model_still_takes_them(tmp_path: Path) -> None:
    other = Recording.of(X[:, :5] + 1, mask=SEEN[:, 5:10])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        est = estimator(max_steps=3).fit(MASKED, pairs=aligned(MASKED, other))
    est.save(tmp_path / "run")
    again = rp.RPMEstimator.load(tmp_path / "run")
    np.testing.assert_array_equal(again.transform(other, side="x_prime"), est.transform(other, side="x_prime"))
    assert again.score(MASKED, X_prime=other) == est.score(MASKED, X_prime=other)


NEVER = SEEN.copy()
NEVER[:, 4] = False
BAD = {
    "shape": (lambda: Recording.of(X, mask=SEEN[:, :3]), r"\(800,\), one per row, or \(800, 12\), one per value.*3\)"),
    "length": (lambda: Recording.of([X, X], mask=[SEEN, SEEN[1:]]), r"mask of lengths \[800, 800\].*799"),
    "numbers": (lambda: Recording.of(X, mask=SEEN * 1), "truth values.*got int64"),
    "NaN that was seen": (lambda: Recording.of(HOLED, mask=np.ones_like(SEEN)), "NaN or infinity in column 0"),
    "a column never seen": (lambda: estimator().fit(Recording.of(X, mask=NEVER)), "change; got .*: column 4"),
    "a module that was given": (
        lambda: estimator(encoder=MLP(12, 2)).fit(MASKED),
        "without missing values for MLP.*Standardised",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()
