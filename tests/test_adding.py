"""Adding a coupling touches its own file, the `__init__` that exports it, the top-level names and a row of the table.

Whatever else would have to change with it names concrete couplings. Here are those files, each with its reason.
"""

import ast
from pathlib import Path

import pytest

import recparam
import recparam as rp
from recparam import couplings
from recparam.couplings import Coupling, Transition
from recparam.testing import COUPLINGS

SOURCE = Path(recparam.__file__).parent


def is_concrete(value: object) -> bool:
    kinds = (Coupling, Transition)
    return isinstance(value, type) and issubclass(value, kinds) and not getattr(value, "__abstractmethods__", None)


CONCRETE = {name: getattr(couplings, name) for name in couplings.__all__ if is_concrete(getattr(couplings, name))}

EXCEPTIONS = {
    "testing/shipped.py": (set(CONCRETE), "the table of what ships, one row for each coupling or more"),
    "testing/checks.py": ({"Bilinear", "GaussianRBF"}, "what other things are checked with"),
    "estimator/names.py": (
        {"After", "Bilinear", "ConstantVelocity", "Cosine", "Directions", "GaussianRBF", "LinearAR"},
        "priors that a word names; any other is given as an object",
    ),
    "priors/closed_forms.py": (
        {"Bilinear", "CouplingSum", "GaussianRBF", "Groups", "OnDimensions"},
        "couplings whose Gaussian integrals are known; of others the error says so",
    ),
    "bounds/groups.py": ({"Groups"}, "the ELBO of the groups of this one coupling"),
    "mutual_information/critics.py": ({"Bilinear"}, "a critic is a network of both sides and a dot product"),
}


def named(path: Path) -> set[str]:
    """The concrete couplings that a file's code names; texts and imports do not count."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return (names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}) & set(CONCRETE)


def test_only_the_exceptions_name_concrete_couplings() -> None:
    """Experiments are left out: they use the library as anyone does, and nothing imports them."""
    found = {path.relative_to(SOURCE).as_posix(): named(path) for path in SOURCE.rglob("*.py")}
    outside = {path: names for path, names in found.items() if not path.startswith(("couplings/", "experiments/"))}
    assert {path: names for path, names in outside.items() if names} == {
        path: names for path, (names, _) in EXCEPTIONS.items()
    }


@pytest.mark.parametrize("name", CONCRETE)
def test_an_exported_coupling_has_a_file_a_top_level_name_and_a_row(name: str) -> None:
    kind = CONCRETE[name]
    assert kind.__module__.startswith("recparam.couplings.")
    assert getattr(rp, name) is kind and name in dir(rp)
    built = [part for make in COUPLINGS.values() for part in make(3).modules()]
    assert any(type(part) is kind for part in built)


@pytest.mark.parametrize("path", sorted((SOURCE / "couplings").glob("*.py")), ids=lambda path: path.stem)
def test_every_concrete_coupling_is_exported(path: Path) -> None:
    """But for those that other couplings, or the chain, make for themselves."""
    classes = {node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)}
    module = __import__(f"recparam.couplings.{path.stem}", fromlist=["*"]) if path.stem != "__init__" else couplings
    concrete = {name for name in classes if is_concrete(getattr(module, name))}
    assert concrete - set(CONCRETE) == ({"FirstOrder"} if path.stem == "chains" else set())
