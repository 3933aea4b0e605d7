"""Messages of the command line name options that exist, and give no advice that only Python can follow."""

import re
from pathlib import Path

import numpy as np
import pytest

from recparam.cli import main
from recparam.cli.fit import fit
from recparam.cli.messages import in_options, options_of
from recparam.cli.runs import compare, report

X = np.random.default_rng(0).normal(size=(60, 4))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Expected key= as a; got key='b'. Give key=.", "Expected --key as a; got --key 'b'. Give --key."),
        ("Expected a number; got NaN. Drop it. Or declare with mask= which.", "Expected a number; got NaN. Drop it."),
        ("Expected latent_dim >= 1; got 0.", "Expected --latent-dim >= 1; got 0."),
        ("Expected pairs, with fraction=0.5; got 1.", "Expected pairs, with fraction 0.5; got 1."),
        ("Expected (N, D); got (N,). Use data.reshape(-1, 1).", "Expected (N, D); got (N,)."),
        ("No. Give it recparam.data.channels.own_channels.", "No. Give it --own-channels."),
        ("No. Take another random_state=.", "No. Take another --seed."),
        ("runs/latent_dim/key=1.csv: Expected 'lag=1'.", "runs/latent_dim/key=1.csv: Expected 'lag=1'."),
    ],
)
def test_arguments_are_written_as_options(message, expected):
    assert in_options(message, options_of(fit)) == expected


def test_options_are_those_of_the_command():
    assert {"latent_dim", "seed", "key", "sessions_key", "rate"} <= options_of(fit)
    assert "latent_dim" not in options_of(compare) and options_of(report) == {"labels", "key", "json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    holes = X.copy()
    holes[3, 1] = np.nan
    arrays = {
        "good": X, "holes": holes, "clock": np.c_[X, np.arange(60)], "constant": np.c_[X, np.ones(60)], "few": X[:5],
        "vector": X[:, 0], "complex": X + 1j, "wide": np.c_[X, X], "objects": X.astype(object),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    np.savez(folder / "many.npz", **{f"a{k}": X for k in range(3000)})
    rows = "\n".join(",".join(map(str, row)) for row in X)
    (folder / "one.csv").write_text(f"a,b,c,d\n{rows}\n")
    (folder / "other.csv").write_text(f"a,b,d,c\n{rows}\n")
    (folder / "text.csv").write_text("a,b\n1,x\n2,y\n")
    (folder / "torn.csv").write_text("a,b\n1,2\n3\n")
    (folder / "time.csv").write_text("time\n0\n1\n")
    (folder / "holes.csv").write_text("a,b\n1,2\n,1\n3,1\n")
    (folder / "back.csv").write_text("a,b\n" + "1,2\n2,1\n" * 30)
    (folder / "names.csv").write_text(",".join(f"cell {k}" for k in range(3000)) + "\n")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        *(f"{name}.npy" for name in ("holes", "clock", "constant", "few", "vector", "complex", "objects")),
        *(f"{name}.csv" for name in ("text", "torn", "time", "holes")),
        "many.npz", "many.npz --key b", "names.csv --key b", "one.csv other.csv", "good.npy wide.npy",
        "one.csv --key b,x",
        "good.npy --key a", "good.npy --size 8", "good.npy --seconds 0.1", "good.npy --lag 99",
        "good.npy --latent-dim 9",
        "good.npy --encoder conv", "good.npy --encoder x", "good.npy --prior x",
        "good.npy --prior cosine --latent-dim 1",
        "good.npy --dropout 2", "good.npy --batch-size 1", "good.npy --data-prime few.npy", "good.npy --window 0",
        "good.npy wide.npy --own-channels", "many.npz --key a1 --sessions many.npz",
        "many.npz --key a1 --nearest-key b",
        "good.npy --sessions holes.npy", "good.npy --sessions back.csv --sessions-key a", "good.npy --encoder temporal",
        "one.csv --nearest-key b --apart 900", "holes.npy --nearest-key x",
    ],
)  # fmt: skip
def test_advice_can_be_followed(words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["fit", *words.split(), "--out", "new", "--max-steps", "1", "--restarts", "1"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("recparam: ") and message.count("\n") == 1 and len(message) < 600
    assert {name.replace("-", "_") for name in re.findall(r"--([a-z][a-z-]*)", message)} <= options_of(fit)
    assert not re.search(r"\b[a-z_]+=|recparam\.|\brp\.|Recording\.of|numpy|\bmask\b", message)
    assert not (folder / "new").exists()


def test_notes_and_warnings_name_options(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    rows = "\n".join(f"{k // 10},{a},{b}" for k, (a, b) in enumerate(X[:, :2]))
    (folder / "trials.csv").write_text(f"trial,a,b\n{rows}\n")
    assert main(["fit", "trials.csv", "--out", "trials", "--max-steps", "2", "--restarts", "1"]) == 0
    printed = capsys.readouterr()
    assert "Column 'trial' numbers blocks of rows: it is left out. As --sessions it keeps pairs within" in printed.out
    assert not re.search(r"\b[a-z_]+=", printed.err)
