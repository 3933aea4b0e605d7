"""The commands for people's own data, end to end on small files."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import recparam as rp
from recparam.cli import main
from recparam.data.pairs import consecutive
from recparam.data.recording import Recording
from recparam.utils.storage import json_text

QUICK = ["--max-steps", "30", "--batch-size", "64", "--restarts", "1"]
PLAIN = ["--lag", "1", "--dropout", "0", *QUICK]


def recording(seed: int = 0, *, rows: int = 240) -> np.ndarray:
    """Return ten channels that mix a walk in the plane, with noise."""
    rng = np.random.default_rng(seed)
    place = np.sin(np.cumsum(0.2 * rng.normal(size=(rows, 2)), axis=0))
    return (np.tanh(place @ rng.normal(size=(2, 10))) + 0.05 * rng.normal(size=(rows, 10))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data and two runs of them."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "data.npy", recording())
    np.save(folder / "other.npy", recording(1))
    for name, seed in (("one", "0"), ("two", "1")):
        words = ["fit", str(folder / "data.npy"), "--out", str(folder / name), "--seed", seed, *PLAIN]
        assert main(words) == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fit_says_what_was_chosen_and_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "my data.npy", recording())
    out = tmp_path / "run"
    assert main(["fit", str(tmp_path / "my data.npy"), "--out", str(out), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "(240, 10)" in printed and "held out" in printed
    assert "P(z'|z)" in printed
    assert "ELBO - const" in printed and "ceiling" in printed and "independent blocks" in printed
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".old"))]
    command = next(line for line in printed.splitlines() if line.startswith("recparam transform"))
    words = shlex.split(command)[1:]
    words[-1] = str(tmp_path / words[-1])
    assert main(words) == 0
    assert Path(words[-1]).is_file()


def test_the_same_seed_gives_the_same_latents(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    words = ["fit", str(folder / "data.npy"), "--out", str(again), "--seed", "0", *PLAIN]
    assert main(words) == 0
    with np.load(again / "latents.npz") as new, np.load(folder / "one" / "latents.npz") as old:
        assert np.array_equal(new["z"], old["z"])
    with np.load(folder / "two" / "latents.npz") as other, np.load(folder / "one" / "latents.npz") as old:
        assert not np.allclose(other["z"], old["z"])


def test_transform_writes_the_same_latents_in_every_format(folder: Path, tmp_path: Path) -> None:
    for name in ("z.npz", "z.csv"):
        words = ["transform", str(folder / "one"), str(folder / "data.npy"), "-o", str(tmp_path / name), "--std"]
        assert main(words) == 0
    with np.load(tmp_path / "z.npz") as file, np.load(folder / "one" / "latents.npz") as stored:
        z, std = file["z"], file["std"]
        assert z.shape == (240, 2) and std.shape == (240, 2) and not file["sessions"].any()
        assert np.allclose(z, stored["z"], atol=1e-6)
    table = np.genfromtxt(tmp_path / "z.csv", delimiter=",", names=True)
    assert table.dtype.names == ("session", "row", "z1", "z2", "std1", "std2")
    assert np.array_equal(table["z2"].astype(np.float32), z[:, 1].astype(np.float32))


def test_latents_are_written_as_parquet(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    words = ["transform", str(folder / "one"), str(folder / "data.npy"), "-o", str(tmp_path / "z.parquet")]
    assert main(words) == 0
    table = pandas.read_parquet(tmp_path / "z.parquet")
    assert list(table.columns) == ["session", "row", "z1", "z2"]
    with np.load(folder / "one" / "latents.npz") as stored:
        assert np.allclose(table[["z1", "z2"]].to_numpy(), stored["z"], atol=1e-6)


def test_several_files_are_sessions(folder: Path, tmp_path: Path) -> None:
    words = ["transform", str(folder / "one"), str(folder / "data.npy"), str(folder / "other.npy")]
    assert main([*words, "-o", str(tmp_path / "z.npz")]) == 0
    with np.load(tmp_path / "z.npz") as file:
        assert file["sessions"].tolist() == [0] * 240 + [1] * 240


def test_score_of_the_data_of_the_fit_is_the_held_out_bound(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(folder / "one"), str(folder / "data.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = json.loads((folder / "one" / "run.json").read_text())
    assert found["only_held_out"] is True
    assert found["pairs"] == stored["bound"]["pairs"] < 60
    assert found["value_nats"] == pytest.approx(stored["bound"]["value_nats"], abs=1e-4)
    assert found["value_nats"] <= found["ceiling_nats"] + 1e-3
    assert found["blocks"] < 15 and found["low_nats"] is found["high_nats"] is None  # too few for an interval
    assert main(["score", str(folder / "one"), str(folder / "other.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["blocks"] >= 15 and found["low_nats"] < found["value_nats"] < found["high_nats"]


def test_score_of_other_data_takes_all_of_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(folder / "one"), str(folder / "other.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["only_held_out"] is False and found["pairs"] == 239
    assert main(["score", str(folder / "one"), str(folder / "other.npy")]) == 0
    printed = capsys.readouterr().out
    assert "ELBO - const" in printed and f"{found['value_nats']:.3f} nats" in printed
    assert f"{found['low_nats']:.3f} to {found['high_nats']:.3f}" in printed


def test_compare_gives_what_rp_compare_gives(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, data = [str(folder / name) for name in ("one", "two")], str(folder / "data.npy")
    assert main(["compare", *runs, "--data", data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["only_held_out"] is True and found["runs"] == dict(zip(("one", "two"), runs, strict=True))
    stored = json.loads((folder / "one" / "run.json").read_text())
    assert found["rows"] == stored["bound"]["pairs"]
    held_out = consecutive(Recording.of(np.load(data)))
    ((first, last),) = stored["held_out_rows"]
    held_out = held_out.where((held_out.first >= first) & (held_out.second <= last))
    models = {name: rp.RPMEstimator.load(folder / name) for name in ("one", "two")}
    expected = rp.compare(models, np.load(data), pairs=held_out)
    assert {name: found[name] for name in expected.facts()} == json.loads(json_text(expected.facts()))
    assert main(["compare", *runs, "--data", data]) == 0
    printed = capsys.readouterr().out
    assert str(expected) in printed and expected.differences[0].verdict in printed
    assert f"{found['rows']} pairs that no run was trained on" in printed


def test_compare_pairs_the_rows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "one", tmp_path / "one")
    runs = [str(folder / "one"), str(tmp_path / "one"), str(folder / "two")]
    assert main(["compare", *runs, "--data", str(folder / "other.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in found["models"]] == runs  # two folders have one name
    itself, other, _ = found["differences"]
    # A run less itself is exactly nothing at every pair; unpaired, its interval would be as wide as the values'.
    assert itself["difference_low_nats"] == itself["difference_high_nats"] == 0
    assert other["difference_low_nats"] < other["difference_nats"] < other["difference_high_nats"]
    first, _, second = found["models"]
    assert other["bounds_low_nats"] == pytest.approx(first["lower_nats"] - second["upper_nats"], rel=1e-4)
    assert other["bounds_high_nats"] == pytest.approx(first["upper_nats"] - second["lower_nats"], rel=1e-4)
    assert other["bounds_least_nats"] < other["bounds_low_nats"] < other["bounds_high_nats"] < other["bounds_most_nats"]


def test_a_comparison_is_written_whole_or_not_at_all(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "compared"
    words = ["compare", str(folder / "one"), str(folder / "two"), "--data", str(folder / "data.npy"), "--out", str(out)]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((out / "comparison.json").read_text()) == printed
    for table in ("models", "differences"):
        with (out / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(printed[table]) and set(rows[0]) == set(printed[table][0])
    assert float(rows[0]["bounds_low_nats"]) == pytest.approx(printed["differences"][0]["bounds_low_nats"])
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "comparison.pdf").read_bytes().startswith(b"%PDF")
    before = contents(out)
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    monkeypatch.setattr("recparam.comparison.Comparison.figure", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*words, "--overwrite"])
    assert contents(out) == before and [path.name for path in tmp_path.iterdir()] == ["compared"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    assert main([*words[:-1], str(tmp_path / "mine"), "--overwrite"]) == 2
    assert "other files" in capsys.readouterr().err and contents(tmp_path / "mine") == {"notes.txt": b"kept"}


def test_the_report_needs_nothing_else_and_escapes_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "<script>alert(1)<"
    header = ",".join([hostile, "b&c", *"defghijk"])
    np.savetxt(tmp_path / "a<b>.csv", recording(), delimiter=",", header=header, comments="")
    labels = recording(2)[:, :2]
    np.savetxt(tmp_path / "labels.csv", labels, delimiter=",", header="<img src=x>,speed$", comments="")
    run = tmp_path / "r<i>"
    assert main(["fit", str(tmp_path / "a<b>.csv"), "--out", str(run), *QUICK]) == 0
    plain = (run / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(run), "--labels", str(tmp_path / "labels.csv")]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<img src=x" not in page and "r<i>" not in page and "a<b>" not in page
    for words in ("a&lt;b&gt;.csv", "&lt;script&gt;", "b&amp;c", "r&lt;i&gt;", "estimate", "torch", "The prior"):
        assert words in plain
    assert "&lt;img src=x&gt;" in page and "Coloured by speed$" in page
    assert page.count("data:image/png;base64,") == plain.count("data:image/png;base64,") + 2
    assert all(link.startswith("data:image/png") for link in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert str(run / "report.html") in capsys.readouterr().out


def test_labels_may_be_arrays(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "labels.npz", place=np.zeros((240, 2)), state=np.arange(240) % 3, other=np.zeros(7))
    assert main(["report", str(folder / "two"), "--labels", str(tmp_path / "labels.npz")]) == 0
    page = (folder / "two" / "report.html").read_text(encoding="utf-8")
    assert all(f"Coloured by {name}" in page for name in ("place 1", "place 2", "state"))
    assert "Coloured by other" not in page
    labels = str(tmp_path / "labels.npz")
    assert main(["report", str(folder / "two"), "--labels", labels, "--key", "state"]) == 0
    page = (folder / "two" / "report.html").read_text(encoding="utf-8")
    assert "Coloured by state" in page and "Coloured by place" not in page


def test_labels_are_decoded_on_rows_that_were_held_out() -> None:
    from recparam.runs.latents import Latents
    from recparam.runs.report import decoding

    z = np.random.default_rng(0).normal(size=(100, 2))
    held_out = np.arange(100) >= 80
    latents = Latents(z, sessions=np.zeros(100, dtype=int), held_out=held_out)
    label = z @ [1.0, 2.0] + 3.0
    assert "R² = 1.00 on the 20 held-out rows" in decoding(latents, label)
    # Changed where nothing was trained, the label is decoded worse: the decoder has not seen those rows.
    assert "R² = −" in decoding(latents, np.where(held_out, -label, label))
    assert "Too few" in decoding(latents, np.where(held_out, np.nan, label))


def test_pairs_are_scored_in_order_of_time(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["fit", str(folder / "data.npy"), "--out", str(tmp_path / "run"), "--lag", "1", "3", *QUICK]
    assert main(words) == 0
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["bound"]
    capsys.readouterr()
    assert main(["score", str(tmp_path / "run"), str(folder / "data.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # However the pairs were listed, by lag at first, they are one series.
    assert found["blocks"] == stored["blocks"] and found["pairs"] == stored["pairs"]
    assert found["low_nats"] == pytest.approx(stored["low_nats"], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--out", "new"], "at least one file"),
        (["fit", "missing.npy", "--out", "new"], "missing.npy"),
        (["fit", "notes.txt", "--out", "new"], "notes.txt"),
        (["fit", "broken.npz", "--out", "new"], "broken.npz"),
        (["fit", "objects.npy", "--out", "new"], ""),
        (["fit", "holes.npy", "--out", "new"], "column 3"),
        (["fit", "one_row.npy", "--out", "new"], "row"),
        (["fit", "data.npy", "--out", "new", "--prior", "gausian"], "gaussian"),
        (["fit", "data.npy", "--out", "new", "--latent-dim", "0"], "--latent-dim"),
        (["fit", "data.npy", "--out", "new", "--lag", "0"], "lag"),
        (["fit", "data.npy", "--out", "new", "--lag", "500"], "lag"),
        (["fit", "data.npy", "narrow.npy", "--out", "new"], "shape"),
        (["fit", "data.npy", "--out", "new", "--learning-rate", "1e30", *QUICK], "learning rate"),
        (["fit", "data.npy", "--out", "one"], "--overwrite"),
        (["fit", "data.npy", "--out", "mine", "--overwrite"], "other files"),
        (["fit", "data.npy", "--out", "notes.txt", "--overwrite"], "is a file"),
        (["transform", "one", "data.npy", "-o", "z.txt"], ".npz, .csv, .parquet"),
        (["transform", "mine", "data.npy", "-o", "z.npz"], "recparam fit wrote"),
        (["transform", "one", "narrow.npy", "-o", "z.npz"], "10"),
        (["transform", "one", "-o", "z.npz"], "at least one file"),
        (["score", "nowhere", "data.npy"], "nowhere"),
        (["score", "one", "narrow.npy"], "10"),
        (["compare", "one", "--data", "data.npy"], "at least two"),
        (["compare", "one", "nowhere", "--data", "data.npy"], "nowhere"),
        (["compare", "one", "two", "one/../one", "--data", "data.npy"], "one twice"),
        (["report", "mine"], "recparam fit wrote"),
        (["report", "one", "--labels", "one_row.npy"], "240 rows"),
        (["report", "one", "--labels", "objects.npy"], "objects.npy"),
        (["report", "one", "--labels", "data.npy"], "--key"),
        (["report", "one", "--labels", "data.npy", "--key", "speed"], "'speed'"),
        (["report", "one", "--labels", "missing.npy"], "missing.npy"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    words: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "notes.txt").write_text("mine")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 cut off")
    np.save(folder / "objects.npy", np.array([[{}] * 3] * 300, dtype=object), allow_pickle=True)
    np.save(folder / "one_row.npy", recording()[:1])
    np.save(folder / "narrow.npy", recording()[:, :4])
    holes = recording()
    holes[17, 3] = np.nan
    np.save(folder / "holes.npy", holes)
    before = contents(folder)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("recparam: ") and printed.err.count("\n") == 1 and "Traceback" not in printed.err
    assert contents(folder) == before


def test_overwrite_replaces_the_run_as_a_whole(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["fit", str(folder / "data.npy"), "--out", str(out), *QUICK]
    assert main(words) == 0
    (out / "notes.txt").write_text("of the first run")
    assert main([*words, "--overwrite", "--lag", "2"]) == 0
    assert not (out / "notes.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_cannot_be_written_leaves_the_former_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import recparam.runs.folder

    out = tmp_path / "run"
    words = ["fit", str(folder / "data.npy"), "--out", str(out), *QUICK]
    assert main(words) == 0
    before = contents(tmp_path)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recparam.runs.folder, "write_run_report", full)
    assert main([*words, "--overwrite", "--seed", "3"]) == 2
    assert "No space left" in capsys.readouterr().err
    after = contents(tmp_path)
    assert {name: after.pop(name) for name in before} == before
    assert list(after) == ["run.partial/fit.ckpt"]  # with which --resume need not fit again


def test_ctrl_c_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import recparam.estimator

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recparam.estimator.RPMEstimator, "fit", interrupted)
    assert main(["fit", str(folder / "data.npy"), "--out", str(tmp_path / "run")]) == 130
    assert "Nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_newer_run_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for text, message in (("{", "damaged"), ('{"format": 99}', "Update recparam")):
        (run / "run.json").write_text(text)
        assert main(["score", str(run), str(folder / "data.npy")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "dims", "transform", "score", "compare", "report"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"- recparam {command} " in capsys.readouterr().out
