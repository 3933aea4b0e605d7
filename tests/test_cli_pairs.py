"""Commands on sessions in a column, windows, two modalities and sessions with channels of their own."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recparam as rp
from recparam.cli import main
from recparam.data.channels import own_channels
from recparam.data.conditioned import nearest
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.data.windows import windowed
from recparam.runs.files import read_values
from recparam.runs.reading import DataFiles, Reading

pytestmark = pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")
QUICK = ["--max-steps", "20", "--batch-size", "64", "--restarts", "1", "--accelerator", "cpu"]
TRIALS = np.repeat(["b", "a", "c"], 60)
FITS = {
    "windows": ["table.csv", "--sessions-key", "trial", "--window", "5", "--lag", "5"],
    "rows": ["both.npz", "--key", "counts", "--sessions", "trials.npy", "--lag", "5"],
    "two": ["counts.npy", "--data-prime", "pose.csv", "--sessions-key", "trial", "--sessions", "table.csv"],
    "own": ["one.npz", "two.npz", "--key", "n", "--own-channels", "--nearest-key", "position"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data and a run of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    place = np.sin(np.cumsum(0.2 * rng.normal(size=(180, 2)), axis=0))
    counts = np.tanh(place @ rng.normal(size=(2, 8))) + 0.05 * rng.normal(size=(180, 8))
    pose = place @ rng.normal(size=(2, 3)) + 0.05 * rng.normal(size=(180, 3))
    np.save(folder / "counts.npy", counts)
    np.save(folder / "trials.npy", TRIALS)
    np.savetxt(folder / "pose.csv", pose, delimiter=",")
    np.savez(folder / "both.npz", counts=counts, pose=pose)
    np.savez(folder / "one.npz", n=counts[:100], position=place[:100])
    np.savez(folder / "two.npz", n=pose[100:], position=place[100:])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*(f"cell {k}" for k in range(8)), "trial"]])
        csv.writer(file).writerows([*row, trial] for row, trial in zip(counts, TRIALS, strict=True))
    for name, words in FITS.items():
        with pytest.MonkeyPatch.context() as patch:
            if name in ("windows", "rows"):  # their pages are as those of any run
                patch.setattr("recparam.runs.folder.write_run_report", lambda path, **_: path)
            assert run(folder, "fit", *words, "--out", name, *QUICK) == 0
    return folder


def run(folder: Path, *words: str) -> int:
    """Run a command in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main(list(words))


def found(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert run(folder, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_column_or_a_file_says_where_sessions_end_and_is_no_data(folder: Path) -> None:
    with np.load(folder / "both.npz") as file:
        counts = file["counts"]
    table = Reading(sessions_key="trial").rows(DataFiles((folder / "table.csv",)))
    assert table.shape == (180, 8) and table.names == tuple(f"cell {k}" for k in range(8))
    np.testing.assert_allclose(table[:], counts)
    np.save(folder / "twice.npy", np.r_[TRIALS, TRIALS])
    twice = Reading(key="counts").rows(DataFiles((folder / "both.npz",) * 2, sessions=folder / "twice.npy"))
    assert table.sessions.tolist() == [0] * 60 + [1] * 60 + [2] * 60
    assert twice.sessions.tolist() == [*table.sessions, *(table.sessions + 3)]  # two files are never one session
    with np.load(folder / "windows" / "latents.npz") as file:
        assert file["sessions"].tolist() == table.sessions.tolist()


def test_windows_are_those_of_the_library(folder: Path) -> None:
    est = rp.RPMEstimator.load(folder / "windows")
    rows = Reading(sessions_key="trial").rows(DataFiles((folder / "table.csv",)))
    wide = windowed(rows, before=2, after=2, parted=True)
    assert (est.window_, est.lag_, est.shape_in_) == (5, (5,), (8,)) and "SmoothedMLP" in est.describe()
    again = rp.RPMEstimator(lag=5, max_steps=20, batch_size=64, restarts=1, random_state=0, accelerator="cpu").fit(wide)
    np.testing.assert_array_equal(again.transform(wide), est.transform(rows))
    with np.load(folder / "windows" / "latents.npz") as file:
        np.testing.assert_array_equal(file["z"], est.transform(rows))


def test_windows_that_are_held_out_share_no_row_with_fitted_ones() -> None:
    pairs = consecutive(windowed(Recording.of(np.arange(60.0)[:, None]), before=9))
    fitted, held_out = pairs.split(0.3)
    seen = {value for side in fitted.tensors() for value in side.unique().tolist()}
    assert not seen & {value for side in held_out.tensors() for value in side.unique().tolist()}
    assert fitted.second.max() == held_out.first.min() - 10


def test_two_modalities_have_latents_of_both(folder: Path, tmp_path: Path) -> None:
    est = rp.RPMEstimator.load(folder / "two")
    counts, pose = np.load(folder / "counts.npy"), np.loadtxt(folder / "pose.csv", delimiter=",")
    words = ["transform", "two", "counts.npy", "--data-prime", "pose.csv", "--sessions", "table.csv", "--std"]
    assert run(folder, *words, "-o", str(tmp_path / "z.npz")) == 0
    with np.load(tmp_path / "z.npz") as file, np.load(folder / "two" / "latents.npz") as stored:
        np.testing.assert_allclose(file["z"], est.transform(counts), atol=1e-5)
        np.testing.assert_allclose(file["z_prime"], est.transform(pose, side="x_prime"), atol=1e-5)
        np.testing.assert_allclose(stored["z_prime"], file["z_prime"], atol=1e-5)
        assert file["std_prime"].shape == (180, 2) and file["sessions"].tolist() == stored["sessions"].tolist()
    page = (folder / "two" / "report.html").read_text(encoding="utf-8")
    assert "pose.csv" in page and "row i of X with row i of X_prime" in page


def test_sessions_with_their_own_channels_are_joined_by_a_variable(folder: Path, tmp_path: Path) -> None:
    parts, place = [], []
    for name in ("one", "two"):
        with np.load(folder / f"{name}.npz") as file:
            parts.append(file["n"])
            place.append(file["position"])
    rows = own_channels(parts)
    est = rp.RPMEstimator(max_steps=20, batch_size=64, restarts=1, random_state=0)
    est.fit(rows, pairs=nearest(rows, np.concatenate(place)))
    assert run(folder, "transform", "own", "one.npz", "two.npz", "-o", str(tmp_path / "z.npz")) == 0
    with np.load(tmp_path / "z.npz") as file:
        np.testing.assert_array_equal(file["z"], est.transform(rows))
    assert "Nothing is drawn" in (folder / "own" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FITS)
def test_a_run_is_scored_as_it_was_fitted(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, beside = [], []
    for word in FITS[name]:  # the files, and those beside them: how they are read, the run remembers
        if word.startswith("--"):
            break
        words.append(word)
    for option in ("--data-prime", "--sessions"):
        if option in FITS[name]:
            beside += [option, FITS[name][FITS[name].index(option) + 1]]
    scored = found(folder, capsys, "score", name, *words, *beside)
    bound = json.loads((folder / name / "run.json").read_text())["bound"]
    assert scored["only_held_out"] is True and scored["pairs"] == bound["pairs"]
    assert scored["value_nats"] == pytest.approx(bound["value_nats"], abs=1e-4)


def test_a_run_s_own_file_gives_the_same_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recparam.runs.folder.write_run_report", lambda path, **_: path)
    assert run(tmp_path, "fit", "--config", str(folder / "two" / "run.yaml"), "--out", "again") == 0
    first, again = (rp.RPMEstimator.load(path / name) for path, name in ((folder, "two"), (tmp_path, "again")))
    z = np.random.default_rng(1).normal(size=(9, 3))
    np.testing.assert_array_equal(first.transform(z, side="x_prime"), again.transform(z, side="x_prime"))
    assert (tmp_path / "again" / "run.yaml").read_text() == (folder / "two" / "run.yaml").read_text()


def test_windows_and_rows_are_compared_on_the_same_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "fresh.npz", counts=np.load(folder / "counts.npy")[::-1], trial=TRIALS)
    words = ["compare", "windows", "rows", "--data", "fresh.npz", "--key", "counts", "--sessions-key", "trial"]
    compared = found(folder, capsys, *words)
    windows, rows = compared["models"]
    assert compared["rows"] == 165 and windows["value_nats"] != rows["value_nats"]


AT = ["--sessions", "trials.npy"]
BAD = {
    "no such column": (
        ["fit", "table.csv", "--key", "cell 1,cell 2", "--sessions-key", "trail"],
        "table.csv: expected one of .*got 'trail'",
    ),
    "text": (["fit", "table.csv"], "'b' in column 'trial'"),
    "short": (["fit", "counts.npy", "--sessions", "short.npy"], r"sessions of shape \(180,\).*got \(7,\)"),
    "torn": (["fit", "counts.npy", "--sessions", "torn.npy"], "sessions whose rows follow each other"),
    "several": (["fit", "counts.npy", "--sessions", "both.npz"], "both.npz: expected one column.*counts, pose"),
    "nowhere": (["fit", "counts.npy", "--sessions", "nowhere.npy"], "nowhere.npy: expected a file"),
    "hdf5": (["fit", "counts.npy", "--sessions", "trials.h5"], "trials.h5: expected sessions.*got .h5"),
    "window": (["fit", "counts.npy", "--window", "0"], "window"),
    "encoder": (["fit", "counts.npy", "--window", "4"], "window as an odd number"),
    "lengths": (["fit", "counts.npy", "--data-prime", "short.csv"], "as many rows on both sides"),
    "lag": (["fit", "counts.npy", "--data-prime", "pose.csv", "--lag", "2"], "--data-prime, --lag or --seconds"),
    "near lag": (["fit", "one.npz", "--key", "n", "--nearest-key", "position", "--lag", "1"], "--nearest-key, --lag"),
    "both": (["fit", "one.npz", "--key", "n", "--data-prime", "one.npz", "--nearest-key", "n"], "got both"),
    "widths": (["fit", "counts.npy", "pose.csv"], "--own-channels"),
    "no variable": (["fit", "counts.npy", "pose.csv", "--own-channels"], "--nearest-key with --own-channels"),
    "apart": (["fit", "counts.npy", "--apart", "3"], "--nearest-key with --apart"),
    "own windows": (["fit", *FITS["own"], "--window", "3"], "share their columns, for windows"),
    "own sessions": (["fit", "counts.npy", "--own-channels", "--sessions", "trials.npy"], "or --sessions; got both"),
    "one own": (["transform", "own", "one.npz", "-o", "z.npz"], "at least two, in the order of the fit"),
    "no second": (["score", "two", "counts.npy", "--sessions", "table.csv"], "Expected --data-prime, a second"),
    "a second": (["score", "rows", "both.npz", *AT, "--data-prime", "pose.csv"], "pairs of one recording"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = BAD[case]
    np.save(folder / "short.npy", np.zeros(7))
    np.savetxt(folder / "short.csv", np.random.default_rng(0).normal(size=(7, 2)), delimiter=",")
    np.save(folder / "torn.npy", np.r_[TRIALS[:90], TRIALS[:90]])
    (folder / "trials.h5").write_bytes(b"")
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert run(folder, *words, *(["--out", "new"] if words[0] == "fit" else [])) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed) and printed.count("\n") == 1 and printed.startswith("recparam: ")
    assert sorted(folder.rglob("*")) == before


def test_values_of_rows_are_numbers_or_text(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("1\n2\n")
    assert read_values(tmp_path / "plain.csv").tolist() == [[1.0], [2.0]]
    (tmp_path / "named.csv").write_text("day,x,y\nmon,1,2\ntue,3,4\n")
    assert read_values(tmp_path / "named.csv", key="day").tolist() == [["mon"], ["tue"]]
    assert read_values(tmp_path / "named.csv", key="y, x").tolist() == [[2.0, 1.0], [4.0, 3.0]]
    (tmp_path / "torn.csv").write_text("a,b\n1\n")
    np.savez(tmp_path / "uneven.npz", a=np.zeros(3), b=np.zeros(4))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, key, words in (
        ("torn.csv", None, "2 columns in each row; got 1 in line 2"),
        ("uneven.npz", "a,b", "as many rows each"),
        ("objects.npy", None, "objects.npy"),
    ):
        with pytest.raises(ValueError, match=words):
            read_values(tmp_path / name, key=key)
