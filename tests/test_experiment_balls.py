"""The moving-balls experiment, whole, at a tiny size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

import recparam as rp
import recparam.experiments.balls.arms as arms
import recparam.experiments.balls.densities as densities
import recparam.experiments.balls.models as models
import recparam.experiments.balls.settings as balls_settings
import recparam.experiments.balls.training as training
from recparam.bounds.total_correlation import least_rows
from recparam.cli import main
from recparam.evaluation import LinearDecoder
from recparam.experiments.balls.run import run_experiment
from recparam.experiments.balls.settings import ARMS, RICHER_ARMS, Run, Settings, Training, make_settings
from recparam.experiments.folder import OutputFolderError, prepare_folder
from recparam.training import TrainingDiverged

TINY = Settings(size=20, diameter=3.0, frames=41, epochs=2, batch_size=10, videos=("black",), starts=2)


def run(settings: Settings, out: Path, **options: Any) -> tuple[dict[str, Any], str, dict[Run, str]]:
    """Run in this process; return the results, what was printed, and the failures."""
    lines: list[str] = []
    outcome = run_experiment(settings, out, jobs=options.pop("jobs", 0), say=lines.append)
    assert all(path.stat().st_size > 0 for path in outcome.files)
    assert json.loads((out / "results.json").read_text())["runs"] == outcome.results["runs"]
    return outcome.results, "\n".join(lines), outcome.failed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("balls") / "out"
    results, text, failed = run(TINY, out)
    assert not failed
    return out, results, text


def test_every_arm_is_measured_and_drawn(whole: tuple[Path, dict[str, Any], str]) -> None:
    out, results, text = whole
    assert [entry["arm"] for entry in results["runs"]] == list(ARMS) == results["arms"]
    for entry in results["runs"]:
        folder = out / Run("black", 0, entry["arm"]).folder
        assert entry["error_px"] == pytest.approx(np.mean(entry["error_per_ball_px"]), rel=1e-5)
        with np.load(folder / "arrays.npz") as stored:
            distances = np.linalg.norm(stored["decoded"] - stored["centres"], axis=-1)
        assert entry["error_px"] == pytest.approx(distances.mean(), rel=1e-4)
        assert (entry["matched_error_px"] is None) == (entry["arm"] == "constant")
    for name in ("figure1-black.png", "figure1-black.pdf", "report.html"):
        assert (out / name).stat().st_size > 1000
    assert "epoch   1 of 2" in text and "nats" in text
    assert "small version" in results["label"]


def test_bounds_of_the_models_have_kind_and_ceiling(whole: tuple[Path, dict[str, Any], str]) -> None:
    _, results, _ = whole
    for entry in results["runs"]:
        contrastive = entry["arm"] in arms.COUPLED_ARMS
        assert (entry["heldout_bound_nats"] is not None) == contrastive
        if contrastive:
            assert entry["bound_of"] == "elbo"
            steps = 2 if entry["arm"] == "velocity-steps" else 1  # its windows hold two, of which both have a prior
            assert entry["heldout_ceiling_nats"] == pytest.approx(steps * np.log(TINY.batch_size))
            assert entry["heldout_bound_nats"] <= entry["heldout_ceiling_nats"]
            assert entry["bound_nats"] <= entry["ceiling_nats"]


def test_evidence_chooses_among_the_starts(whole: tuple[Path, dict[str, Any], str]) -> None:
    out, results, _ = whole
    for entry in results["runs"]:
        assert (entry["starts"] is not None) == (entry["arm"] in RICHER_ARMS)
        if entry["starts"]:
            best = max(entry["starts"], key=lambda start: start["choosing_evidence_nats"])
            assert len(entry["starts"]) == 2 and entry["start"] == best["start"]
            for name in ("error_px", "mcc", "evidence_nats", "groups_evidence_nats"):
                assert entry[name] == best[name]
            assert entry["groups_evidence_nats"] <= entry["groups_evidence_ceiling_nats"]
            assert entry["evidence_nats"] <= entry["evidence_ceiling_nats"] == pytest.approx(np.log(39))
            assert len(np.unique([start["mcc"] for start in entry["starts"]])) == 2
    ranks = results["rank_correlations"]["black"]
    assert ranks["all"]["models"] == 9 and -1 <= ranks["all"]["with_mcc"] <= 1
    assert ranks["starts of steps"] == {"with_mcc": None, "with_error": None, "models": 2}
    for name in ("tracks-black.png", "tracks-black.pdf", "tracks-black.gif"):
        assert (out / name).stat().st_size > 1000


def test_evidence_predicts_the_same_frames_whatever_the_order() -> None:
    # Along a line at constant speed two earlier frames tell the next one, and one tells it to within a step.
    z = torch.arange(40.0)[:, None] * torch.tensor([1.0, 0, 0, 0, 0, 0])
    near, steady = rp.GaussianRBF(lengthscale=0.5), rp.After(rp.ConstantVelocity(), rp.GaussianRBF(lengthscale=0.5))
    step = torch.stack([near(z[1:-1], one.expand(38, 6)) for one in z[2:]], dim=1)
    by_hand = (step.diagonal() - step.logsumexp(1) + np.log(38)).mean().item()
    estimate, upper = training.evidence(rp.InfoNCEPrior(near), z)
    better, _ = training.evidence(rp.InfoNCEPrior(steady), z)
    assert float(estimate) == pytest.approx(by_hand, abs=1e-5)
    assert better.ceiling is not None and by_hand < float(better) <= better.ceiling
    assert float(estimate) < float(upper)


def test_independent_objects_are_worth_their_bounds_and_copies_nothing() -> None:
    torch.manual_seed(1)
    steps = torch.nn.functional.normalize(torch.randn(400, 3, 2), dim=-1)
    places = [torch.zeros(3, 2)]
    for step in steps[1:]:  # three objects that step by 1 in a box
        inside = (places[-1] + step).abs() < 5
        places.append(places[-1] + torch.where(inside, step, -step))
    walks = torch.stack(places)
    prior = rp.InfoNCEPrior(rp.Groups(rp.StepLength(1.0, width=0.1), models.OBJECTS))
    apart, ceiling = training.evidence_of_groups(prior, walks.flatten(1))
    joint = float(training.evidence(prior, walks.flatten(1))[0])
    copies = torch.stack([walks[:, 0], walks[:, 0] + 0.01 * torch.randn(400, 2), walks[:, 2]], dim=1)
    copied, _ = training.evidence_of_groups(prior, copies.flatten(1))
    assert joint < np.log(398) < apart < ceiling == pytest.approx(3 * np.log(398))
    assert copied < apart - 2


def test_starts_see_shrunk_frames_and_the_best_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balls_settings, "COARSE_SIZE", 10)
    settings = Settings(size=20, diameter=4.0, frames=41, epochs=1, batch_size=10, videos=("black",), arms=("steps",))
    assert settings.shrinking == 2 and settings.coarse.size == 10
    assert settings.epochs_of("steps") == 3 and settings.work_of("steps") == 1.5 and settings.work_of("linear") == 1
    frames = torch.randint(0, 256, (3, 20, 20, 3), dtype=torch.uint8)
    small = training.shrunk(frames, 2)
    assert small.shape == (3, 10, 10, 3)
    assert int(small[1, 4, 3, 2]) == round(float(frames[1, 8:10, 6:8, 2].float().mean()))
    seen: list[tuple[int, float]] = []
    plain = training.train

    def noted(model: Any, frames: torch.Tensor, *rest: Any, slower: float = 1.0) -> Any:
        seen.append((frames.shape[1], slower))
        return plain(model, frames, *rest, slower=slower)

    values = iter([5.0, 7.0, 6.5, 7.5])  # of two starts, and of whole frames: the first time less than the start had
    exact = training.evidence_of_groups
    monkeypatch.setattr(training, "train", noted)
    monkeypatch.setattr(training, "evidence_of_groups", lambda prior, z: (next(values), exact(prior, z)[1]))
    results, text, failed = run(settings, tmp_path / "out")
    assert not failed and seen == [(10, 1), (10, 1), (20, 1), (20, 4)] and "epoch   3 of 3" in text
    assert len(results["runs"][0]["starts"]) == 2 and results["runs"][0]["start"] == 1


def test_whole_frames_that_diverge_are_tried_with_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balls_settings, "COARSE_SIZE", 10)
    settings = Settings(
        size=20, diameter=4.0, frames=41, epochs=1, batch_size=10, videos=("black",), arms=("steps",), starts=1
    )
    rates: list[float] = []
    lowest = 4.0
    plain = training.train

    def diverging(model: Any, frames: torch.Tensor, *rest: Any, slower: float = 1.0) -> Any:
        if frames.shape[1] == 20:
            rates.append(slower)
            if slower < lowest:
                raise TrainingDiverged("the objective", label="steps", step=1, epoch=1, lr=0.02 / slower)
        return plain(model, frames, *rest, slower=slower)

    monkeypatch.setattr(training, "train", diverging)
    monkeypatch.setattr(training, "evidence_of_groups", lambda prior, z: (1.0, 1.0))
    assert not run(settings, tmp_path / "out")[2] and rates == [1, 4]
    lowest, rates[:] = 64.0, []
    failed = run(settings, tmp_path / "none")[2]
    assert len(failed) == 1 and rates == [1, 4, 16]


def test_evidence_that_is_nan_is_never_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(TINY, epochs=1, arms=("steps",), starts=3)
    values = iter([float("nan"), -1.0, float("nan")])
    exact = training.evidence_of_groups
    monkeypatch.setattr(training, "evidence_of_groups", lambda prior, z: (next(values), exact(prior, z)[1]))
    results, _, failed = run(settings, tmp_path / "out")
    assert not failed and results["runs"][0]["start"] == 1


def test_the_constant_is_the_mean_of_the_training_centres(whole: tuple[Path, dict[str, Any], str]) -> None:
    out, _, _ = whole
    videos = arms.make_videos(TINY, Run("black", 0, "constant"))
    with np.load(out / "runs/black/seed0/constant/arrays.npz") as stored:
        np.testing.assert_allclose(stored["decoded"][0], videos.train.centres.mean(0), rtol=1e-5)
    assert not np.array_equal(videos.train.centres, videos.fresh.centres)


def test_finished_runs_are_kept_and_a_folder_can_grow(
    whole: tuple[Path, dict[str, Any], str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, first, _ = whole
    times = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/*/result.json")}
    second, text, _ = run(replace(TINY, arms=("constant",), seeds=(0, 1)), out)
    assert "1 of 2 runs are finished" in text
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert [entry for entry in second["runs"] if entry["seed"] == 0] == first["runs"]
    assert second["seeds"] == [0, 1]
    summary = second["summary"]["black"]["constant"]
    assert summary["low_px"] < summary["mean_px"] < summary["high_px"]
    assert summary["mean_256_px"] == pytest.approx(summary["mean_px"] * 256 / 20)


def test_the_same_seed_gives_the_same_numbers(whole: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    _, first, _ = whole
    torch.manual_seed(12345)  # no run may depend on what happened before it
    again, _, _ = run(replace(TINY, arms=("gaussian",)), tmp_path / "again")
    (entry,) = again["runs"]
    (before,) = [old for old in first["runs"] if old["arm"] == "gaussian"]
    assert {**entry, "seconds": 0} == {**before, "seconds": 0}


def test_a_diverging_arm_is_reported_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "training_of", lambda arm: Training(lr=1e30))
    words = ["--size", "20", "--diameter", "3", "--frames", "41", "--epochs", "1", "--batch-size", "8"]
    out = tmp_path / "out"
    code = main(
        [
            "balls",
            *words,
            "--videos",
            "black",
            "--arms",
            "gaussian,constant",
            "--out",
            str(out),
            "--jobs",
            "0",
        ]
    )
    assert code == 1
    assert "failed: black seed 0 gaussian" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert [entry["arm"] for entry in results["failed"]] == ["gaussian"]
    assert results["failed"][0]["message"]
    assert results["arms"] == ["constant"]


def test_processes_give_what_one_process_gives(whole: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    _, first, _ = whole
    results, _, failed = run(replace(TINY, arms=("untrained", "constant")), tmp_path / "out", jobs=2)
    assert not failed
    for entry in results["runs"]:
        (before,) = [old for old in first["runs"] if (old["arm"], old["seed"]) == (entry["arm"], 0)]
        assert entry["error_px"] == pytest.approx(before["error_px"], rel=1e-4)


@pytest.mark.parametrize("content", ["unrelated", "other settings", "unreadable", "other experiment"])
def test_a_folder_of_something_else_is_refused_untouched(content: str, tmp_path: Path) -> None:
    if content == "unrelated":
        (tmp_path / "thesis.tex").write_text("mine")
    else:
        identity = replace(TINY, epochs=3).identity()
        text = {"other settings": json.dumps(identity), "unreadable": "{", "other experiment": "[]"}[content]
        (tmp_path / "settings.json").write_text(text)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(OutputFolderError, match="Choose another --out"):
        prepare_folder(TINY.identity(), tmp_path)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFolderError, match="must be writable"):
        prepare_folder(TINY.identity(), tmp_path / "file" / "out")


def test_all_arms_of_a_seed_start_from_the_same_encoder() -> None:
    frames = torch.randint(0, 256, (4, 20, 20, 3), dtype=torch.uint8)
    torch.manual_seed(1)
    first = models.initial_encoder(TINY, 0)
    torch.manual_seed(2)
    assert torch.equal(first(frames), models.initial_encoder(TINY, 0)(frames))
    assert not torch.equal(first(frames), models.initial_encoder(TINY, 1)(frames))


def test_only_the_papers_size_is_labelled_so() -> None:
    assert make_settings("paper").label.startswith("paper's size")
    assert make_settings("paper", epochs=29).label.startswith("small version")
    assert make_settings("quick").label.startswith("small version (128x128")
    # Balls keep the paper's proportion, and the unit of the latents the paper's frame.
    assert make_settings(size=128).diameter == 16 and make_settings(size=128).scale == 2


def test_kernel_density_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3))
    points = rng.normal(size=(50, 3))
    expected = gaussian_kde(data.T).logpdf(points.T)
    found = densities.log_density(data, points)
    # The constant is dropped.
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-8)


def test_predicted_density_follows_the_linear_decoder() -> None:
    # With latents that are a known linear map of the centres, the Gaussian prior, base uniform, peaks at
    # the current place of ball 0, which the map would move if it were not undone.
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(200, 3, 2, generator=generator) * 60
    mixing = torch.randn(6, 6, generator=generator) / 20 + torch.eye(6)
    z = true.flatten(1) @ mixing.T
    decoder = LinearDecoder().fit(z, true)
    model = rp.RPM(rp.Deterministic(torch.nn.Identity()), rp.InfoNCEPrior(models.coupling_of("gaussian")))
    density = densities.predicted_density(model, decoder, z, z, true, true, size=64)
    assert density["density_uniform"].shape == (densities.GRID, densities.GRID)
    assert density["density_uniform"].sum() == pytest.approx(1, abs=1e-4)
    assert density["density_marginal"].sum() == pytest.approx(1, abs=1e-4)
    row, column = np.unravel_index(density["density_uniform"].argmax(), (densities.GRID, densities.GRID))
    place = true[int(density["density_frame"]), 0].numpy()
    assert np.abs(density["density_axis"][[column, row]] - place).max() < 1.0


def test_batches_that_do_not_know_the_total_correlation_are_refused_before_any_work() -> None:
    assert least_rows(*[len(group) for group in models.OBJECTS]) == balls_settings.FEWEST_PAIRS
    with pytest.raises(ValueError, match="at least 10 with the arms steps; got 9"):
        replace(TINY, arms=("gaussian", "steps"), batch_size=9)
    assert replace(TINY, arms=("gaussian", "velocity"), batch_size=9).batch_size == 9
