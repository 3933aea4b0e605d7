"""Priors of several earlier latents in the estimator: which rows they read, and what is then scored and predicted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import recparam as rp
from quick_fits import quick
from recparam.cli import main
from recparam.data.channels import own_channels
from recparam.data.conditioned import nearest
from recparam.data.contexts import contexts_of, with_contexts
from recparam.data.pairs import aligned, by_index, consecutive, views
from recparam.data.recording import Recording
from recparam.estimator.encoding import encoded_pairs

pytestmark = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
VELOCITY = rp.InfoNCEPrior(rp.After(rp.ConstantVelocity(), rp.GaussianRBF()))


def moving(rows: int, seed: int) -> np.ndarray:
    """A point whose velocity persists, through eight nonlinear channels."""
    rng = np.random.default_rng(seed)
    place, velocity = np.zeros((rows, 2)), 0.05 * rng.normal(size=2)
    for t in range(1, rows):
        velocity = 0.98 * velocity + 0.01 * rng.normal(size=2) - 0.002 * place[t - 1]
        place[t] = place[t - 1] + velocity
    return np.tanh(place @ np.random.default_rng(5).normal(size=(2, 8))) + 0.01 * rng.normal(size=(rows, 8))


X = moving(1500, 0)


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    return quick(prior="velocity", max_steps=150).fit(X[:1000])


def test_contexts_stay_in_their_session_and_in_their_part() -> None:
    recording = Recording.of([np.arange(6.0)[:, None], np.arange(10.0, 13.0)[:, None], np.arange(20.0, 22.0)[:, None]])
    pairs = with_contexts(consecutive(recording, lag=[1, 2]), 2)
    assert pairs.order == 2 and ", with 1 before x" in pairs.how
    seen = [[int(v) for v in row] for row in torch.cat(pairs.tensors(), 1)]
    assert seen == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [10, 11, 12], [0, 2, 4], [1, 3, 5]]
    assert [len(part) for part in pairs.tensors(slice(1, 3))] == [2, 2, 2]
    times = np.r_[np.arange(5.0), np.arange(9.0, 13.0)]
    gap = with_contexts(consecutive(Recording.of(np.zeros((9, 1)), times=times)), 3)
    assert gap.first.tolist() == [2, 3, 7]
    fewer = [with_contexts(gap, order) for order in (2, 1)]  # what has more will do
    assert [len(part.tensors()) for part in (gap, *fewer)] == [4, 3, 2] and fewer[1].first.tolist() == [2, 3, 7]
    rows = contexts_of(gap.recording, lag=1, order=3)
    assert rows.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [5, 6, 7], [6, 7, 8]]


def test_parts_share_no_row() -> None:
    fit, held_out = with_contexts(consecutive(Recording.of(np.zeros((40, 1)))), 3).split(0.3)
    rows = [np.unique(np.column_stack([part.rows(), part.second])) for part in (fit, held_out)]
    assert rows[0].max() < 28 and rows[1].min() == 28
    assert fit.order == held_out.order == 3


NOISE = Recording.of(np.random.default_rng(1).normal(size=(400, 2)))
RECORDING = Recording.of(np.random.default_rng(0).normal(size=(12, 3)))
BAD: dict[str, tuple[Any, str]] = {
    "two recordings": (lambda: with_contexts(aligned(RECORDING, RECORDING), 2), "one recording.*two recordings"),
    "views": (lambda: with_contexts(views(RECORDING, lambda x, g: x), 2), "one recording.*views"),
    "own channels": (
        lambda: quick(prior="velocity").fit(
            own := own_channels([np.eye(6), np.eye(5)]), pairs=by_index(own, np.arange(5), np.arange(6, 11))
        ),
        "share their columns",
    ),
    "too few": (lambda: with_contexts(consecutive(RECORDING, lag=5), 3), "at least 2 pairs.*2 rows before x"),
    "pairs by accident": (
        lambda: with_contexts(nearest(NOISE, NOISE[:], neighbours=10), 2),
        r"lag= or consecutive",
    ),
    "pairs that cross": (
        lambda: with_contexts(by_index(Recording.of([np.eye(4), np.eye(4)]), np.arange(5), np.arange(1, 6)), 2),
        "4 of 5 pairs, some of which cross sessions",
    ),
    "order": (lambda: with_contexts(consecutive(RECORDING), 0), "order"),
    "a coupling": (lambda: quick(prior=rp.GaussianRBF()).fit(X[:50]), r"Wrap it: rp.InfoNCEPrior\(coupling"),
    "a transition": (lambda: quick(prior=rp.ConstantVelocity()).fit(X[:50]), r"rp.InfoNCEPrior\(rp.After"),
    "two modalities": (lambda: quick(prior="velocity").fit(X[:50], X_prime=X[:50]), "two recordings"),
}


@pytest.mark.parametrize("name", BAD)
def test_pairs_without_earlier_rows_are_named(name: str) -> None:
    call, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_a_score_is_the_kernel_over_the_bank(fitted: rp.RPMEstimator) -> None:
    z = torch.from_numpy(fitted.transform(X[1000:1100]))
    x, x_prime = encoded_pairs(fitted.model_, with_contexts(consecutive(Recording.of(X[1000:1100])), 2))
    assert torch.equal(x, torch.cat([z[:-2], z[1:-1]], 1)) and torch.equal(x_prime, z[2:])
    scale = float(fitted.prior_.coupling.coupling.lengthscale.detach())
    bank = fitted._head.bank[1]
    ahead = 2 * z[1:-1] - z[:-2]
    t_own = -0.5 * ((ahead - z[2:]) / scale).square().sum(1)
    others = -0.5 * ((ahead[:, None] - bank) / scale).square().sum(2)
    by_hand = t_own - torch.cat([t_own[:, None], others], 1).logsumexp(1) + np.log(len(bank) + 1)
    bound = fitted.elbo(X[1000:1100])
    torch.testing.assert_close(bound.per_observation, by_hand, rtol=1e-3, atol=1e-3)
    assert fitted.elbo(X[1000:1100], side="upper").kind == "upper"
    predicted = fitted.predict_next(X[1000:1100])
    expected = others.softmax(1) @ bank
    assert np.isnan(predicted[0]).all() and predicted.shape == (100, 2)
    np.testing.assert_allclose(predicted[1:-1], expected, rtol=1e-3, atol=1e-3)


def test_a_velocity_explains_what_nearness_does_not(fitted: rp.RPMEstimator) -> None:
    near = quick(prior="gaussian", max_steps=150).fit(X[:1000])
    found = rp.compare({"velocity": fitted, "near": near}, X[1000:])
    difference = found.difference("velocity", "near")
    assert difference.mean > 0.4 and difference.better == "velocity"
    assert "and 1 before it" in found.table() and found.rows == 498  # the same targets for both
    assert fitted.order_ == 2 and fitted.lag_ == (1,) and near.order_ == 1


def test_short_trials_whose_banks_differ_are_compared_against_as_many_pairs() -> None:
    """A prior of two earlier rows has a pair less in each trial of the fit."""
    trials = [X[start : start + 25] for start in range(0, 1000, 25)]
    fits = {prior: quick(prior=prior, max_steps=5).fit(trials) for prior in ("velocity", "gaussian")}
    sizes = {name: fit.bank_size_ for name, fit in fits.items()}
    assert sizes["gaussian"] > 1.02 * sizes["velocity"]
    found = rp.compare(fits, X[1000:])
    assert {evidence.bank for evidence in found.models.values()} == {sizes["velocity"]}
    assert len({evidence.estimate.ceiling for evidence in found.models.values()}) == 1
    assert f"evenly spaced among {sizes['gaussian']} of gaussian" in str(found)
    assert fits["gaussian"].bank_size_ == sizes["gaussian"]  # which keeps its own


def test_saved_resumed_and_gone_on_with(fitted: rp.RPMEstimator, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    loaded = rp.RPMEstimator.load(tmp_path / "model")
    assert loaded.score(X[1000:]) == pytest.approx(fitted.score(X[1000:]), abs=1e-6)
    z, z_prime = loaded.sample(5, random_state=0)
    assert z.shape == (5, 4) and z_prime.shape == (5, 2)
    candidates, probability = loaded.next_over_bank(z)
    assert len(candidates) == loaded.bank_size_ and probability.shape == (5, len(candidates))
    assert np.isnan(loaded.predict_next(X[:1])).all() and loaded.predict_next(X[:1]).shape == (1, 2)
    of_parts = rp.Groups(rp.After(rp.ConstantVelocity(), rp.GaussianRBF()), [[0], [1]])
    quick(prior=rp.InfoNCEPrior(of_parts), max_steps=5).fit(X[:200]).save(tmp_path / "parts")
    assert rp.RPMEstimator.load(tmp_path / "parts", prior=rp.InfoNCEPrior(of_parts)).order_ == 2
    other = rp.Groups(rp.After(rp.ConstantVelocity(), rp.Laplace()), [[0], [1]])
    with pytest.raises(ValueError, match="Expected prior= like the one that was saved, InfoNCEPrior"):
        rp.RPMEstimator.load(tmp_path / "parts", prior=rp.InfoNCEPrior(other))
    with pytest.raises(ValueError, match="whose prior was given as an object, InfoNCEPrior"):
        rp.RPMEstimator.load(tmp_path / "parts")
    settings: dict[str, Any] = {"prior": "ar2", "max_steps": 30}
    whole = quick(**settings).fit(X[:300], resume=tmp_path / "state")
    assert quick(**settings).fit(X[:300], resume=tmp_path / "state").history_ == whole.history_
    assert np.isfinite(whole.partial_fit(X[300:600]).score(X[600:]))


def test_declared_pairs_say_how_far_apart_rows_are(tmp_path: Path) -> None:
    recording = Recording.of(X[:400])
    declared = quick(prior="velocity", max_steps=20).fit(recording, pairs=consecutive(recording, lag=5))
    given = quick(prior="velocity", max_steps=20, lag=5).fit(X[:400])
    expected = given.predict_next(X[400:450])
    assert np.isnan(expected[:5]).all() and np.isfinite(expected[5:]).all()
    np.testing.assert_array_equal(declared.predict_next(X[400:450]), expected)
    declared.save(tmp_path / "model")
    np.testing.assert_array_equal(rp.RPMEstimator.load(tmp_path / "model").predict_next(X[400:450]), expected)
    plain = quick(prior="gaussian", max_steps=20).fit(recording)
    longer = quick(prior="gaussian", max_steps=20).fit(recording, pairs=with_contexts(consecutive(recording), 3))
    assert longer.history_[-1]["ceiling_nats"] == pytest.approx(plain.history_[-1]["ceiling_nats"], abs=1e-6)


@pytest.mark.filterwarnings("ignore::recparam.bounds.CeilingWarning")
def test_few_rows_will_do() -> None:
    assert np.isfinite(quick(prior="velocity", max_steps=2, batch_size=4).fit(X[:12]).score(X[12:20]))


def test_columns_are_known_by_their_names() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:200], columns=list("abcdefgh"))
    named = quick(prior="velocity", max_steps=5).fit(frame)
    assert named.predict_next(frame).shape == (200, 2)
    with pytest.raises(ValueError, match="feature names"):
        named.predict_next(frame[list("hgfedcba")])


def test_a_composed_prior_and_frames() -> None:
    prior = rp.InfoNCEPrior(rp.Groups(rp.After(rp.Damped(), rp.GaussianRBF()) + rp.StepLength(), [[0], [1]]))
    composed = quick(prior=prior, max_steps=20, lag=[1, 3]).fit(X[:300])
    assert np.isfinite(composed.score(X[300:500])) and "given" in composed.describe()
    with pytest.raises(ValueError, match=r"one lag for predict_next.*lags \(1, 3\)"):
        composed.predict_next(X[:50])
    with pytest.raises(ValueError, match="one earlier row for match"):
        composed.match(X[:50], X[50:100])
    frames = (255 * np.random.default_rng(0).random((60, 12, 12, 1))).astype(np.uint8)
    of_frames = quick(prior=VELOCITY, max_steps=3, batch_size=16).fit(frames)
    assert of_frames.lag_ == (1,) and np.isfinite(of_frames.score(frames))
    own = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"2 outputs for latent_dim=2; got outputs of shape \(2, 3\)"):
        quick(prior="velocity", encoder=own, max_steps=3).fit(X[:100])
    tall = nn.Sequential(nn.Linear(8, 2), nn.Unflatten(1, (2, 1)))
    with pytest.raises(ValueError, match=r"an encoder with 2 outputs.*\(2, 2, 1\)"):
        quick(prior="velocity", encoder=tall, max_steps=3).fit(X[:100])


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X[:600])
    few = ["--max-steps", "20", "--restarts", "1", "--batch-size", "64"]
    for prior in ("velocity", "gaussian"):
        assert main(["fit", "x.npy", "--prior", prior, "--lag", "20", "--out", prior, *few]) == 0
    assert json.loads(Path("velocity/run.json").read_text())["held_out_rows"] == [[480, 599]]
    assert "80 pairs held out" in capsys.readouterr().out
    assert main(["compare", "velocity", "gaussian", "--data", "x.npy"]) == 0
    assert "and 1 before it" in capsys.readouterr().out
    assert main(["score", "velocity", "x.npy"]) == 0 and main(["report", "velocity"]) == 0
    assert "80 pairs held out" in capsys.readouterr().out
    assert "What the prior expects to follow" in Path("velocity/report.html").read_text()
