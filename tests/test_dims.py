"""The number of latents: the rule on numbers that are known, and fits of worlds of one and of two dimensions."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recparam as rp
from quick_fits import quick, reflected_walk
from recparam.cli import main
from recparam.comparison.knee import knee
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.evaluation.intrinsic import intrinsic_dimension

ROWS = 900


def seen(world: int, *, rows: int = ROWS, seed: int = 0) -> np.ndarray:
    """Twelve columns of a walk in one or two dimensions."""
    rng = np.random.default_rng(seed)
    z = reflected_walk(rng, rows, step=0.1)[:, :world]
    return np.tanh(z @ rng.normal(size=(world, 12)) * 3 + rng.normal(size=12)) + 0.05 * rng.normal(size=(rows, 12))


@pytest.fixture(scope="module")
def of_two() -> rp.LatentDims:
    return rp.choose_latent_dim(quick(max_steps=150, learning_rate=1e-2), seen(2), dims=(3, 1, 2), restarts=1)


@pytest.mark.parametrize(
    ("nats", "chosen", "words"),
    [
        ({1: 1.0, 2: 2.0, 3: 2.1}, 2, "15%"),  # the bound rises
        ({1: 1.0, 2: 1.1}, 1, "15%"),
        ({1: 0.1, 2: 0.2, 3: 1.0, 4: 1.1}, 3, "15%"),  # one or two say little
        ({1: 1.0, 2: 0.5, 3: 1.1}, 1, "15%"),  # two were fitted badly
        ({1: 1.0, 2: 0.9, 3: 2.0}, 3, "15%"),
        ({1: 1.0, 2: 2.0, 3: 2.01, 4: 2.2}, 2, "15%"),  # what comes later is noise
        ({1: 1.0, 2: 2.0, 4: 2.2}, 2, "15%"),  # a tenth for each latent
        ({1: 1.0, 2: 2.0, 4: 2.4}, 4, "15%"),
        ({2: 1.0, 3: 1.1}, 3, "15%"),
        ({1: -0.2, 2: -0.1}, 1, "none has"),
    ],
)
def test_the_rule(nats: dict[int, float], chosen: int, words: str) -> None:
    found = knee(list(nats), list(nats.values()))
    assert found.chosen == chosen and words in found.why
    assert len(found.adds) == len(found.gains) == len(nats) and max(found.adds) in (0.0, 1.0)


def test_a_plane_is_found_and_described(of_two: rp.LatentDims) -> None:
    assert of_two.dims == (1, 2, 3)
    assert of_two.chosen == 2
    assert of_two.best_estimator.latent_dim == 2
    assert 1.5 < of_two.intrinsic < 2.6
    assert "default of 2 latents is enough" in of_two.advice
    text = str(of_two)
    assert "chosen" in text and "lag 1" in text and of_two.knee.why in text
    facts = json.loads(json.dumps(of_two.facts()))
    assert [row["latents"] for row in facts["dims"]] == [1, 2, 3]
    assert facts["dims"][0]["gain_nats_per_latent"] == facts["dims"][0]["value_nats"]  # zero latents have zero nats
    first, second = facts["dims"][:2]
    assert second["gain_nats_per_latent"] == pytest.approx(second["value_nats"] - first["value_nats"])
    assert first["low_nats"] < first["value_nats"] < first["high_nats"]


def test_all_numbers_score_the_same_pairs_against_as_large_a_bank(of_two: rp.LatentDims) -> None:
    fits = of_two.estimators.values()
    assert len({(fit.lag_, fit.window_, fit.bank_size_) for fit in fits}) == 1
    shapes = {tuple(score.over) for score in of_two.scores if score.over is not None}
    assert len(shapes) == 1  # the same targets
    pairs = of_two.best_estimator.pairs_of(seen(2)).split(0.2)[1]
    for score in of_two.scores:
        nats = float(of_two.estimators[score.dim].elbo(pairs.recording, pairs=pairs))
        assert score.nats == pytest.approx(nats, abs=1e-5)


def test_a_line_needs_one_latent() -> None:
    found = rp.choose_latent_dim(quick(max_steps=150, learning_rate=1e-2), seen(1), dims=(1, 2), restarts=1)
    assert found.chosen == 1
    assert "Fewer latents than the default" in found.advice


def test_the_same_seed_gives_the_same_numbers_and_the_estimator_is_left_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    est = rp.RPMEstimator(max_steps=16, random_state=3, progress=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (rp.choose_latent_dim(est, seen(2, rows=400), dims=(1, 2)) for _ in range(2))
    assert first.facts() == second.facts()
    assert not hasattr(est, "model_") and est.restarts == 4 and est.latent_dim == 2
    said = capsys.readouterr().err
    assert "2 numbers of latents, each with 2 start(s) of at most 16 steps" in said and "1 latents: held out" in said
    kept = [(fit.window, fit.lag) for fit in first.estimators.values()]
    assert (first.estimators[1].window, first.estimators[1].lag) == (
        first.estimators[2].window_, first.estimators[2].lag_
    ), kept  # what the first fit, of two latents, chose


def test_two_modalities_have_no_predicted_share() -> None:
    x = seen(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = rp.choose_latent_dim(quick(max_steps=20), x[:, :6], X_prime=x[:, 6:], dims=(1, 2), restarts=1)
    assert all(score.share is None for score in found.scores)
    assert len(found.plot().axes) == 1


@pytest.mark.parametrize("prior", ["velocity", "joint-gaussian"])
def test_other_priors_and_sessions(prior: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sessions = np.repeat([0, 1, 2], 100)
        est = quick(max_steps=10, prior=prior, lag=None)
        found = rp.choose_latent_dim(est, seen(2, rows=300), sessions=sessions, dims=(1, 2), restarts=1)
    assert all(score.share is not None for score in found.scores)


def test_pairs_that_are_declared_are_kept() -> None:
    recording = Recording.of(seen(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = consecutive(recording, lag=4)
        found = rp.choose_latent_dim(quick(max_steps=10), recording, pairs=pairs, dims=(1, 2), restarts=1)
    assert found.comparison.rows == len(pairs.split(0.2)[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dims": (2,)}, "at least two different numbers; got \\(2,\\)"),
        ({"dims": (2, 2)}, "at least two different numbers"),
        ({"dims": (0, 2)}, "dims"),
        ({"restarts": 0}, "restarts"),
        ({"estimator": quick(prior="circle")}, "That is for 1 of dims=\\(1, 2, 3\\)"),
        ({"estimator": quick(prior="cosine")}, "leave it out"),
        ({"estimator": quick(encoder=torch.nn.Linear(12, 2))}, "encoder by name"),
        ({"estimator": quick(encoder="centre-of-mass")}, "even dims"),
        ({"estimator": quick(max_steps=0)}, "max_steps"),
    ],
)
def test_bad_input_is_an_error_before_any_fit(
    change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rp.RPMEstimator, "fit", lambda *_, **__: pytest.fail("a fit"))
    options: dict[str, Any] = {"estimator": quick(), "dims": (1, 2, 3)} | change
    with pytest.raises(ValueError, match=words):
        rp.choose_latent_dim(options.pop("estimator"), seen(2), **options)


@pytest.mark.parametrize(("world", "least", "most"), [(1, 0.8, 1.2), (2, 1.7, 2.2), (3, 2.3, 3.2)])
def test_the_intrinsic_dimension_of_points(world: int, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(2000, world)) @ rng.normal(size=(world, 6))
    assert least < intrinsic_dimension(points) < most
    points[::3] = np.nan
    assert least < intrinsic_dimension(points) < most


def test_the_intrinsic_dimension_of_few_points_or_copies_is_unknown() -> None:
    assert math.isnan(intrinsic_dimension(np.ones((500, 2))))
    assert math.isnan(intrinsic_dimension(np.zeros((0, 2))))
    with pytest.raises(ValueError, match="neighbours"):
        intrinsic_dimension(np.ones((500, 2)), neighbours=2)


def test_the_picture_shows_each_number(of_two: rp.LatentDims) -> None:
    left, right = of_two.plot().axes
    assert [line.get_gid() for line in left.lines if str(line.get_gid()).startswith("interval")] == [
        "interval-1", "interval-2", "interval-3"
    ]  # fmt: skip
    assert list(left.get_xticks()) == [1, 2, 3] and "share" in right.get_ylabel()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", seen(2).astype(np.float32))
    words = ["dims", "x.npy", "--latents", "1", "2", "--lag", "1", "--max-steps", "20", "--restarts", "1"]
    assert main([*words, "--out", "worth"]) == 0
    said = capsys.readouterr()
    assert "predicted share" in said.out and "Wrote worth" in said.out and "--latent-dim" in said.out
    assert "2 numbers of latents, each with 1 start(s) of at most 20 steps" in said.err
    assert sorted(path.name for path in Path("worth").iterdir()) == ["dims.json", "dims.png"]
    facts = json.loads(Path("worth/dims.json").read_text())
    assert [row["latents"] for row in facts["dims"]] == [1, 2]
    assert main([*words, "--out", "worth"]) == 2  # what is there is kept
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == facts["chosen"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latents", "2"], "Expected latents as at least two different numbers; got (2,). Give --latents 1 2 3."),
        (["--latents", "1", "2", "--prior", "circle"], "--latents 1 2; leave it out"),
        (["--restarts", "0"], "restarts >= 1; got 0"),
        (["--seconds", "1"], "--rate"),
    ],
)
def test_the_command_names_its_options(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", seen(2).astype(np.float32))
    assert main(["dims", "x.npy", "--out", "worth", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not Path("worth").exists()
