"""The encoder of what is before a still background."""

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.networks import ForegroundCNN


def video(rows: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A square that wanders before a still, noisy background, and its place."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(size=(rows, 2)), 0)
    place = 4 + 20 * np.abs((steps / 20) % 2 - 1)
    frames = rng.integers(0, 200, (1, 32, 32, 1)) + rng.integers(0, 5, (rows, 32, 32, 1))
    for frame, (x, y) in zip(frames, place.round().astype(int), strict=True):
        frame[y - 1 : y + 2, x - 1 : x + 2] = 255 - frame[y - 1 : y + 2, x - 1 : x + 2]
    return frames.clip(0, 255).astype(np.uint8), place


def test_places_before_a_still_background_are_right_untrained() -> None:
    frames, place = video()
    net = ForegroundCNN(height=32, width=32, in_channels=1)
    rows = torch.from_numpy(frames).float()
    net.set_from(rows)
    error = (net(rows).detach().numpy() - place.round()).__abs__()
    assert np.median(error) < 0.5
    assert net.maps(rows).min() >= 0
    np.testing.assert_allclose(net(net.background[None]).detach().numpy(), [[15.5, 15.5]], atol=1e-3)


def test_frames_of_another_size_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(B, 32, 32, 1\); got \(2, 30, 32, 1\)"):
        ForegroundCNN(height=32, width=32, in_channels=1)(torch.zeros(2, 30, 32, 1))


@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
def test_a_fit_starts_its_width_at_pairs_and_is_saved(tmp_path: object) -> None:
    frames, place = video()
    est = rp.RPMEstimator(encoder="foreground", lag=1, max_steps=3, restarts=1, random_state=0).fit(frames)
    z = est.transform(frames)
    assert np.median(np.abs(z - place.round())) < 0.5
    width = float(est.model_.prior.coupling.lengthscale.detach())
    steps = np.median(np.linalg.norm(np.diff(place, axis=0), axis=1))
    assert 0.5 * steps < width < 2 * steps
    est.save(f"{tmp_path}/model")
    np.testing.assert_array_equal(rp.RPMEstimator.load(f"{tmp_path}/model").transform(frames), z)


@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
@pytest.mark.parametrize("encoder", ["foreground", "centre-of-mass"])
def test_grey_frames_need_no_axis_of_channels(encoder: str) -> None:
    frames, _ = video(60)
    one, other = (
        rp.RPMEstimator(encoder=encoder, lag=1, max_steps=2, restarts=1, random_state=0).fit(x).transform(x)
        for x in (frames, frames[..., 0])
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
def test_frames_without_foreground_leave_it_out() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (40, 6, 6), dtype=np.uint8)
    est = rp.RPMEstimator(max_steps=2, restarts=2, random_state=0).fit(frames)
    assert [row["choice"].split(",")[0] for row in est.restarts_] == ["conv", "centre-of-mass"]
    with pytest.raises(ValueError, match="still background in at least half .* Use encoder='auto'"):
        rp.RPMEstimator(encoder="foreground", max_steps=2, restarts=1, random_state=0).fit(frames)
