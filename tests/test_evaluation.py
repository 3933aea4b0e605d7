"""Decoding and matching against answers known by construction, and refusals that name the argument."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import r2_score

from recparam.evaluation import LinearDecoder, distance_error, matched_error, mcc, mean_interval, r2


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def test_linear_decoder_recovers_a_linear_map(rng):
    z = rng.normal(size=(60, 6)) + 100
    y = (z @ rng.normal(size=(6, 6)) + rng.normal(size=6)).reshape(60, 3, 2)
    decoder = LinearDecoder().fit(z[:40], y[:40])
    assert decoder.predict(z[40:]).shape == (20, 3, 2)
    np.testing.assert_allclose(decoder.predict(z[40:]), y[40:], atol=1e-8)
    np.testing.assert_allclose(z @ decoder.weight.T + decoder.bias, y.reshape(60, 6), atol=1e-8)
    # Tensors are arrays enough.
    tensors = LinearDecoder().fit(torch.from_numpy(z), torch.from_numpy(y))
    np.testing.assert_allclose(tensors.predict(torch.from_numpy(z)), y, atol=1e-8)
    one = LinearDecoder().fit(z, y[:, 0, 0]).predict(z)
    assert one.shape == (60,)
    np.testing.assert_allclose(one, y[:, 0, 0], atol=1e-8)


def test_linear_decoder_is_least_squares(rng):
    z, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    residual = y - LinearDecoder().fit(z, y).predict(z)
    # Normal equations: residuals are orthogonal to the latents and to the constant.
    np.testing.assert_allclose(np.c_[z, np.ones(30)].T @ residual, 0, atol=1e-10)


def test_constant_latents_decode_to_the_mean(rng):
    y = rng.normal(size=(20, 3, 2))
    z = np.full((20, 6), 0.1)
    np.testing.assert_allclose(LinearDecoder().fit(z, y).predict(z), np.broadcast_to(y.mean(0), y.shape))
    errors = distance_error(np.broadcast_to(y.mean(0), y.shape), y)
    np.testing.assert_allclose(matched_error(z, y, z, y), errors)
    assert mcc(z, y) == 0
    # Constant up to rounding is constant: no number is made of noise, even on other test latents.
    noisy = 1e3 + np.where(rng.random((20, 6)) < 0.5, 0, 1e-13)
    np.testing.assert_allclose(matched_error(noisy, y, noisy + 1e-12, y), errors)


def test_distance_error_by_hand():
    true = np.zeros((2, 2, 2))
    predicted = np.array([[[3, 4], [0, 0]], [[0, 1], [0, -2]]])
    np.testing.assert_allclose(distance_error(predicted, true), [3, 1])


def test_r2(rng):
    true = rng.normal(size=(40, 3))
    predicted = true + 0.3 * rng.normal(size=(40, 3))
    assert r2(predicted, true) == pytest.approx(r2_score(true, predicted))
    assert r2(true, true) == 1
    assert r2(np.broadcast_to(true.mean(0), true.shape), true) == pytest.approx(0)
    assert r2(predicted.reshape(40, 3, 1), true.reshape(40, 3, 1)) == pytest.approx(r2_score(true, predicted))
    assert r2(predicted[:, 0], true[:, 0]) == pytest.approx(r2_score(true[:, 0], predicted[:, 0]))
    assert r2([2.0, 2.0], [2.0, 2.0]) == r2_score([2.0, 2.0], [2.0, 2.0]) == 1
    assert r2([2.0, 3.0], [2.0, 2.0]) == r2_score([2.0, 2.0], [2.0, 3.0]) == 0
    # What scikit-learn's lacks: the mean of a constant is rounded, and its "variance" is then about 1e-34.
    true[:, 1] = 0.1
    assert r2(predicted, true) == pytest.approx(r2_score(true[:, [0, 2]], predicted[:, [0, 2]]) * 2 / 3)
    assert r2_score(true, predicted) < -1e20


def test_matched_error_undoes_permutation_scale_and_shift_only(rng):
    y = rng.uniform(0, 64, size=(200, 3, 2))
    flat = y.reshape(200, 6)
    z = (flat * [2, -1, 0.01, 3, 1, -5] + [0, 7, 1, 1e4, -2, 3])[:, [3, 0, 5, 1, 4, 2]]
    np.testing.assert_allclose(matched_error(z[:100], y[:100], z[100:], y[100:]), 0, atol=1e-8)
    assert mcc(z, y) == pytest.approx(1)
    # A rotation of two coordinates is linear, so the decoder undoes it and the matching must not.
    mixed = z.copy()
    mixed[:, [1, 3]] = np.c_[flat[:, 0] + flat[:, 1], flat[:, 0] - flat[:, 1]]
    assert matched_error(mixed[:100], y[:100], mixed[100:], y[100:])[0] > 5
    decoded = LinearDecoder().fit(mixed[:100], y[:100]).predict(mixed[100:])
    np.testing.assert_allclose(distance_error(decoded, y[100:]), 0, atol=1e-8)
    assert mcc(mixed, y) == pytest.approx((4 + 2 * np.sqrt(0.5)) / 6, abs=0.03)


def test_matched_error_fits_on_training_data_alone(rng):
    y_train, y_test = rng.uniform(0, 64, size=(2, 100, 1, 2))
    z_train = y_train.reshape(100, 2)
    # Test latents are shifted by 3 in x and 4 in y; a fit that saw them would hide it.
    z_test = y_test.reshape(100, 2) + [3, 4]
    np.testing.assert_allclose(matched_error(z_train, y_train, z_test, y_test), 5)
    # and with latents to spare the useless ones stay unused
    spare = np.c_[rng.normal(size=100), z_train]
    np.testing.assert_allclose(matched_error(spare, y_train, np.c_[np.zeros(100), z_test], y_test), 5)


def test_mcc_matches_one_to_one():
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    y = np.c_[np.sin(t), np.cos(t)]
    # Both latents follow the first factor; only one may be matched to it.
    assert mcc(np.c_[np.sin(t), 2 * np.sin(t) + 1], y) == pytest.approx(0.5)
    assert mcc(np.c_[-np.cos(t), np.sin(t)], y) == pytest.approx(1)
    assert mcc(np.cos(t)[:, None], y) == pytest.approx(1)


def test_mean_interval(rng):
    values = rng.normal(3, 2, size=5)
    mean, low, high = mean_interval(values, level=0.9)
    reference = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose((mean, low, high), (values.mean(), *reference))
    assert mean_interval([1.0, 1.0]) == (1.0, 1.0, 1.0)
    assert mean_interval([4.0]) == (4.0, None, None)


def test_mean_interval_covers_as_often_as_it_says(rng):
    intervals = [mean_interval(values) for values in rng.normal(1.0, 3.0, size=(2000, 4))]
    covered = np.mean([low <= 1.0 <= high for _, low, high in intervals])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


Z, Y = np.ones((4, 6)), np.ones((4, 3, 2))
NAN = np.where(np.arange(24).reshape(4, 6) == 5, np.nan, 1.0)
INF = np.where(np.arange(24).reshape(4, 3, 2) == 5, np.inf, 1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LinearDecoder().predict(Z), "fit"),
        (lambda: LinearDecoder().fit(Z[0], Y), r"z of shape \(N, D\); got \(6,\)"),
        (lambda: LinearDecoder().fit(Z, Y[:3]), r"y of shape \(4, ...\)"),
        (lambda: LinearDecoder().fit(NAN, Y), "finite values in z; got 1"),
        (lambda: LinearDecoder().fit(Z, INF), "finite values in y; got 1"),
        (lambda: LinearDecoder().fit(Z, Y).predict(Z[:, :5]), r"\(N, 6\); got \(4, 5\)"),
        (lambda: LinearDecoder().fit(Z[:0], Y[:0]), "at least one entry"),
        (lambda: distance_error(Y, Y[:3]), r"\(4, 3, 2\) and \(3, 3, 2\)"),
        (lambda: distance_error(Z, Z), "predicted\\[:, None\\]"),
        (lambda: distance_error(Y, INF), "in true"),
        (lambda: r2(Y, Z), "predicted and true"),
        (lambda: matched_error(Z, Y, Z[:, :5], Y), "z_test"),
        (lambda: matched_error(Z[:, :5], Y, Z[:, :5], Y), "at least 6 latents"),
        (lambda: matched_error(Z, Y, Z, Y[:, :2]), r"y_test of shape \(4, 3, 2\)"),
        (lambda: matched_error(Z, Z, Z, Z), r"y_train of shape \(4, objects, coordinates\)"),
        (lambda: matched_error(Z, Y, NAN, Y), "in z_test"),
        (lambda: mcc(Z, Y[:2]), "same rows"),
        (lambda: mcc(Z[:1], Y[:1]), "at least 2"),
        (lambda: mean_interval([]), "values"),
        (lambda: mean_interval([1.0, float("nan")]), "values"),
        (lambda: mean_interval([1.0, 2.0], level=1.0), "level"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
