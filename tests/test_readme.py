"""The Python and the commands of the README, and the pages with examples, run as printed."""

import doctest
import inspect
import re
import shlex
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recparam as rp
from recparam.cli import app as cli
from recparam.cli import main
from recparam.cli.experiments import EXPERIMENTS
from recparam.training.lightning.isolation import isolated

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"


def blocks_of(heading: str, kind: str = "python") -> list[str]:
    """Return the fenced blocks of one kind in a section of the README."""
    text = README.read_text(encoding="utf-8")
    section = re.split(rf"^## {heading}$", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    fences = re.findall(r"```(\w*)\n(.*?)```", section, flags=re.DOTALL)
    found = [block for label, block in fences if label == kind]
    assert found
    return found


def test_the_readme_s_python_runs() -> None:
    for block in blocks_of("In Python"):
        names: dict[str, object] = {}
        exec(compile(block, str(README), "exec"), names)
        bound, net = names["bound"], names["net"]
        assert str(bound).startswith("ELBO - const ~")
        assert all(parameter.grad is not None for parameter in net.parameters())  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::recparam.estimator.FitWarning")  # of so few rows and steps
def test_the_readme_s_lines_on_one_s_own_data_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    place = np.sin(np.cumsum(0.2 * rng.normal(size=(300, 2)), axis=0))
    np.save(tmp_path / "recording.npy", np.tanh(place @ rng.normal(size=(2, 8))))
    monkeypatch.chdir(tmp_path)
    # As printed, save for how long it trains.
    monkeypatch.setattr(rp, "RPMEstimator", partial(rp.RPMEstimator, max_steps=60, random_state=0))
    names: dict[str, Any] = {}
    for block in blocks_of("Your own data"):
        exec(compile(block, str(README), "exec"), names)
    assert names["z"].shape == (300, 2) and np.isfinite(names["z"]).all()
    for line in "".join(blocks_of("Your own data", "")).splitlines():
        program, *words = shlex.split(line)
        assert program == "recparam"
        assert main([*words, "--max-steps", "20"] if words[0] == "fit" else words) == 0
    assert np.genfromtxt("latents.csv", delimiter=",", names=True).dtype.names == ("session", "row", "z1", "z2")
    assert Path("run/report.html").is_file()


def test_the_examples_of_the_page_on_training_give_what_they_print() -> None:
    with isolated():  # Lightning's own warnings
        failed, tried = doctest.testfile(str(DOCS / "training.md"), module_relative=False)
    assert tried and not failed


EXAMPLES = ["theory", "priors", "matching", "data", "estimator", "coming-from", "comparing", "losses"]


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_give_what_they_print(page: str) -> None:
    failed, tried = doctest.testfile(str(DOCS / f"{page}.md"), module_relative=False)
    assert tried and not failed


def test_the_python_of_the_page_on_mutual_information_runs() -> None:
    page = (DOCS / "mutual-information.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "mutual-information.md", "exec"), names)
    assert abs(float(names["mi"].estimate) - 0.511) < 0.15  # type: ignore[attr-defined]


def commands_of(text: str) -> list[list[str]]:
    """The words of each command, in lines of code, indented or fenced, and in lines of a list of examples."""
    lines = re.findall(rf"^(?: *|- )recparam ((?:{'|'.join(COMMANDS)}) .+)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


COMMANDS = ("fit", "dims", "transform", "score", "compare", "report", "balls")
PAGES = [README, *sorted(DOCS.glob("*.md"))]


def test_every_command_of_the_pages_and_of_the_help_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("data: recording.npy")  # --config is read when words are parsed
    parsed: list[str] = []
    helped = [inspect.getdoc(getattr(cli, name)) or "" for name in COMMANDS]
    for name in COMMANDS:

        def stub(*_: Any, _name: str = name, **__: Any) -> int:
            parsed.append(_name)
            return 0

        monkeypatch.setattr(cli, name, wraps(getattr(cli, name))(stub))
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    inline = [words.split() for text in texts for words in re.findall(r"`\S*recparam ((?:fit|balls) [^`]+)`", text)]
    found = [words for text in [*texts, *helped] for words in commands_of(text)]
    found += [words for words in inline if not any(word.isupper() or "..." in word for word in words)]
    assert len(found) > 25
    for words in found:
        assert main(words) == 0
    assert parsed == [words[0] for words in found]


def test_every_experiment_of_the_pages_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    for name, command in EXPERIMENTS.items():

        def stub(*_: Any, _name: str = name, **__: Any) -> int:
            parsed.append(_name)
            return 0

        monkeypatch.setitem(EXPERIMENTS, name, wraps(command)(stub))
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    lines = [line for text in texts for line in re.findall(r"^ *recparam experiments (.+)$", text, flags=re.MULTILINE)]
    found = [shlex.split(line) for line in lines]
    assert found and all(main(["experiments", *words]) == 0 for words in found)
    assert parsed == [words[0] for words in found]


def test_the_commands_of_the_page_on_the_command_line_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    place = np.sin(np.cumsum(0.2 * rng.normal(size=(300, 2)), axis=0))
    seen = np.tanh(place @ rng.normal(size=(2, 8))) + 0.05 * rng.normal(size=(300, 8))
    monkeypatch.chdir(tmp_path)
    for name, rows in (("recording", seen), ("another", seen[::-1]), ("neurons", seen), ("pose", place)):
        np.save(f"{name}.npy", rows)
    np.savez("monday.npz", counts=seen[:150], position=place[:150])
    np.savez("tuesday.npz", counts=seen[150:, :6], position=place[150:])
    header = ",".join([*"abcdefgh", "trial"])
    np.savetxt("trials.csv", np.c_[seen, np.arange(300) // 100], delimiter=",", header=header, comments="")
    table = np.c_[0.1 * np.arange(300), seen]
    np.savetxt("timed.csv", table, delimiter=",", header=",".join(["t", *"abcdefgh"]), comments="")
    np.save("trials.npy", seen.reshape(10, 30, 8))
    np.savez("spikes.npz", **{name: rng.uniform(0, 20, 500) for name in "abcde"})
    np.savetxt("behaviour.csv", place, delimiter=",", header="x,y", comments="")
    found = commands_of((DOCS / "command-line.md").read_text(encoding="utf-8"))
    run = [words for words in found if "--resume" not in words]  # of which tests of their own interrupt a fit
    assert len(run) >= 8
    for words in run:
        with monkeypatch.context() as patch:
            if words[0] == "fit":  # pages are written by the report command, once
                patch.setattr("recparam.runs.folder.write_run_report", lambda path, **_: path)
            quick = ["--max-steps", "10", "--restarts", "1"] if words[0] in ("fit", "dims") else []
            assert main([*words, *quick]) == 0
    assert Path("run/report.html").is_file()
    with np.load("latents.npz") as file:
        assert file["z"].shape == file["z_prime"].shape == (300, 2)
