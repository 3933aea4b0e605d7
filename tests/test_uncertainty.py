"""Standard deviations of latents that are points: they cover, they shrink with more columns, and they refuse."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import recparam as rp
from recparam.networks import Standardised

pytestmark = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")


def cells(count: int, seed: int = 0, rows: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    place = np.zeros((rows, 2))
    for t in range(1, rows):
        place[t] = np.clip(place[t - 1] + 0.1 * rng.normal(size=2), -1, 1)
    centres = rng.uniform(-1.2, 1.2, size=(count, 2))
    rates = 4 * np.exp(-((place[:, None] - centres) ** 2).sum(-1) / 0.3)
    return np.sqrt(rng.poisson(rates)).astype(np.float32), place


def fitted(x: np.ndarray) -> rp.RPMEstimator:
    return rp.RPMEstimator(window=1, lag=1, restarts=1, max_steps=300, random_state=0).fit(x)


@pytest.fixture(scope="module")
def wide() -> tuple[rp.RPMEstimator, np.ndarray, np.ndarray]:
    x, place = cells(60)
    return fitted(x[:2200]), x, place


def linear(x: np.ndarray) -> tuple[rp.RPMEstimator, np.ndarray]:
    """A fit with a linear encoder, and the weights that it has for x."""
    net = Standardised(nn.Linear(x.shape[1], 2), mean=torch.full(x.shape[1:], 0.5), scale=torch.ones(x.shape[1:]))
    est = rp.RPMEstimator(encoder=net, lag=1, restarts=1, max_steps=2, random_state=0).fit(x)
    fitted = cast(Any, est.encoder_)  # whose means and scales are of the fitted rows
    return est, (fitted.net.weight / fitted.scale).detach().numpy()


def test_of_a_linear_encoder_it_is_known() -> None:
    x = np.random.default_rng(0).normal(2, 3, size=(400, 10)).astype(np.float32)
    est, weight = linear(x)
    moved = weight[None] * (x[:, None] - cast(Any, est.encoder_).mean.numpy())  # (N, 2, 10)
    expected = np.sqrt(9 / 10 * ((moved - moved.mean(-1, keepdims=True)) ** 2).sum(-1))
    np.testing.assert_allclose(est.transform(x, return_std=True)[1], expected, rtol=1e-3)


def test_an_interval_covers_as_often_as_it_says_where_columns_are_noise() -> None:
    rng = np.random.default_rng(0)
    state = 0.1 * rng.normal(size=(2000, 2)) @ rng.normal(size=(2, 60))
    x = (0.5 + state + rng.normal(size=state.shape)).astype(np.float32)
    est, weight = linear(x)
    z, std = est.transform(x, return_std=True)
    error = (x - state - 0.5) @ weight.T
    covered = (np.abs(error) < 1.645 * std).mean(0)
    assert np.array_equal(z, est.transform(x)) and std.shape == z.shape
    assert (covered > 0.84).all() and (covered < 0.94).all()


def test_more_noise_is_a_larger_deviation(wide: tuple[rp.RPMEstimator, np.ndarray, np.ndarray]) -> None:
    est, x, _ = wide
    few = x.copy()
    few[:, ::2] = x[:, ::2].mean(0)  # half of the columns say nothing
    one, half = (est.transform(rows[2200:], return_std=True)[1] for rows in (x, few))
    assert one.mean() != pytest.approx(half.mean(), rel=0.01)
    assert np.isfinite(half).all()


def test_rows_alone_are_rows_together(wide: tuple[rp.RPMEstimator, np.ndarray, np.ndarray]) -> None:
    est, x, _ = wide
    together = est.transform(x[:50], return_std=True)[1]
    np.testing.assert_allclose(est.transform(x[7:8], return_std=True)[1], together[7:8], rtol=1e-4)


def test_frames_and_few_columns_are_refused() -> None:
    x = np.random.default_rng(0).normal(size=(400, 1)).cumsum(0)
    est = rp.RPMEstimator(latent_dim=1, window=1, lag=1, restarts=1, max_steps=2).fit(x)
    with pytest.raises(ValueError, match="Expected vectors of 2 columns or more.*return_std"):
        est.transform(x, return_std=True)
    frames = np.random.default_rng(0).integers(0, 255, size=(60, 12, 12)).astype(np.uint8)
    video = rp.RPMEstimator(encoder="conv", restarts=1, max_steps=2).fit(frames)
    with pytest.raises(ValueError, match="joint-gaussian"):
        video.transform(frames, return_std=True)
