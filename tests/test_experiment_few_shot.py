"""The few-shot experiment: what a view does, what accuracies are, and the whole command on a tiny scale."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from recparam.cli import main
from recparam.experiments.few_shot.digits import Digits, moved, shifted_and_turned, split_digits, view_maker
from recparam.experiments.few_shot.measure import accuracies, measure_arm
from recparam.experiments.few_shot.settings import CONTROLS, PRIORS, Settings


def test_digits_are_split_by_the_seed() -> None:
    one, again, other = split_digits(0, 597), split_digits(0, 597), split_digits(1, 597)
    assert one.rows.shape == (1200, 1, 8, 8) and one.held_out_rows.shape == (597, 1, 8, 8)
    assert torch.equal(one.rows, again.rows) and not torch.equal(one.rows, other.rows)
    assert 0 <= float(one.rows.min()) and float(one.rows.max()) == 1
    assert set(one.labels) == set(range(10)) == set(one.held_out_labels)


def test_a_view_moves_and_turns_by_no_more_than_it_may() -> None:
    image = torch.zeros(200, 1, 8, 8)
    image[:, :, 3:5, 3:5] = 1  # four pixels around the centre
    still = shifted_and_turned(image, torch.Generator().manual_seed(0), shift=0.0, turn=0.0)
    torch.testing.assert_close(still, image)
    place = torch.arange(8.0) - 3.5
    shifted = shifted_and_turned(image, torch.Generator().manual_seed(0), shift=2.0, turn=0.0)
    torch.testing.assert_close(shifted.sum((1, 2, 3)), torch.full((200,), 4.0))
    along = (shifted.sum((1, 2)) @ place) / 4
    assert 1.9 < float(along.abs().max()) <= 2.0001 and abs(float(along.mean())) < 0.3
    bar = torch.zeros(200, 1, 8, 8)
    bar[:, :, 3:5, :] = 1
    turned = shifted_and_turned(bar, torch.Generator().manual_seed(1), shift=0.0, turn=30.0)[:, 0]
    slope = (turned * place[:, None] * place).sum((1, 2)) / (turned * place.square()).sum((1, 2))
    angle = slope.atan() * 180 / math.pi
    assert 20 < float(angle.abs().max()) < 31 and float(angle.min()) < -20 < 20 < float(angle.max())
    digits = split_digits(0, 597)
    views = [moved(digits, view_maker(2.0, 30.0), seed) for seed in (3, 3, 4)]
    assert torch.equal(views[0].rows, views[1].rows) and not torch.equal(views[0].rows, views[2].rows)


def test_accuracies_of_latents_that_say_all_and_nothing() -> None:
    labels = np.arange(400) % 10
    digits = Digits(torch.zeros(200, 1, 8, 8), labels[:200], torch.zeros(200, 1, 8, 8), labels[200:])
    best = accuracies(np.eye(10)[labels[:200]], np.eye(10)[labels[200:]], digits, seed=0, draws=3)
    assert set(best.values()) == {1.0} and len(best) == 5
    noise = np.random.default_rng(0).normal(size=(2, 200, 4))
    assert all(0.05 < value < 0.17 for value in accuracies(*noise, digits, seed=0, draws=10).values())


def test_settings_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ({"draws": 0}, {"held_out": 1700}, {"latent_dim": 65}, {"shift": -1.0}, {"turn": math.nan}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)
    assert main(["experiments", "few-shot", "--steps", "0", "--out", str(tmp_path / "out")]) == 2
    assert "steps must be at least 1" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_numbers() -> None:
    settings = Settings(latent_dim=2, steps=2, starts=1, draws=1)
    assert measure_arm(settings, "separable", 0) == measure_arm(settings, "separable", 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiments", "few-shot", "--steps", "4", "--starts", "1", "--draws", "1", "--seeds", "1", "--jobs", "0"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["arms"] == [*PRIORS, *CONTROLS] and not results["failed"]
    by_arm = {run["arm"]: run for run in results["runs"]}
    for arm, run in by_arm.items():
        assert all(0 <= value <= 1 for name, value in run.items() if name.startswith(("nearest", "regression")))
        assert ("elbo_nats" in run) == (arm in PRIORS)
    assert by_arm["pixels"]["nearest_mean_5"] > by_arm["pixels"]["nearest_mean_1"] > 0.5
    assert (tmp_path / "few-shot.png").stat().st_size > 10_000
    assert "von-mises-fisher" in capsys.readouterr().out
