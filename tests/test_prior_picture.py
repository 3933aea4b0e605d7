"""What a prior expects to follow: its probabilities, and their picture."""

import numpy as np
import pytest
import torch

import recparam as rp
from recparam.plots.prior import draw_prediction
from recparam.runs.latents import Latents, next_latents, predict_latents

pytestmark = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
RNG = np.random.default_rng(0)
X = np.sin(np.cumsum(0.2 * RNG.normal(size=(200, 4)), axis=0))


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    return rp.RPMEstimator(max_steps=20, restarts=1, random_state=0).fit(X)


def test_probabilities_over_the_bank_are_the_coupling_s(fitted: rp.RPMEstimator) -> None:
    z = fitted.transform(X[:5])
    candidates, probability = fitted.next_over_bank(z)
    with torch.no_grad():
        theta = fitted.prior_.coupling.lengthscale.numpy()
    square = (((z[:, None] - candidates[None]) / theta) ** 2).sum(-1)
    expected = np.exp(-square / 2)
    expected /= expected.sum(1, keepdims=True)
    assert np.allclose(probability, expected, rtol=1e-3, atol=1e-6)
    assert np.allclose(probability @ candidates, fitted.predict_next(X[:5]), atol=1e-5)
    own = rp.RPMEstimator(prior="joint-gaussian", max_steps=5, restarts=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="density of its own"):
        own.next_over_bank(z)
    held_out = np.arange(200) >= 160
    latents = Latents(own.transform(X), sessions=np.zeros(200, int), held_out=held_out)
    assert predict_latents(own, latents, following=next_latents(latents, 1), lag=1) is None


def test_what_followed_is_of_the_same_session(fitted: rp.RPMEstimator) -> None:
    z = fitted.transform(X).astype(float)
    held_out = np.zeros(200, dtype=bool)
    held_out[[50, 99, 199]] = True  # within a session, at its end, at the end of all
    latents = Latents(z, sessions=(np.arange(200) >= 100).astype(int), held_out=held_out)
    prediction = predict_latents(fitted, latents, following=next_latents(latents, 1), lag=1)
    assert np.isnan(next_latents(latents, None)).all()
    assert prediction is not None
    assert {tuple(row) for row in prediction.z} == {tuple(z[row]) for row in (50, 99, 199)}
    known = np.isfinite(prediction.following).all(1)
    assert known.sum() == 1
    assert np.array_equal(prediction.z[known][0], z[50])
    assert np.array_equal(prediction.following[known][0], z[51])


def test_the_likelier_a_candidate_the_more_opaque() -> None:
    candidates, z = RNG.normal(size=(50, 2)), np.zeros((3, 2))
    probability = np.exp(-4 * (candidates**2).sum(1))
    probability = np.stack([probability / probability.sum()] * 3)
    figure = draw_prediction(candidates, probability, z=z, following=z + [[0.1, 0]])
    assert len(figure.axes) == 3
    everything, likely = figure.axes[0].collections
    assert np.allclose(everything.get_offsets(), candidates)  # latents as they are, not rotated
    share = probability[0] / probability[0].max()
    assert np.allclose(likely.get_alpha(), share[share > 0.04])
    assert np.allclose(likely.get_offsets(), candidates[share > 0.04])
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [[[0, 0]], [[0.1, 0]]]


@pytest.mark.parametrize(("width", "panels"), [(1, 1), (3, 3)])
def test_one_latent_has_histograms_and_many_have_principal_components(width: int, panels: int) -> None:
    candidates = RNG.normal(size=(50, width)) * np.arange(1, width + 1)
    probability = np.full((2, 50), 0.02)
    nowhere = np.full((2, width), np.nan)
    figure = draw_prediction(candidates, probability, z=candidates[:2], following=nowhere)
    assert len(figure.axes) == min(panels, 1 if width == 1 else 2)
    if width == 3:
        offsets = np.asarray(figure.axes[0].collections[0].get_offsets())
        spread = np.linalg.eigvalsh(np.cov(candidates.T))
        assert np.allclose(np.cov(offsets.T), np.diag(spread[:0:-1]), atol=1e-8)
    figure.canvas.draw()
