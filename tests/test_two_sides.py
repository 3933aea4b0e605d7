"""The estimator with x and x' of different kinds: two aligned modalities, an encoder each, against a known walk."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from torch import nn

import recparam as rp
from quick_fits import quick, reflected_walk
from recparam.data.pairs import aligned, consecutive
from recparam.data.recording import Recording
from recparam.estimator import FitWarning

quiet = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning", "ignore::recparam.bounds.CeilingWarning")

ROWS, FIT = 800, slice(600)
TEST = slice(600, None)


def views(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A walk in the unit square, and two linear views of it, of 8 and 5 columns, with noise of their own."""
    rng = np.random.default_rng(seed)
    z = reflected_walk(rng, ROWS, step=0.2)
    x, y = (z @ rng.normal(size=(2, width)) + 0.05 * rng.normal(size=(ROWS, width)) for width in (8, 5))
    return z, x, y


Z, X, Y = views()
estimator = partial(quick, max_steps=90)


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return estimator().fit(X[FIT], X_prime=Y[FIT])


def r2(of: np.ndarray, truth: np.ndarray) -> float:
    return float(LinearRegression().fit(of[FIT], truth[FIT]).score(of[TEST], truth[TEST]))


def test_both_sides_decode_to_the_walk_and_lie_in_one_space(fitted: rp.RPMEstimator) -> None:
    z, z_prime = fitted.transform(X), fitted.transform(Y, side="x_prime")
    assert r2(z, Z) > 0.9 and r2(z_prime, Z) > 0.9
    # A decoder of one side's latents reads the other's without having seen them.
    decoder = LinearRegression().fit(z[FIT], Z[FIT])
    assert decoder.score(z_prime[TEST], Z[TEST]) > 0.9
    matching = fitted.match(X[TEST], Y[TEST])
    assert matching.places().above.double().mean() < 10  # of 200; 100 by chance


def test_what_is_expected_of_the_other_side_is_what_it_shows(fitted: rp.RPMEstimator) -> None:
    expected, seen = fitted.predict_next(X[TEST]), fitted.transform(Y[TEST], side="x_prime")
    assert ((expected - seen) ** 2).sum() < 0.15 * ((seen - seen.mean(0)) ** 2).sum()


def test_the_score_takes_each_side_through_its_own_encoder(fitted: rp.RPMEstimator) -> None:
    bound = fitted.elbo(X[TEST], X_prime=Y[TEST])
    assert len(bound.per_observation) == 200
    by_pairs = fitted.elbo(X[TEST], pairs=aligned(Recording.of(X[TEST]), Recording.of(Y[TEST])))
    assert float(by_pairs) == float(bound) == fitted.score(X[TEST], X_prime=Y[TEST])
    theta = float(fitted.prior_.coupling.lengthscale.detach())
    z, z_prime = fitted.transform(X[TEST]), fitted.transform(Y[TEST], side="x_prime")
    bank = fitted.transform(Y[:480], side="x_prime")  # the fitted pairs: the first four fifths, all within bank_size
    own = -0.5 * ((z - z_prime) ** 2).sum(1) / theta**2
    others = -0.5 * ((z[:, None] - bank) ** 2).sum(-1) / theta**2
    value = own - np.log((np.exp(own) + np.exp(others).sum(1)) / 481)
    assert float(bound) == pytest.approx(value.mean(), abs=1e-4)
    shuffled = fitted.score(X[TEST], X_prime=Y[TEST][::-1])
    assert shuffled < float(bound) - 1


def test_it_says_what_it_is(fitted: rp.RPMEstimator) -> None:
    lines = fitted.describe().splitlines()
    assert lines[0] == "rows     8" and lines[2] == "rows'    5"
    assert "in_features=8" in lines[1] and "in_features=5" in lines[3] and lines[3].startswith("encoder' MLP")
    assert "row i of X with row i of X_prime" in fitted.describe()
    assert fitted.encoder_ is not fitted.encoder_prime_ and fitted.shape_in_prime_ == (5,)


def test_a_saved_model_has_both_encoders(fitted: rp.RPMEstimator, tmp_path: Path) -> None:
    fitted.save(tmp_path / "run")
    again = rp.RPMEstimator.load(tmp_path / "run")
    assert np.array_equal(again.transform(Y, side="x_prime"), fitted.transform(Y, side="x_prime"))
    assert again.score(X, X_prime=Y) == fitted.score(X, X_prime=Y)
    assert again.describe() == fitted.describe()


@quiet
def test_an_encoder_of_ones_own_may_be_either(tmp_path: Path) -> None:
    est = estimator(max_steps=3, encoder_prime=nn.Linear(5, 2)).fit(X, X_prime=Y)
    est.save(tmp_path / "run")
    with pytest.raises(ValueError, match="encoder_prime=.*Linear"):
        rp.RPMEstimator.load(tmp_path / "run")
    again = rp.RPMEstimator.load(tmp_path / "run", encoder_prime=nn.Linear(5, 2))
    assert np.array_equal(again.transform(Y, side="x_prime"), est.transform(Y, side="x_prime"))


@quiet
def test_frames_beside_numbers_and_a_prior_with_densities() -> None:
    frames = np.random.default_rng(1).integers(0, 255, size=(ROWS, 12, 12)).astype(np.uint8)
    est = estimator(max_steps=3, prior="joint-gaussian").fit(frames, X_prime=Y)
    assert "ConvEncoder" in est.describe() and "MLP" in est.describe()
    mean, std = est.transform(Y[:4], side="x_prime", return_std=True)
    assert mean.shape == (4, 2) and (std > 0).all()
    assert est.elbo(frames, X_prime=Y).kind == "lower"
    assert est.predict_next(frames[:3]).shape == (3, 2)


@quiet
def test_partial_fit_goes_on_with_both() -> None:
    est = estimator(max_steps=40).fit(X[:400], X_prime=Y[:400])
    before = est.encoder_prime_.net.layers[0].weight.clone()
    est.set_params(max_steps=3).partial_fit(X[200:], X_prime=Y[200:])
    assert not np.array_equal(before.detach(), est.encoder_prime_.net.layers[0].weight.detach())
    assert est.score(X[200:], X_prime=Y[200:]) > 1.5


@quiet
def test_sessions_and_lags_of_aligned_rows() -> None:
    sessions = np.repeat([0, 1], 400)
    est = estimator(max_steps=3).fit(X, X_prime=Y, sessions=sessions)
    one = Recording.of(X, sessions=sessions)
    other = Recording.of([Y[:400], Y[400:]])
    pairs = aligned(one, other, lag=3)
    assert len(pairs) == 794 and set(pairs.lag.tolist()) == {3}
    x, x_prime = pairs.tensors(np.array([0, 500]))
    np.testing.assert_allclose(x, X[[0, 503]], rtol=1e-6)
    np.testing.assert_allclose(x_prime, Y[[3, 506]], rtol=1e-6)
    assert len(est.elbo(one, pairs=pairs).per_observation) == 794
    mask = np.ones(800, dtype=bool)
    mask[7] = False
    assert 7 not in aligned(Recording.of(X), Recording.of(Y, mask=mask)).first


BAD: dict[str, tuple[Callable[[rp.RPMEstimator], object], str]] = {
    "lengths": (lambda est: estimator().fit(X, X_prime=Y[:-1]), "as many rows.*800 of x and 799"),
    "sessions": (lambda est: estimator().fit([X[:9], X[9:]], X_prime=Y), "same sessions="),
    "pairs too": (
        lambda est: estimator().fit(X, X_prime=Y, pairs=consecutive(Recording.of(X))),
        "X_prime= or pairs=; got both",
    ),
    "constant": (lambda est: estimator().fit(X, X_prime=np.c_[Y, np.ones(ROWS)]), "columns of X_prime.*column 5"),
    "narrow": (lambda est: estimator().fit(X, X_prime=Y[:, :1]), "the number of columns of X_prime; got 2 latents"),
    "width": (lambda est: est.transform(X, side="x_prime"), r"rows of x_prime of shape \(5,\), as fitted; got \(8,\)"),
    "width of x": (lambda est: est.transform(Y), "5 features"),
    "side": (lambda est: est.transform(Y, side="y"), "side='x' or 'x_prime'; got 'y'"),
    "one side": (lambda est: est.score(X), "X_prime=.*got none"),
    "pairs of one": (
        lambda est: est.elbo(X, pairs=consecutive(Recording.of(X))),
        "pairs of two recordings, as fitted; got pairs of one",
    ),
    "width in a score": (lambda est: est.score(X, X_prime=X), r"rows of x_prime of shape \(5,\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(case: str, fitted: rp.RPMEstimator) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call(fitted)
