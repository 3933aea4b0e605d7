"""What a fit chooses by itself: windows, lags, encoders and starts; and how models that read windows are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.data.windows import centred, windowed
from recparam.estimator.candidates import candidates
from recparam.estimator.choices import FAR, NEAR, WINDOWS, choices
from recparam.estimator.names import make_prior
from recparam.networks import Pooled, SmoothedMLP

pytestmark = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
GAUSSIAN = make_prior("gaussian", 2)


def seen(noise: float, rows: int = 1500, *, step: float = 0.04) -> np.ndarray:
    """A random walk on a circle, seen through 12 bumps with noise."""
    rng = np.random.default_rng(0)
    angle = np.cumsum(step * rng.normal(size=rows))
    bumps = np.exp(4 * (np.cos(angle[:, None] - np.linspace(0, 2 * np.pi, 12, endpoint=False)) - 1))
    return bumps + noise * rng.normal(size=bumps.shape)


def of(shape: tuple[int, ...], *, declared: bool = False, prior: Any = GAUSSIAN, **settings: Any) -> list[Any]:
    found = choices(
        rp.RPMEstimator(**settings), Recording.of(np.ones((40, *shape), np.uint8)), prior=prior, declared=declared
    )
    return [(c.encoder, c.window, c.lag) for c in found]


def test_vectors_compare_windows_that_are_read_in_halves() -> None:
    single = [("auto", 1, NEAR), ("auto", 1, FAR)]
    assert of((5,)) == [*single, *(("auto", w, NEAR) for w in (3, 5, 11, 21))]
    assert of((5,), lag=(5, 9)) == [("auto", w, (5, 9)) for w in WINDOWS]
    assert of((5,), window=7) == [("auto", 7, NEAR)]
    assert of((5,), window=7, encoder="temporal") == [("temporal", 7, (7,))]  # which reads whole windows
    assert of((5,), declared=True, window=7) == [("auto", 7, (7,))]
    found = choices(rp.RPMEstimator(), Recording.of(np.ones((40, 5))), prior=GAUSSIAN, declared=False)
    assert [c.parted for c in found] == [c.window > 1 for c in found]


def test_frames_compare_encoders_where_places_are_possible() -> None:
    assert of((9, 9, 3)) == [("conv", 1, NEAR), *[("centre-of-mass", 1, NEAR)] * 3, ("foreground", 1, NEAR)]
    assert of((9, 9)) == of((9, 9, 3)) and len(of((9, 9), restarts=2)) == 3  # grey ones too
    assert of((9, 9, 3), latent_dim=3) == of((9, 9, 3), prior=make_prior("circle", 2)) == [("auto", 1, NEAR)]
    assert of((9, 9, 3), prior=make_prior("joint-gaussian", 2)) == [("auto", 1, NEAR)]


def test_a_single_start_declared_pairs_and_priors_of_several_rows_compare_nothing() -> None:
    assert of((5,), restarts=1) == [("auto", 1, NEAR)]
    assert of((5,), declared=True) == of((5,), prior=make_prior("velocity", 2)) == [("auto", 1, (1,))]


@pytest.mark.parametrize(("noise", "windows"), [(0.02, {1, 3}), (0.7, {5, 11, 21})])
def test_noise_makes_the_window_long(noise: float, windows: set[int]) -> None:
    x = seen(noise, step=0.5 if noise < 0.1 else 0.04)
    est = rp.RPMEstimator(max_steps=320, restarts=2, random_state=0, accelerator="cpu").fit(x)
    assert est.window_ in windows
    shares = {s["window"]: s["predicted_share"] for s in est.restarts_ if s["predicted_share"] is not None}
    assert len(shares) == 5 and max(shares.values()) > 0
    assert f"windows of {max(windows)} rows" in est.describe()


def test_a_model_of_windows_takes_rows_and_keeps_to_sessions(tmp_path: Path) -> None:
    x = seen(0.5, 400)
    est = rp.RPMEstimator(window=5, max_steps=20, restarts=1, random_state=0).fit(x)
    assert (est.window_, est.lag_, est.shape_in_) == (5, NEAR, (12,))
    parts = np.concatenate([est.transform(x[:150]), est.transform(x[150:])])
    np.testing.assert_allclose(est.transform(x, sessions=np.repeat([0, 1], [150, 250])), parts, atol=1e-6)
    assert not np.allclose(est.transform(x)[148:152], parts[148:152])
    by_hand = rp.RPMEstimator(lag=NEAR, max_steps=20, restarts=1, random_state=0)
    wide = windowed(Recording.of(x), before=2, after=2, parted=True)
    np.testing.assert_allclose(by_hand.fit(wide).transform(wide), est.transform(x), atol=1e-6)
    pairs = consecutive(Recording.of(x), lag=NEAR)
    assert est.score(x) == pytest.approx(float(est.elbo(x, pairs=pairs)))
    est.save(tmp_path / "model")
    again = rp.RPMEstimator.load(tmp_path / "model")
    assert again.window_ == 5 and again.score(x) == est.score(x)


def test_starts_are_halved_and_the_rest_is_trained_to_the_end() -> None:
    est = rp.RPMEstimator(max_steps=64, random_state=0).fit(seen(0.3, 600))
    first, starts = est.restarts_[:6], est.restarts_[6:]
    assert sorted(row["steps"] for row in first)[:3] == [4, 4, 4] and len(starts) == 3
    assert sum(row["chosen"] for row in est.restarts_) == 1
    assert sum(row["steps"] == 8 for row in est.restarts_) >= 3


def test_choices_for_which_sessions_are_too_short_are_left_out() -> None:
    sessions = [seen(0.1, 700)[k : k + 7] for k in range(0, 700, 7)]
    est = rp.RPMEstimator(random_state=0)
    found = candidates(est, Recording.of(sessions), None, prior=GAUSSIAN, seed=0)
    assert {c.choice.window for c in found} == {1, 3, 5}
    assert all(c.choice.lag == NEAR for c in found)


def test_frames_are_averaged_once_and_the_encoder_takes_both() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, size=(60, 101, 64, 3), dtype=np.uint8)
    est = rp.RPMEstimator(encoder="conv", lag=1, max_steps=3, restarts=1, random_state=0).fit(frames)
    assert isinstance(est.encoder_, Pooled) and est.encoder_.shape == (34, 22)
    small = est.encoder_.pool(torch.from_numpy(frames))
    assert small.dtype == torch.uint8
    torch.testing.assert_close(est.encoder_(small), est.encoder_(torch.from_numpy(frames)))


def test_places_are_in_pixels_of_the_frames_as_they_are() -> None:
    frames = np.zeros((80, 100, 100, 1), np.uint8)
    where = np.random.default_rng(0).integers(10, 80, size=(80, 2))
    for frame, (y, x) in zip(frames, where, strict=True):
        frame[y : y + 10, x : x + 10] = 255
    est = rp.RPMEstimator(encoder="centre-of-mass", lag=1, max_steps=3, restarts=1, random_state=0).fit(frames)
    z = est.transform(frames)
    assert 20 < z.min() and z.max() < 80 and abs(z.mean() - 49.5) < 15


def test_the_smoothed_mlp_is_a_weighted_mean_and_drops_whole_columns() -> None:
    net = SmoothedMLP(3, window=5, out_features=2, hidden=(), dropout=0.5)
    x = torch.randn(4, 5, 3)
    far, near, middle = net.weights
    with torch.no_grad():
        for rows, logits in ((x, [far, near, middle, near, far]), (x[:, :3], [far, near, middle])):
            weights = torch.stack(logits).softmax(0)
            mean = torch.einsum("w,bwd->bd", weights, rows) * 3**0.5
            torch.testing.assert_close(net.eval()(rows), net.net(mean))
    assert middle == net.weights.max()
    for wrong in (x[:, :4], x[:, :3, :2]):
        with pytest.raises(ValueError, match=r"windows of shape \(B, [35], 3\)"):
            net(wrong)
    with pytest.raises(ValueError, match="odd number"):
        SmoothedMLP(3, window=4, out_features=2)


def test_of_windows_in_halves_x_and_x_prime_share_no_row() -> None:
    recording = Recording.of([np.arange(10.0)[:, None], np.arange(20.0, 30.0)[:, None]])
    pairs = consecutive(windowed(recording, before=2, after=2, parted=True), lag=(1, 3))
    x, x_prime = pairs.tensors()
    assert x.shape == x_prime.shape == (len(pairs), 3, 1)
    assert torch.equal(x[:, -1, 0], torch.from_numpy(recording[:][pairs.first, 0]))
    assert torch.equal(x_prime[:, -1, 0], torch.from_numpy(recording[:][pairs.second, 0]))
    assert (x.amax((1, 2)) < x_prime.amin((1, 2))).all()
    assert x[3].flatten().tolist() == [1, 2, 3] and x_prime[3].flatten().tolist() == [6, 5, 4]


@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
def test_noise_that_lasts_no_row_gives_windows_in_halves_no_nats() -> None:
    noise = np.random.default_rng(0).normal(size=(1500, 6)).astype(np.float32)
    est = rp.RPMEstimator(window=11, max_steps=150, restarts=1, dropout=0.0, random_state=0).fit(noise[:1000])
    assert float(est.elbo(noise[1000:])) < 0.02
    whole = rp.RPMEstimator(lag=1, max_steps=150, restarts=1, dropout=0.0, random_state=0)
    wide = [windowed(Recording.of(part), before=5, after=5) for part in (noise[:1000], noise[1000:])]
    assert float(whole.fit(wide[0]).elbo(wide[1])) > 0.5  # ten of eleven rows are shared


def test_a_window_has_a_middle() -> None:
    recording = Recording.of(np.arange(10.0)[:, None])
    assert centred(recording, 1) is recording
    assert centred(recording, 3)[1:2][..., 0].tolist() == [[0.0, 1.0, 2.0]]
    with pytest.raises(ValueError, match="odd number"):
        centred(recording, 4)


def test_windows_in_halves_are_for_priors_of_one_earlier_row() -> None:
    wide = windowed(Recording.of(seen(0.1, 100)), before=2, after=2, parted=True)
    with pytest.raises(ValueError, match="Expected whole windows for a prior that reads several earlier rows"):
        rp.RPMEstimator(prior="velocity", restarts=1, max_steps=2).fit(wide)
