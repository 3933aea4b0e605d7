"""The Python of the README and of the pages with examples runs as printed."""

import doctest
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"


def test_the_readme_s_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(compile(block, str(README), "exec"), names)
        bound, net = names["bound"], names["net"]
        assert str(bound).startswith("ELBO - const ~")
        assert all(parameter.grad is not None for parameter in net.parameters())  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", ["theory.md", "matching.md", "data.md"])
def test_the_examples_of_a_page_give_what_they_print(page: str) -> None:
    failed, tried = doctest.testfile(str(DOCS / page), module_relative=False)
    assert tried and not failed


def test_the_python_of_the_page_on_mutual_information_runs() -> None:
    page = (DOCS / "mutual-information.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "mutual-information.md", "exec"), names)
    assert abs(float(names["mi"].estimate) - 0.511) < 0.15  # type: ignore[attr-defined]
