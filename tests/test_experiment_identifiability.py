"""The experiment on identifiability: worlds that are what they say, and the whole command on a tiny scale."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from recparam.cli import main
from recparam.experiments.identifiability import conclude
from recparam.experiments.identifiability.settings import CONTROLS, WORLDS, Settings
from recparam.experiments.identifiability.worlds import Mixing, World


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("dim", "kappa"), [(3, 10.0), (10, 20.0), (2, 1.5)])
def test_pairs_on_the_sphere_have_the_moments_of_their_density(dim: int, kappa: float) -> None:
    z, z_prime = World("sphere", dim, "von-mises-fisher", kappa).pairs(40_000, seeded())
    for side in (z, z_prime):  # either is uniform
        torch.testing.assert_close(side.norm(dim=1), torch.ones(len(side)), atol=1e-5, rtol=0)
        assert float(side.mean(0).abs().max()) < 0.02
        torch.testing.assert_close(side.T @ side / len(side), torch.eye(dim) / dim, atol=0.02, rtol=0)
    # of the cosine t, whose density is proportional to (1 - t^2)^((n - 3)/2) exp(kappa t)
    angle = (torch.arange(20_000, dtype=torch.float64) + 0.5) * math.pi / 20_000
    weight = angle.sin() ** (dim - 2) * (kappa * angle.cos()).exp()
    cosine = (z * z_prime).sum(1).double()
    for power in (1, 2):
        expected = float((weight * angle.cos() ** power).sum() / weight.sum())
        assert abs(float((cosine**power).mean()) - expected) < 4 * float((cosine**power).std()) / 200


@pytest.mark.parametrize("conditional", ["laplace", "normal"])
def test_pairs_in_the_box_have_the_moments_of_their_density(conditional: str) -> None:
    scale = 0.2
    z, z_prime = World("box", 2, conditional, scale).pairs(40_000, seeded())
    assert 0 <= float(z_prime.min()) and float(z_prime.max()) <= 1
    grid = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    apart = (grid[:, None] - grid).abs() / scale
    joint = (-apart).exp() if conditional == "laplace" else (-0.5 * apart**2).exp()
    joint = joint / joint.sum(1, keepdim=True) / 500  # z uniform, z' as f / Z
    moved = (z_prime - z).double()
    for power in (1, 2):
        expected = float((joint * (apart * scale) ** power).sum())
        assert abs(float((moved.abs() ** power).mean()) - expected) < 4 * float((moved**power).std()) / 200
    expected = float((joint.sum(0) * grid**2).sum())
    assert abs(float(z_prime.double().square().mean()) - expected) < 0.006


@pytest.mark.parametrize("name", WORLDS)
def test_the_log_ratio_is_that_of_a_density(name: str) -> None:
    world = WORLDS[name]
    z, z_prime = world.pairs(50_000, seeded())
    # E[exp(-l)] under P(z, z') is the mass of P(z) R(z'), one; the mean of l is the mutual information
    ratio = world.log_ratio(z[:1].expand_as(z), z_prime).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(len(z))
    information = float(world.log_ratio(z, z_prime).mean())
    if name == "sphere-3":  # log C_3(kappa) + log 4 pi + kappa E[cos] = log(2 kappa) - 1, but for exp(-2 kappa)
        assert abs(information - (math.log(20) - 1)) < 0.02
    assert information > 1.9


@pytest.mark.parametrize("dim", [3, 10])
def test_the_mixing_is_invertible(dim: int) -> None:
    mixing, z = Mixing(dim, seeded()).double(), torch.rand(1000, dim, generator=seeded(1)).double() - 0.5
    mixed = mixing(z)
    for place, matrix in enumerate(reversed(mixing.matrices)):
        if place:
            mixed = functional.leaky_relu(mixed, 5.0)
        mixed = torch.linalg.solve(matrix, mixed.T).T
    torch.testing.assert_close(mixed, z)
    assert not torch.equal(Mixing(dim, seeded(2)).matrices, Mixing(dim, seeded()).matrices)


def test_differences_are_taken_between_runs_of_one_seed() -> None:
    found = {"box-laplace/laplace": {0: 4.0, 1: 3.0, 2: 9.0}, "box-laplace/gaussian": {0: 3.5, 1: 2.0}}
    runs = [{"arm": arm, "seed": seed, "evidence_nats": v} for arm, of in found.items() for seed, v in of.items()]
    summary = conclude({"runs": runs, "summary": {arm: {} for arm in found}})["summary"]
    assert summary["box-laplace/gaussian"]["behind_matching_nats"]["mean"] == 0.75
    assert not summary["box-laplace/laplace"]


def test_settings_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ({"batch_size": 1}, {"hidden": ()}, {"lr": math.nan}, {"worlds": ()}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong)
    words = ["experiments", "identifiability", "--out", str(tmp_path / "out")]
    for more, said in ((["--steps", "0"], "steps must be at least 1"), (["--worlds", "torus"], "'torus'")):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["experiments", "identifiability", "--worlds", "sphere-3", "--hidden", "32", "32"]
    words += ["--steps", "60", "--batch-size", "64", "--seeds", "1", "--jobs", "0", "--out", str(tmp_path)]
    assert main(words) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    settings = Settings(worlds=("sphere-3",))
    assert results["arms"] == settings.arms() and not results["failed"]
    summary = {arm: {name: found["mean"] for name, found in of.items()} for arm, of in results["summary"].items()}
    for arm, found in summary.items():
        prior = arm.split("/")[1]
        assert ("evidence_nats" in found) == (prior not in ("untrained", "chance"))
        assert prior == "truth" or max(found["mcc"], found["r2"]) < 1
    trained, untrained, truth, chance = (summary[f"sphere-3/{arm}"] for arm in ("von-mises-fisher", *CONTROLS))
    assert abs(truth["evidence_nats"] - truth["information_nats"]) < 0.1
    assert abs(chance["r2"]) < 0.02 and chance["mcc"] < 0.06
    assert trained["r2"] > untrained["r2"] and 0.5 < trained["evidence_nats"] < truth["evidence_nats"]
    assert (tmp_path / "identifiability.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "Latents found, on held-out pairs" in printed
