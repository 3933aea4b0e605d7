"""The Python and the commands of the README, and the pages with examples, run as printed."""

import doctest
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recparam as rp
from recparam.cli import main
from recparam.training.surroundings import undisturbed

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
    assert np.genfromtxt("latents.csv", delimiter=",", names=True).dtype.names == ("session", "z1", "z2")
    assert Path("run/report.html").is_file()


def test_the_examples_of_the_page_on_training_give_what_they_print() -> None:
    with undisturbed():  # Lightning's own warnings
        failed, tried = doctest.testfile(str(DOCS / "training.md"), module_relative=False)
    assert tried and not failed


@pytest.mark.parametrize("page", ["theory.md", "priors.md", "matching.md", "data.md", "estimator.md", "coming-from.md"])
def test_the_examples_of_a_page_give_what_they_print(page: str) -> None:
    failed, tried = doctest.testfile(str(DOCS / page), module_relative=False)
    assert tried and not failed


def test_the_python_of_the_page_on_mutual_information_runs() -> None:
    page = (DOCS / "mutual-information.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "mutual-information.md", "exec"), names)
    assert abs(float(names["mi"].estimate) - 0.511) < 0.15  # type: ignore[attr-defined]
