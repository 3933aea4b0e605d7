"""Data far from zero: what they vary by is not rounded away before it is centred."""

from pathlib import Path

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.data.channels import own_channels
from recparam.data.conditioned import nearest
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.data.windows import windowed
from recparam.networks import Standardised

N = 300
PLACE = np.cumsum(np.random.default_rng(0).normal(size=(N, 2)), axis=0)
X = np.tanh(PLACE @ np.random.default_rng(1).normal(size=(2, 4)) / 9)
X = np.round((X + np.random.default_rng(2).normal(size=X.shape) / 20) * 2**20) / 2**20  # adds to an offset exactly
OFFSETS = {
    "UTM metres": np.array([601120.0, 4493773.0, 0, 0]),
    "all": np.full(4, 2.0**28),
    "below zero": np.full(4, -(2.0**26)),
}
SETTINGS = {"latent_dim": 2, "max_steps": 8, "restarts": 1, "lag": 1, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore:The :UserWarning")


def fitted(data, **options):
    return rp.RPMEstimator(**SETTINGS).fit(data, **options)


@pytest.fixture(scope="module")
def plain():
    return fitted(X)


@pytest.mark.parametrize("name", OFFSETS)
def test_an_offset_changes_nothing(name, plain, tmp_path: Path):
    offset = OFFSETS[name]
    far = fitted(X + offset)
    for rows in (slice(None), slice(0, 3), [5, 5, 5]):  # also of rows that by themselves would not need it
        np.testing.assert_allclose(far.transform(X[rows] + offset), plain.transform(X[rows]), atol=0.05)
    assert float(far.elbo(X + offset)) == pytest.approx(float(plain.elbo(X)), abs=0.05)
    far.save(tmp_path / "model")
    loaded = rp.RPMEstimator.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(X + offset), far.transform(X + offset))
    again, near = far.partial_fit(X + offset), fitted(X).partial_fit(X)
    assert again.validation_nats_ == pytest.approx(near.validation_nats_, abs=0.1)


def test_whole_numbers_missing_values_windows_sides_and_sessions(plain):
    offset = 2.0**30
    counts = np.round(X * 2**20).astype(np.int64)
    np.testing.assert_allclose(fitted(counts + 2**50).transform(counts + 2**50), plain.transform(X), atol=0.05)
    mask = np.random.default_rng(0).random(X.shape) > 0.2
    near, far = Recording.of(X, mask=mask), Recording.of(X + offset, mask=mask)
    np.testing.assert_allclose(fitted(far).transform(far), fitted(near).transform(near), atol=0.05)
    near, far = (windowed(Recording.of(data), before=2) for data in (X, X + offset))
    np.testing.assert_allclose(fitted(far).transform(far), fitted(near).transform(near), atol=0.05)
    one, two = fitted(X, X_prime=X[:, :3]), fitted(X, X_prime=X[:, :3] + offset)
    moved = two.transform(X[:, :3] + offset, side="x_prime")
    np.testing.assert_allclose(moved, one.transform(X[:, :3], side="x_prime"), atol=0.05)
    near, far = (own_channels([X[:150] + by, X[150:, :3] + by]) for by in (0, offset))
    one, two = (fitted(part, pairs=nearest(part, np.tile(PLACE[:150], (2, 1)))) for part in (near, far))
    np.testing.assert_allclose(two.transform(far), one.transform(near), atol=0.05)
    np.testing.assert_allclose(two.transform(X[:3] + offset, session=0), one.transform(X[:3], session=0), atol=0.05)


def test_data_near_zero_are_in_single_precision(plain):
    assert plain.encoder_.mean.dtype == torch.float32
    assert not Recording.of(X).loses_digits(np.arange(N), least=1e-4)
    assert not Recording.of(np.float32(X + 1e9)).loses_digits(np.arange(N), least=1e-4)
    assert not Recording.of(np.ones((N, 2)) * 1e9).loses_digits(np.arange(N), least=1e-4)
    (x, _), (double, _) = consecutive(Recording.of(X)).tensors(), consecutive(Recording.of(X).in_double()).tensors()
    assert x.dtype == torch.float32 and double.dtype == torch.float64


def test_a_mean_in_double_precision_is_subtracted_in_it():
    rows = torch.tensor([[2.0**40], [2.0**40 + 1]], dtype=torch.float64)
    net = Standardised(torch.nn.Identity(), mean=torch.zeros(1), scale=torch.ones(1))
    net.set_from(rows)
    assert net(rows).tolist() == [[-1], [1]] and net(rows).dtype == torch.float32
    other = Standardised(torch.nn.Identity(), mean=torch.zeros(1), scale=torch.ones(1))
    other.load_state_dict(net.state_dict())
    assert other(rows).tolist() == [[-1], [1]]


def test_batches_that_lose_digits_say_so():
    with pytest.warns(UserWarning, match="single precision rounds them by more than 1%"):
        consecutive(Recording.of(X + 1e9)).batches(32, seed=0)
