"""The experiment on a recorded series: its blocks, what it refuses, and the whole command on a small made-up one."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recparam.cli import main
from recparam.experiments.rat.measure import SIDES, conclude, decoded
from recparam.experiments.rat.series import Series, read_series, training_windows, windows
from recparam.experiments.rat.settings import CONTROLS, PRIORS, Settings
from recparam.experiments.rat.training import encoder, latents_of, train


def recording(path: Path, *, rows: int = 400, shuffled: bool = False) -> Path:
    """Counts of 12 units, each of which likes one place, along a smooth path in a square."""
    rng = np.random.default_rng(0)
    place = np.sin(np.cumsum(0.15 * rng.normal(size=(rows, 2)), axis=0))
    centres = rng.uniform(-1, 1, size=(12, 2))
    rates = 6 * np.exp(-np.square(place[:, None] - centres).sum(-1) / 0.4)
    counts = rng.poisson(rates)
    np.savez(path, counts=counts, position_m=place[rng.permutation(rows)] if shuffled else place)
    return path


def series_of(path: Path, **settings: Any) -> Series:
    return read_series(path, Settings(**settings), counts="counts", position="position_m")


def test_blocks_of_time_share_no_row(tmp_path: Path) -> None:
    series = series_of(recording(tmp_path / "a.npz"))
    assert (series.fitted, series.trained) == (300, 240)
    trained, chosen, held_out = training_windows(series, 2), windows(240, 300, 2), windows(300, 400, 2)
    assert trained[0].tolist() == [0, 2, 4] and trained.max() == 235
    assert chosen.min() == 240 and chosen.max() == 299 and held_out.min() == 300 and held_out.max() == 399
    assert np.square(series.rows).max() > 3  # square roots of the counts
    assert series.checksum == series_of(tmp_path / "a.npz").checksum
    assert series.checksum != series_of(recording(tmp_path / "b.npz", shuffled=True)).checksum


def test_decoding_is_of_the_held_out_rows(tmp_path: Path) -> None:
    series = series_of(recording(tmp_path / "a.npz"))
    turned = series.position @ np.array([[1.0, 2.0], [-1.0, 0.5]])
    assert decoded(turned, series) == pytest.approx({"r2_1": 1.0, "r2_2": 1.0, "r2": 1.0})
    turned[:300] = 0  # nothing to fit on: the mean
    assert decoded(turned, series) == decoded(np.zeros((400, 1)), series)


def test_training_raises_the_evidence_and_sees_no_position(tmp_path: Path) -> None:
    settings, prior = Settings(steps=20, starts=2, batch_size=64), "ar2"
    series = series_of(recording(tmp_path / "a.npz"))
    trained = train(prior, series, settings, seed=0)
    again = train(prior, series_of(recording(tmp_path / "b.npz", shuffled=True)), settings, seed=0)
    assert trained.evidence == again.evidence > 0.5
    net, before = trained.net, trained.before.recognition[0].net
    starts = [latents_of(encoder(series, settings, seed=0, start=k), series.rows) for k in range(2)]
    z = latents_of(before, series.rows)
    assert sum(np.array_equal(z, start) for start in starts) == 1 and not np.array_equal(starts[0], starts[1])
    assert not np.allclose(latents_of(net, series.rows), z)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recording(tmp_path / "a.npz")
    words = ["experiments", "rat", str(file), "--steps", "3", "--starts", "1", "--batch-size", "64", "--jobs", "0"]
    assert main([*words, "--seeds", "2", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "By evidence: " in printed and "By decoding: " in printed
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["arms"] == [*PRIORS, *CONTROLS] and not results["failed"]
    assert not any("windows" in run for run in results["runs"])
    assert all(results["summary"]["mean"][name]["mean"] <= 0 for name in ("r2_1", "r2_2"))
    assert {"a_1", "a_2"} < set(results["summary"]["ar2"])
    evidence = {(run["arm"], run["seed"]): run.get("evidence_nats") for run in results["runs"]}
    cell = json.loads((tmp_path / "out/runs/ar2/seed1.json").read_text())["windows"]["estimate"]
    assert len(cell["nats"]) == 98 and np.mean(cell["nats"]) == pytest.approx(evidence["ar2", 1], abs=1e-4)
    for compared in results["comparisons"]:
        seed = compared["seed"]
        assert [model["name"] for model in compared["models"]] == list(PRIORS)
        for model in compared["models"]:  # one step of one bank, whatever the order of the prior
            assert model["ceiling_nats"] == pytest.approx(math.log(299)) and model["low_nats"] < model["high_nats"]
        first = compared["differences"][0]
        wanted = evidence["gaussian", seed] - evidence["velocity", seed]
        assert first["difference_nats"] == pytest.approx(wanted, abs=1e-4)
    assert sorted(results["orders"]["r2"]) == sorted(PRIORS)
    assert (tmp_path / "out/rat.png").stat().st_size > 10_000
    recording(file, rows=420)
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "out holds a run with other settings" in capsys.readouterr().err


def test_what_is_concluded_of_one_prior_alone() -> None:
    windows = {side: {"nats": [1.0, 2.0], "kind": "estimate", "ceiling_nats": 3.0} for side in SIDES}
    run = {"arm": "velocity", "seed": 0, "evidence_nats": 1.0, "r2": 0.5, "windows": windows}
    summary = {"velocity": {"evidence_nats": {"mean": 1.0}, "r2": {"mean": 0.5}}}
    found = conclude({"runs": [run], "seeds": [0], "summary": summary})
    assert found["comparisons"] == [] and found["evidence_ranks"] == {"r2": None}
    assert found["orders"] == {"evidence_nats": ["velocity"], "r2": ["velocity"]}


def test_what_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, short = recording(tmp_path / "a.npz"), recording(tmp_path / "short.npz", rows=150)
    negative = tmp_path / "negative.npz"
    np.savez(negative, counts=-np.ones((300, 3)), position_m=np.zeros((300, 2)))
    uneven = tmp_path / "uneven.npz"
    np.savez(uneven, counts=np.ones((300, 3)), position_m=np.zeros((200, 2)))
    for words, text in {
        (str(tmp_path / "none.npz"),): "nothing",
        (str(file), "--position", "where"): "where",
        (str(file), "--steps", "0"): "steps must be at least 1",
        (str(file), "--latent-dim", "13"): "latent_dim must be at most 12",
        (str(short),): "at least 200 rows",
        (str(negative),): "not negative",
        (str(uneven),): "Expected counts of shape (N, units) and position_m of shape (N, P)",
    }.items():
        assert main(["experiments", "rat", *words, "--out", str(tmp_path / "out")]) == 2
        assert text in capsys.readouterr().err and not (tmp_path / "out").exists()
