"""The Python of the README and of the theory page runs as printed."""

import doctest
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
THEORY = README.parent / "docs" / "theory.md"


def test_the_readme_s_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(compile(block, str(README), "exec"), names)
        bound, net = names["bound"], names["net"]
        assert str(bound).startswith("ELBO - const ~")
        assert all(parameter.grad is not None for parameter in net.parameters())  # type: ignore[attr-defined]


def test_the_theory_s_examples_give_what_they_print() -> None:
    failed, tried = doctest.testfile(str(THEORY), module_relative=False)
    assert tried and not failed
