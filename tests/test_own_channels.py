"""Sessions with channels of their own: an encoder each, negatives of the same sessions, latents in one space."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

import recparam as rp
from quick_fits import quick, reflected_walk
from recparam.data.channels import own_channels
from recparam.data.conditioned import nearest
from recparam.data.pairs import aligned, by_index, consecutive
from recparam.data.recording import Recording
from recparam.estimator import FitWarning
from recparam.estimator.head import elbo_by_stratum
from recparam.networks.per_session import PerSession

LENGTHS = (500, 400)


def session(rows: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A walk in the unit square, and a smooth view of it that is this session's own."""
    rng = np.random.default_rng(seed)
    z = reflected_walk(rng, rows, step=0.2)
    return z, np.tanh(2 * (z - 0.5) @ rng.normal(size=(2, width))) + 0.02 * rng.normal(size=(rows, width))


(ZA, A), (ZB, B) = session(LENGTHS[0], 8, 1), session(LENGTHS[1], 5, 2)
PLACE = np.concatenate([ZA, ZB])
RECORDING = own_channels([A, B])
PAIRS = nearest(RECORDING, PLACE + 0.02 * np.random.default_rng(0).normal(size=PLACE.shape), neighbours=8, apart=20)
# One in ten of those that cross: what aligns the sessions is then a small part of the pairs.
CROSSES = RECORDING.sessions[PAIRS.first] != RECORDING.sessions[PAIRS.second]
FEW = PAIRS.where(~CROSSES | (np.arange(len(PAIRS)) % 10 == 0))
estimator = partial(quick, max_steps=60)


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return estimator().fit(RECORDING, pairs=FEW)


def test_a_row_says_which_session_it_is_of_and_what_it_holds() -> None:
    rows = RECORDING[np.array([3, 700])]
    assert rows.dtype == np.float32 and rows[:, 0].tolist() == [0, 1]
    np.testing.assert_allclose(rows[0, 1:], A[3], rtol=1e-6)
    np.testing.assert_allclose(rows[1, 1:], [*B[200], 0, 0, 0], rtol=1e-6)
    assert RECORDING.sessions.tolist() == [0] * 500 + [1] * 400 and RECORDING.row_shapes == ((8,), (5,))
    assert RECORDING.constant_columns() == []
    timed = own_channels([A[:3], B[:2]], times=[[0, 1, 2], [0, 5]], mask=[[True, False, True], [True, True]])
    assert timed.times.tolist() == [0, 1, 2, 0, 5] and timed.usable.tolist() == [True, False, True, True, True]
    assert len(consecutive(RECORDING)) == 498 + 400


def test_a_pair_meets_pairs_of_the_same_two_sessions_in_training() -> None:
    net = PerSession([nn.Linear(8, 2), nn.Linear(5, 2)], row_shapes=[(8,), (5,)])
    model = rp.RPM(rp.Deterministic(net), rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=0.7)))
    x, x_prime = PAIRS.tensors(np.arange(0, len(PAIRS), 60))
    bound = elbo_by_stratum(model, x, x_prime)
    z, z_prime = net(x).detach().double(), net(x_prime).detach().double()
    score = -0.5 * (z[:, None] - z_prime).square().sum(-1) / 0.7**2
    same = (x[:, None, 0] == x[:, 0]) & (x_prime[:, None, 0] == x_prime[:, 0])
    count = same.sum(1)
    weights = torch.where(same, score.exp(), 0).sum(1) / count
    expected = score.diagonal() - weights.log()
    assert set(zip(x[:, 0].tolist(), x_prime[:, 0].tolist(), strict=True)) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    torch.testing.assert_close(bound.per_observation.double(), expected, rtol=1e-4, atol=1e-5)
    assert float(bound) == pytest.approx(float(expected.mean()), abs=1e-5)
    assert bound.ceiling == pytest.approx(float(count.log().mean()), abs=1e-5)
    bound.value.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    # A lone pair has no negative.
    lone = elbo_by_stratum(model, *by_index(RECORDING, [0, 1, 2], [10, 11, 700]).tensors())
    assert len(lone.per_observation) == 2
    with pytest.raises(ValueError, match="none in 2 pairs.*larger batch_size"):
        elbo_by_stratum(model, *by_index(RECORDING, [0, 1], [10, 700]).tensors())


def test_each_session_goes_through_its_own_network() -> None:
    one, two = nn.Linear(2, 3), nn.Linear(4, 3)
    x = torch.randn(6, 5)
    x[:, 0] = torch.tensor([1.0, 0, 1, 1, 0, 0])
    net = PerSession([one, nn.Sequential(nn.Flatten(), two)], row_shapes=[(2,), (2, 2)])
    expected = torch.stack([two(row[1:]) if row[0] else one(row[1:3]) for row in x])
    torch.testing.assert_close(net(x), expected)
    net(x).square().sum().backward()
    assert one.weight.grad is not None and two.weight.grad is not None
    for wrong, words in ((x + 5, "sessions from 0 to 1"), (x[:, :4], r"\(B, 5\)")):
        with pytest.raises(ValueError, match=words):
            net(wrong)


def test_latents_of_both_sessions_lie_in_one_space(fitted: rp.RPMEstimator) -> None:
    a, b = fitted.transform(A, session=0), fitted.transform(B, session=1)
    np.testing.assert_allclose(fitted.transform(RECORDING), np.r_[a, b], atol=1e-6)
    # A decoder of one session reads the other, of which it has seen nothing.
    assert LinearRegression().fit(a, ZA).score(b, ZB) > 0.85
    assert LinearRegression().fit(b, ZB).score(a, ZA) > 0.85
    # ... and no straight line tells the sessions apart much better than their places do.
    which = np.repeat([0.0, 1.0], LENGTHS)
    apart = [LinearRegression().fit(of, which).score(of, which) for of in (np.r_[a, b], PLACE)]
    assert apart[0] < apart[1] + 0.05


def test_the_score_takes_negatives_of_the_same_session(fitted: rp.RPMEstimator) -> None:
    chosen = PAIRS.where(np.arange(0, len(PAIRS), 40))
    bound = fitted.elbo(RECORDING, pairs=chosen)
    theta = float(fitted.prior_.coupling.lengthscale.detach())
    z = fitted.transform(RECORDING)
    groups, bank = fitted._head.strata.numpy(), fitted._head.bank[1].numpy()
    sessions = RECORDING.sessions
    expected = []
    for first, second in zip(chosen.first, chosen.second, strict=True):
        others = bank[groups == 2 * sessions[first] + sessions[second]]
        own = -0.5 * ((z[first] - z[second]) ** 2).sum() / theta**2
        score = -0.5 * ((z[first] - others) ** 2).sum(1) / theta**2
        expected.append(own - np.log((np.exp(own) + np.exp(score).sum()) / (len(others) + 1)))
    np.testing.assert_allclose(bound.per_observation, expected, atol=1e-4)
    assert float(bound) > 1 and 3 < (bound.ceiling or 0) < np.log(513)


def test_it_says_what_it_is_and_comes_back(fitted: rp.RPMEstimator, tmp_path: Path) -> None:
    text = fitted.describe()
    assert "rows 0   8" in text and "rows 1   5" in text and "encoder 1 MLP(in_features=5" in text
    fitted.save(tmp_path / "run")
    again = rp.RPMEstimator.load(tmp_path / "run")
    assert np.array_equal(again.transform(B, session=1), fitted.transform(B, session=1))
    assert float(again.elbo(RECORDING, pairs=PAIRS)) == float(fitted.elbo(RECORDING, pairs=PAIRS))
    assert again.describe() == text
    matching = again.match(own_channels([A[:30], B[:30]]), own_channels([A[:30], B[:30]]))
    assert matching.places().above.double().mean() == 0  # the same rows


def test_missing_values_are_put_at_the_mean_of_their_own_session() -> None:
    rng = np.random.default_rng(3)
    seen = [rng.random(part.shape) > 0.2 for part in (A, B)]
    holed = own_channels([np.where(m, part, np.nan) for m, part in zip(seen, (A + 2, B - 2), strict=True)], mask=seen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        est = estimator(max_steps=3).fit(holed, pairs=nearest(holed, PLACE, neighbours=8, apart=20))
    mean = est.encoder_.nets[1].mean.numpy()
    by_hand = est.transform(np.where(seen[1], B - 2, mean), session=1)
    np.testing.assert_allclose(est.transform(holed)[500:], by_hand, atol=1e-6)
    np.testing.assert_allclose(est.transform(Recording.of(B - 2, mask=seen[1]), session=1), by_hand, atol=1e-6)
    assert abs(mean + 2).max() < 1


BAD: dict[str, tuple[Callable[[rp.RPMEstimator], object], str]] = {
    "ragged": (lambda est: estimator().fit([A, B]), "own_channels"),
    "no pair across": (lambda est: estimator().fit(RECORDING), "joins session 0 to session 1.*nearest"),
    "one session": (lambda est: own_channels([A]), "at least two sessions"),
    "a bad session": (lambda est: own_channels([A, np.full((3, 2), np.nan)]), "Session 1: .*NaN"),
    "times of one": (lambda est: own_channels([A, B], times=[np.arange(500)]), "times as a list of 2.*got 1"),
    "constant": (
        lambda est: estimator().fit(own_channels([A, np.c_[B, np.ones(400)]]), pairs=PAIRS),
        "column 5 of session 1",
    ),
    "one module": (lambda est: estimator(encoder=nn.Linear(9, 2)).fit(RECORDING, pairs=PAIRS), "an encoder each"),
    "narrow": (
        lambda est: estimator(latent_dim=6).fit(RECORDING, pairs=PAIRS),
        "latent_dim <= 5, the number of columns of session 1",
    ),
    "no session": (lambda est: est.transform(A), "own_channels, or session="),
    "another session": (lambda est: est.transform(A, session=1), r"shapes \(8,\), \(5,\); got rows of shape \(8,\)"),
    "session 2": (lambda est: est.transform(B, session=2), "session=2"),
    "prediction": (lambda est: est.predict_next(RECORDING), "share their columns for predict_next"),
    "candidates": (lambda est: est.next_over_bank(np.zeros((1, 2))), "share their columns for next_over_bank"),
    "draws": (lambda est: est.sample(3), "share their columns for sample"),
    "two modalities": (lambda est: aligned(RECORDING, RECORDING), "own channels. Align one session"),
    "joined": (lambda est: Recording.join([RECORDING, RECORDING]), "own channels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(case: str, fitted: rp.RPMEstimator) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call(fitted)


def test_a_session_means_nothing_to_a_model_of_one_encoder() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        est = estimator(max_steps=2).fit(A)
    with pytest.raises(ValueError, match="session=None, since all sessions share an encoder"):
        est.transform(A, session=0)
    with pytest.raises(ValueError, match="rows of one shape, as fitted"):
        est.transform(RECORDING)
