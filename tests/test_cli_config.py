"""Runs given as files, defaults, lags in seconds, and JSON on standard output."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import recparam as rp
from recparam.cli import main
from recparam.data.recording import Recording
from recparam.estimator.settings import Settings
from recparam.runs.config import Config
from recparam.runs.fits import lag_in_rows

QUICK = ["--max-steps", "20", "--batch-size", "64", "--restarts", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    place = np.sin(np.cumsum(0.2 * rng.normal(size=(240, 2)), axis=0))
    seen = np.tanh(place @ rng.normal(size=(2, 6))) + 0.05 * rng.normal(size=(240, 6))
    np.savez(folder / "data.npz", seen=seen, other=np.zeros((240, 2)))
    words = ["--key", "seen", "--lag", "1", "3", "--dropout", "0.1", "--prior", "linear", "--seed", "5"]
    assert main(["fit", str(folder / "data.npz"), "--out", str(folder / "run"), *words, *QUICK]) == 0
    return folder



def test_a_run_s_own_file_gives_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the file names its data in full
    assert main(["fit", "--config", str(folder / "run" / "run.yaml"), "--out", "again"]) == 0
    first, again = (rp.RPMEstimator.load(path) for path in (folder / "run", tmp_path / "again"))
    assert again.get_params() == first.get_params() and again.lag == (1, 3) and again.prior == "linear"
    z = np.random.default_rng(1).normal(size=(9, 6))
    assert np.array_equal(first.transform(z), again.transform(z))
    assert (tmp_path / "again" / "run.yaml").read_text() == (folder / "run" / "run.yaml").read_text()


def test_the_file_holds_what_the_estimator_takes(folder: Path) -> None:
    content = yaml.safe_load((folder / "run" / "run.yaml").read_text())
    stored = rp.RPMEstimator.load(folder / "run").get_params()
    settings = Config.read(folder / "run" / "run.yaml", defaults=Settings()).settings
    assert vars(settings) == {name: stored[name] for name in vars(settings)}
    assert rp.RPMEstimator(**content["estimator"]).get_params().keys() == stored.keys()
    assert content["reading"]["key"] == "seen" and content["data"] == [str(folder / "data.npz")]


def test_what_is_given_on_the_command_line_comes_first(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"data: {folder / 'data.npz'}\nreading: {{key: seen}}\n"
        "estimator: {prior: linear, lag: 2, learning_rate: 1e-3, max_steps: 20, restarts: 1}\n"
    )
    words = ["fit", "--config", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "run"), "--prior", "cosine"]
    assert main([*words, "--lag", "3"]) == 0
    run = rp.RPMEstimator.load(tmp_path / "run")
    assert (run.prior, run.lag, run.learning_rate, run.max_steps, run.restarts) == ("cosine", 3, 1e-3, 20, 1)
    assert run.random_state == 0  # neither says
    assert main([*words[:-2], "--overwrite", "--seconds", "0.1", "--rate", "40"]) == 0
    assert rp.RPMEstimator.load(tmp_path / "run").lag == 4  # in place of the file's


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("estimator: {latent_dims: 3}", "Did you mean 'latent_dim'"),
        ("estimators: {}", "Did you mean 'estimator'"),
        ("reading: {colour: true}", "'grey'.*got 'colour'"),
        ("estimator: 3", "names with values; got 3"),
        ("- 1\n- 2", "names with values"),
        ("data: {a: 1}", "list of files"),
        ("estimator: {prior: [", "expected YAML"),
        ("data: !!python/object/apply:os.system ['touch hacked']", "expected YAML"),
        ("estimator: {restarts: many}", "restarts"),
        ("estimator: {prior: 3}", "prior"),
        ("estimator: {lag: [1, a]}", "lag as a whole number or a list of whole numbers or null; got .1, 'a'"),
        ("reading: {size: big}", "size as a whole number or null; got 'big'"),
        ("", "at least one file"),
    ],
)
def test_a_wrong_file_is_one_sentence_and_nothing_is_run(
    text: str, words: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    data = [str(folder / "data.npz"), "--key", "seen"] if "estimator: {" in text else []
    assert main(["fit", *data, "--config", "run.yaml", "--out", "run"]) == 2
    printed = capsys.readouterr().err
    assert re.search(words, printed) and printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
    assert main(["fit", "--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def flags(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """The defaults that the help of `recparam fit` shows, by flag."""
    with pytest.raises(SystemExit):
        main(["fit", *words, "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    return dict(re.findall(r" --([a-z-]+)(?:, --no-[a-z-]+)? (?:(?! --[a-z]).)*?\(default: ([^()]*)\)", text))


def test_the_help_shows_the_estimator_s_defaults_or_those_of_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, of_run = flags(capsys), flags(capsys, "--config", str(folder / "run" / "run.yaml"))
    ours = {name: value for name, value in rp.RPMEstimator().get_params().items() if name != "progress"}
    assert plain["seed"] == "0"  # the only one that differs: a command gives the same model twice
    for name in ours.keys() - {"random_state"}:
        assert plain[name.replace("_", "-")] == str(ours[name])
    assert of_run["prior"] == "linear" and of_run["lag"] == "1 3" and of_run["dropout"] == "0.1"
    assert of_run["seed"] == "5" and of_run["max-steps"] == "20" and of_run["key"] == "seen"


def test_settings_and_the_estimator_s_signature_agree() -> None:
    parameters = rp.RPMEstimator().get_params()
    assert parameters == vars(Settings()) | {"progress": False}
    for name in parameters:
        assert f"\n        {name}: " in (rp.RPMEstimator.__doc__ or "")


def test_seconds_become_rows() -> None:
    plain, timed = Recording.of(np.zeros((50, 2))), Recording.of(np.zeros((50, 2)), times=np.arange(50) / 20)
    assert lag_in_rows(plain, lag=None, seconds=[0.1], rate=50.0) == [5]
    assert lag_in_rows(timed, lag=None, seconds=[0.1, 0.5], rate=None) == [2, 10]
    jitter = Recording.of(np.zeros((50, 2)), times=np.arange(50) / 20 + 0.02 * (np.arange(50) % 3 == 0))
    for recording, given, words in (
        (jitter, {"seconds": [0.13]}, "evenly spaced"),
        (plain, {"seconds": [0.1]}, "rate="),
        (plain, {"seconds": [0.1], "rate": 50.0, "lag": [1]}, "got both"),
        (plain, {"rate": 50.0}, "--rate alone"),
        (timed, {"seconds": [0.1, 0.11]}, "different"),
        (plain, {"seconds": [-1.0], "rate": 50.0}, "seconds"),
    ):
        options: dict[str, Any] = {"lag": None, "seconds": None, "rate": None} | given
        with pytest.raises(ValueError, match=words):
            lag_in_rows(recording, **options)


def test_json_is_all_there_is_on_standard_output(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = str(folder / "data.npz"), tmp_path / "run"
    words = ["fit", data, "--key", "seen", "--seconds", "0.1", "--rate", "20", "--out", str(out), *QUICK, "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == str(out) and Path(found["report"]).is_file()
    assert found["lag"] == [2] and found["steps"] <= 20 and len(found["restarts"]) == 1
    stored = json.loads((out / "run.json").read_text())["bound"]
    assert found["bound"]["value_nats"] == pytest.approx(stored["value_nats"])
    assert main(["transform", str(out), data, "-o", str(tmp_path / "z.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["latents"], found["out"]) == (240, 2, str(tmp_path / "z.npz"))
    assert main(["report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(out), "report": str(out / "report.html")}
