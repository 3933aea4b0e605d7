"""The estimator: scikit-learn's conventions, restarts by the bound, fixed banks, alarms, saved folders, bad input."""

import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import recparam as rp
from quick_fits import quick, reflected_walk
from recparam.bounds import Bound
from recparam.data.pairs import by_index, consecutive
from recparam.data.recording import Recording
from recparam.estimator import FitWarning
from recparam.estimator.alarms import alarms
from recparam.utils.storage import StorageError, load_state, save_state

quiet = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning", "ignore::recparam.bounds.CeilingWarning")


def walk(rows: int = 600, *, columns: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A walk in the unit square seen through a smooth map, and the walk itself."""
    rng = np.random.default_rng(seed)
    z = reflected_walk(rng, rows, step=0.1)
    mix = np.random.default_rng(1).normal(size=(2, columns))
    return np.tanh(2 * (z - 0.5) @ mix) + 0.02 * rng.normal(size=(rows, columns)), z


X, Z = walk()
estimator = partial(quick, max_steps=30)


@pytest.fixture(scope="module")
def fitted() -> rp.RPMEstimator:
    return estimator(max_steps=120).fit(X[:450])


# No exceptions are needed. Random blobs are no series, of which the alarms rightly warn.
@quiet
@parametrize_with_checks(
    [rp.RPMEstimator(max_steps=3, restarts=1)],
    expected_failed_checks=lambda estimator: {},
)
def test_scikit_learn_conventions(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    check(estimator)


def r2(z: np.ndarray, fit: slice, test: slice) -> float:
    return float(LinearRegression().fit(z[fit], Z[fit]).score(z[test], Z[test]))


def test_latents_of_rows_not_fitted_decode_to_the_walk(fitted: rp.RPMEstimator) -> None:
    untrained = rp.MLP(6, 2)
    with torch.no_grad():
        before = untrained(torch.from_numpy(X).float()).numpy()
    after = r2(fitted.transform(X), slice(450), slice(450, None))
    assert after > 0.9
    assert after > r2(before, slice(450), slice(450, None)) + 0.05


@quiet
def test_same_seed_same_weights_and_the_callers_generators_are_untouched() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    one, two = (estimator(restarts=2, dropout=0.1, max_steps=10).fit(X[:300]) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), states[0]) and np.random.get_state()[1].tolist() == states[1]
    assert np.array_equal(one.transform(X), two.transform(X))
    assert one.history_ == two.history_
    assert not np.array_equal(one.transform(X), estimator(random_state=1, max_steps=10).fit(X[:300]).transform(X))


@quiet
def test_the_start_with_the_best_held_out_bound_goes_on() -> None:
    est = estimator(window=1, restarts=4, max_steps=40).fit(X)
    table = est.restarts_
    assert len({row["seed"] for row in table}) == 4
    best = max(table, key=lambda row: row["validation_nats"])
    assert best["chosen"] and sum(bool(row["chosen"]) for row in table) == 1
    assert sorted(row["steps"] for row in table) == [5, 5, 10, est.history_[-1]["step"]]  # halved twice
    # ... and the state kept is the best of that start's.
    assert est.validation_nats_ == max(line["validation_nats"] for line in est.history_)


def test_starts_take_several_dropouts_in_turn_and_the_chosen_one_is_kept(tmp_path):
    est = estimator(window=1, restarts=3, dropout=(0.0, 0.5), max_steps=20).fit(X[:300])
    chosen = [start["chosen"] for start in est.restarts_].index(True)
    share = (0.0, 0.5, 0.0)[chosen]
    assert est.encoder_.dropout.p == share
    assert ("dropout of 50% on the inputs" in est.describe()) == (share == 0.5)
    est.save(tmp_path / "model")
    assert rp.RPMEstimator.load(tmp_path / "model").encoder_.dropout.p == share


@pytest.mark.parametrize("dropout", [(), 1.0, (0.0, 1.5), "much", (0.0, None)])
def test_a_dropout_that_is_no_share_is_an_error(dropout):
    with pytest.raises(ValueError, match="Expected dropout between 0 and 1"):
        estimator(dropout=dropout).fit(X)


def test_a_score_does_not_depend_on_how_many_rows_are_scored(fitted: rp.RPMEstimator) -> None:
    whole = fitted.elbo(X[450:])
    parts = [fitted.elbo(X[450:500]), fitted.elbo(X[499:])]
    assert len(whole.per_observation) == 149
    torch.testing.assert_close(torch.cat([p.per_observation for p in parts]), whole.per_observation)
    assert fitted.score(X[450:]) == pytest.approx(float(whole))


def test_the_score_is_what_it_says(fitted: rp.RPMEstimator) -> None:
    bound = fitted.elbo(X[450:])
    bank = fitted.transform(X[1:450])[:357][:]  # every fitted pair: rows 1..358 of x', of 450 rows less block and gap
    assert (bound.of, bound.kind) == ("elbo", "estimate")
    size = round(math.exp(float(bound.ceiling or 0))) - 1
    assert size == 358 and len(bank) == 357
    z, z_prime = fitted.transform(X[450:])[:-1], fitted.transform(X[451:])
    bank = fitted.transform(X[1:359])
    theta = float(fitted.prior_.coupling.lengthscale.detach())
    own = -0.5 * ((z - z_prime) ** 2).sum(1) / theta**2
    others = -0.5 * ((z[:, None] - bank) ** 2).sum(-1) / theta**2
    value = own - np.log((np.exp(own) + np.exp(others).sum(1)) / (size + 1))
    assert float(bound) == pytest.approx(value.mean(), abs=1e-4)


def test_sides_of_the_elbo_enclose_the_estimate(fitted: rp.RPMEstimator) -> None:
    upper, lower = (fitted.elbo(X[450:], side=side) for side in ("upper", "lower"))
    assert (upper.kind, lower.kind) == ("upper", "lower")
    assert float(lower) < float(upper)


@pytest.mark.parametrize("prior", ["linear", "cosine", "joint-gaussian"])
@quiet
def test_every_short_name_fits_transforms_predicts_and_samples(prior: str) -> None:
    est = estimator(prior=prior).fit(X[:450])
    mean, std = est.transform(X, return_std=True)
    assert mean.shape == std.shape == (600, 2)
    assert (std > 0).all()
    assert np.isfinite(est.score(X[450:]))
    assert est.predict_next(X[450:]).shape == (150, 2)
    one, two = est.sample(5, random_state=0), est.sample(5, random_state=0)
    assert one[0].shape == one[1].shape == (5, 2) and np.array_equal(one[1], two[1])
    assert prior in est.describe()


@quiet
def test_a_parametric_prior_scores_from_below() -> None:
    est = estimator(prior="joint-gaussian", max_steps=40).fit(X[:450])
    bound, upper = est.elbo(X[450:]), est.elbo(X[450:], side="upper")
    assert bound.kind == "lower" and upper.kind == "upper"
    assert float(bound) < float(upper) and float(bound) < (bound.ceiling or 0)


def test_predictions_are_nearer_what_follows_than_chance(fitted: rp.RPMEstimator) -> None:
    ahead, after = fitted.predict_next(X[450:599]), fitted.transform(X[451:])
    assert ((ahead - after) ** 2).sum() < 0.2 * ((after - after.mean(0)) ** 2).sum()
    matching = fitted.match(X[450:599], X[451:])
    above = matching.places().above.double().mean()
    assert above < 20  # of 149; 74 by chance


def test_it_works_in_a_pipeline_a_search_and_as_a_clone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        pipe = make_pipeline(StandardScaler(), estimator(max_steps=5)).fit(X)
        search = GridSearchCV(estimator(max_steps=5), {"latent_dim": [1, 2]}, cv=TimeSeriesSplit(2)).fit(X)
    assert pipe.transform(X).shape == (600, 2)
    assert search.best_params_["latent_dim"] in (1, 2) and np.isfinite(search.cv_results_["mean_test_score"]).all()
    copy = clone(estimator(prior=rp.InfoNCEPrior(rp.GaussianRBF()), encoder=rp.MLP(6, 2)))
    assert copy.get_params()["max_steps"] == 30


def test_a_given_encoder_is_copied_and_sessions_are_not_crossed() -> None:
    net = rp.MLP(6, 2)
    before = [p.clone() for p in net.parameters()]
    est = estimator(encoder=net, max_steps=5).fit([X[:300], X[300:]])
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert len(est.elbo(X, sessions=np.repeat([0, 1], 300)).per_observation) == 598
    assert len(est.elbo(X).per_observation) == 599


@quiet
def test_declared_pairs_take_the_place_of_the_lag() -> None:
    recording = Recording.of(X)
    pairs = by_index(recording, np.arange(0, 590), np.arange(10, 600))
    est = estimator(max_steps=5).fit(X, pairs=pairs)
    assert np.array_equal(est.transform(X), estimator(max_steps=5, lag=10).fit(X).transform(X))
    assert len(est.elbo(recording, pairs=consecutive(recording, lag=3)).per_observation) == 597


@quiet
def test_partial_fit_goes_on_from_the_present_weights() -> None:
    est = estimator(max_steps=100).fit(X[:300])
    one = estimator(max_steps=100).fit(X[:300])
    before = est.score(X[450:])
    scratch = estimator(max_steps=3).fit(X[:450]).score(X[450:])
    est.set_params(max_steps=3).partial_fit(X[150:450])
    assert est.score(X[450:]) > scratch + 0.1 and before > scratch + 0.1
    assert not np.array_equal(est.transform(X), one.transform(X))


def test_frames_take_a_small_cnn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    place = np.cumsum(rng.normal(size=(80, 2)), 0)
    i, j = np.mgrid[:20, :24]
    frames = [np.exp(-((i - 10 - y) ** 2 + (j - 12 - x) ** 2) / 9) for x, y in place]
    video = (255 * np.asarray(frames)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        est = estimator(max_steps=4).fit(video)
        colour = estimator(max_steps=4, encoder="centre-of-mass").fit(np.repeat(video[..., None], 3, -1))
    assert "ConvEncoder" in est.describe() and "CentreOfMassCNN" in colour.describe()
    assert est.transform(video[:7]).shape == (7, 2)
    est.save(tmp_path / "run")
    assert np.array_equal(rp.RPMEstimator.load(tmp_path / "run").transform(video), est.transform(video))


# --- alarms ---------------------------------------------------------------------------------------------------------


def held_out(nats: float) -> Bound:
    return Bound(torch.tensor(nats), nats + torch.tensor([0.1, -0.1] * 50), "elbo", "estimate", ceiling=5.0)


def line(step: int, nats: float) -> dict[str, int | float | None]:
    return {"step": step, "bound_nats": 0.0, "ceiling_nats": None, "validation_nats": nats}


ROUND = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
ALARMS = {
    "collapsed": (torch.ones(100, 2) + 1e-9 * ROUND, [line(1, 1.0)], "collapsed"),
    "flat": (torch.stack([ROUND[:, 0], 2 * ROUND[:, 0]], 1), [line(1, 1.0)], "span 1 of 2.*latent_dim=1"),
    "saturated": (ROUND, [line(1, 4.95)], "ceiling of 5.00.*bank_size"),
    "nothing": (ROUND, [line(1, 0.01)], "order"),
    "overfit": (ROUND, [line(1, 3.0), line(2, 2.0)], "overfits.*step 1"),
}


@pytest.mark.parametrize("case", ALARMS)
def test_each_alarm_goes_off_alone(case: str) -> None:
    z, history, words = ALARMS[case]
    found = alarms(z, held_out=held_out(history[0]["validation_nats"] or 0), step=1, history=history)
    assert len(found) == 1
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found[0])


def test_no_alarm_without_a_reason() -> None:
    assert alarms(ROUND, held_out=held_out(3.0), step=2, history=[line(1, 2.0), line(2, 3.0)]) == []


def test_rows_out_of_order_set_off_an_alarm() -> None:
    shuffled = X[np.random.default_rng(0).permutation(len(X))]
    with pytest.warns(FitWarning, match="overfits|order"):
        estimator(max_steps=120).fit(shuffled)


# --- saved models ---------------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back(fitted: rp.RPMEstimator, tmp_path: Path) -> None:
    fitted.save(tmp_path / "run")
    fitted.save(tmp_path / "run")  # replaced whole
    again = rp.RPMEstimator.load(tmp_path / "run")
    assert np.array_equal(again.transform(X), fitted.transform(X))
    assert again.score(X[450:]) == fitted.score(X[450:])
    assert again.get_params() == fitted.get_params() and again.history_ == fitted.history_
    assert again.describe() == fitted.describe()
    assert again.n_features_in_ == 6
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "weights.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with pytest.raises(ValueError, match="6 features"):
        again.transform(X[:, :3])


class Own(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_an_encoder_of_ones_own_has_to_be_given_again(tmp_path: Path) -> None:
    est = estimator(encoder=Own(), prior=rp.InfoNCEPrior(rp.Bilinear(2)), max_steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        est.fit(X)
    est.save(tmp_path / "run")
    prior = rp.InfoNCEPrior(rp.Bilinear(2))
    with pytest.raises(ValueError, match="encoder=.*given as an object.*Own.*None"):
        rp.RPMEstimator.load(tmp_path / "run", prior=prior)
    with pytest.raises(ValueError, match="prior=.*InfoNCEPrior"):
        rp.RPMEstimator.load(tmp_path / "run", encoder=Own)
    with pytest.raises(ValueError, match="another architecture"):
        rp.RPMEstimator.load(tmp_path / "run", encoder=Own(9), prior=prior)
    again = rp.RPMEstimator.load(tmp_path / "run", encoder=Own, prior=prior)
    assert np.array_equal(again.transform(X), est.transform(X))


def newer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 99}))


def other_setting(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"latent_dim": 2', '"latent_dim": 3'))


def other_network(folder: Path) -> None:
    text = (folder / "config.json").read_text().replace('"network": "MLP"', '"network": "os.system"')
    (folder / "config.json").write_text(text)
    tensors, _ = load_state(folder / "weights.safetensors")
    save_state(folder / "weights.safetensors", tensors=tensors, meta={"config": text})


def cut(folder: Path) -> None:
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])


def flipped(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(data))


DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "newer": (newer, StorageError, "version 3 or older, got 99. Update"),
    "changed configuration": (other_setting, StorageError, "config.json is not the one that was saved"),
    "network of somebody's own": (other_network, StorageError, "unknown network 'os.system'"),
    "cut weights": (cut, StorageError, "truncated"),
    "changed weights": (flipped, StorageError, "wrong checksum"),
    "cut configuration": (lambda f: (f / "config.json").write_text("{"), StorageError, "config.json: damaged"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), FileNotFoundError, "safetensors is not there"),
    "something else": (lambda f: (f / "config.json").write_text("{}"), StorageError, "not that of a saved estimator"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_a_clear_error(damage: str, fitted: rp.RPMEstimator, tmp_path: Path) -> None:
    spoil, kind, words = DAMAGES[damage]
    fitted.save(tmp_path / "run")
    spoil(tmp_path / "run")
    with pytest.raises(kind, match=words):
        rp.RPMEstimator.load(tmp_path / "run")


def test_a_failed_save_leaves_the_former_model(
    fitted: rp.RPMEstimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted.save(tmp_path / "run")

    def full(*args: object, **options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("recparam.estimator.saved.save_state", full)
    with pytest.raises(OSError, match="No space"):
        estimator().fit(X).save(tmp_path / "run")
    with pytest.raises(OSError, match="No space"):
        fitted.save(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert np.array_equal(rp.RPMEstimator.load(tmp_path / "run").transform(X), fitted.transform(X))
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="something else"):
        fitted.save(tmp_path / "papers")


# --- bad input ------------------------------------------------------------------------------------------------------

NAN, CONSTANT = X.copy(), X.copy()
NAN[4, 3] = np.nan
CONSTANT[:, 2] = 1.0
BAD: dict[str, tuple[Callable[[], object], str]] = {
    "NaN": (lambda: estimator().fit(NAN), "column 3.*row 4"),
    "constant": (lambda: estimator().fit(CONSTANT), "constant ones: column 2"),
    "one sample": (lambda: estimator().fit(X[:1]), "1 sample"),
    "unknown prior": (lambda: estimator(prior="gausian").fit(X), "'linear'.*got 'gausian'.*Did you mean 'gaussian'"),
    "no prior": (lambda: estimator(prior=3).fit(X), "short name.*got 3"),
    "unknown encoder": (lambda: estimator(encoder="cnn").fit(X), "got 'cnn'"),
    "more latents than columns": (lambda: estimator(latent_dim=7).fit(X), "latent_dim <= 6.*got 7"),
    "encoder of another width": (lambda: estimator(encoder=rp.MLP(6, 3)).fit(X), "2 outputs for latent_dim=2.*3"),
    "one cosine": (lambda: estimator(prior="cosine", latent_dim=1).fit(X), "latent_dim >= 2.*direction"),
    "frames for an MLP": (lambda: estimator(encoder="mlp").fit(X[:, :, None]), r"\(N, D\).*rows of shape \(6, 1\)"),
    "vectors for a CNN": (lambda: estimator(encoder="conv").fit(X), r"\(N, H, W\)"),
    "objects": (lambda: estimator().fit(np.array([["a", 1.0]] * 9, dtype=object)), "numbers"),
    "ragged": (lambda: estimator().fit([X, X[:, :3]]), "one shape"),
    "labels of another length": (lambda: estimator().fit(X, sessions=[0, 1]), "sessions of shape"),
    "lag longer than the data": (lambda: estimator(lag=900).fit(X), "smaller lag"),
    "no lag": (lambda: estimator(lag="two").fit(X), "lag"),
    "rate": (lambda: estimator(learning_rate=0.0).fit(X), "learning_rate > 0"),
    "steps": (lambda: estimator(max_steps=0).fit(X), "max_steps >= 1"),
    "batch of one": (lambda: estimator(batch_size=1).fit(X), "batch_size >= 2"),
    "fraction": (lambda: estimator(validation_fraction=1.5).fit(X), "validation_fraction"),
    "accelerator": (lambda: estimator(accelerator="gpus").fit(X), "'gpus'.*'gpu'"),
    "two devices": (lambda: estimator(devices=2).fit(X), "devices=1.*RPMModule"),
    "no such device": (lambda: estimator(accelerator="cpu", devices=[7]).fit(X), "devices that this machine has"),
    "precision": (lambda: estimator(precision="bf16").fit(X), "'bf16-mixed'"),
    "half precision on a CPU": (lambda: estimator(accelerator="cpu", precision="16-mixed").fit(X), "'bf16-mixed'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_sentence(case: str) -> None:
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()


def test_labels_are_never_guessed_from() -> None:
    with pytest.warns(FitWarning, match="y is not used.*pairs="):
        est = estimator(max_steps=3).fit(X, Z)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        assert np.array_equal(est.transform(X), estimator(max_steps=3).fit(X).transform(X))


def test_an_estimator_that_is_not_fitted_says_so() -> None:
    for call in (estimator().transform, estimator().score, estimator().predict_next):
        with pytest.raises(NotFittedError):
            call(X)


def test_steps_in_half_precision_fit_as_well_and_scores_stay_in_single() -> None:
    scores = [estimator(max_steps=60, precision=kind).fit(X).score(X) for kind in ("32-true", "bf16-mixed")]
    assert scores[0] > 1 and abs(scores[0] - scores[1]) < 0.3 and scores[0] != scores[1]


def test_frames_and_windows_are_paired_with_the_next_three_and_vectors_with_the_next() -> None:
    frames = np.random.default_rng(0).integers(0, 255, size=(40, 6, 6), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # noise
        of_frames = rp.RPMEstimator(encoder="conv", max_steps=2, restarts=2, random_state=0).fit(frames)
    assert {row["dropout"] for row in of_frames.restarts_} == {0.3}
    assert of_frames.lag_ == (1, 2, 3)
    assert len(of_frames.elbo(frames).per_observation) == 39 + 38 + 37
    assert estimator(lag=2).fit(X).lag_ == (2,)
