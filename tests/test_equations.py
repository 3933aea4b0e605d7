"""Every equation of the paper has one home, and the index page says where."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("equations", ROOT / "tools" / "equations.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


equations = load_tool()


def write_package(folder: Path, docstring: str) -> Path:
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text(f'class Thing:\n    """{docstring}"""\n')
    return package


def every_required_home() -> dict[int, list[str]]:
    return {number: ["recparam.somewhere"] for number in equations.REQUIRED}


THEORY = "Eqs. 1 and 2 open it; Eqs. 40-45 are measure theory; Eqs. 48, 49 follow."


def test_each_equation_has_one_home() -> None:
    theory = ROOT / "docs" / "theory.md"
    found = equations.problems(
        equations.find_homes(ROOT / "src" / "recparam"), theory.read_text() if theory.exists() else ""
    )
    assert not found, "\n".join(found)


def test_index_page_is_up_to_date() -> None:
    page = ROOT / "docs" / "equations.md"
    assert page.read_text() == equations.render(equations.find_homes(ROOT / "src" / "recparam")), (
        "docs/equations.md is out of date: run `make equations`."
    )


def test_groups_cover_the_paper_without_overlap() -> None:
    groups = [equations.REQUIRED, equations.PROSE, equations.NOT_YET]
    assert sorted(number for group in groups for number in group) == list(range(1, 52))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [(" 27", [27]), ("21a, 21b, 22", [21, 22]), ("15-16", [15, 16]), ("3, 38-39.", [3, 38, 39])],
)
def test_parse_numbers(text: str, numbers: list[int]) -> None:
    assert equations.parse_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "words"), [("27 (RBF)", "got '27 \\(RBF\\)'"), ("", "got ''"), ("52", "52"), ("16-15", "rising")]
)
def test_unreadable_lines_are_errors(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        equations.parse_numbers(text)


def test_homes_are_dotted_names(tmp_path: Path) -> None:
    package = write_package(tmp_path, "A thing.\n\n    Equation: 21a, 21b\n    ")
    assert equations.find_homes(package) == {21: ["package.module.Thing"]}


def test_unreadable_line_names_its_docstring(tmp_path: Path) -> None:
    package = write_package(tmp_path, "A thing.\n\n    Equation: the third\n    ")
    with pytest.raises(ValueError, match="package.module.Thing"):
        equations.find_homes(package)


def test_complete_index_has_no_problem() -> None:
    assert equations.problems(every_required_home(), THEORY) == []


def test_missing_home_is_reported() -> None:
    homes = every_required_home()
    del homes[27]
    (problem,) = equations.problems(homes, THEORY)
    assert "Eq. 27" in problem and "no home" in problem


def test_second_home_is_reported() -> None:
    homes = {**every_required_home(), 8: ["recparam.a", "recparam.b"]}
    (problem,) = equations.problems(homes, THEORY)
    assert "recparam.a, recparam.b" in problem


def test_prose_has_its_home_in_the_theory_page() -> None:
    (unnamed,) = equations.problems(every_required_home(), THEORY.replace("40-45", "40-44"))
    assert "Eq. 45" in unnamed
    (claimed,) = equations.problems({**every_required_home(), 40: ["recparam.a"]}, THEORY)
    assert "recparam.a" in claimed
