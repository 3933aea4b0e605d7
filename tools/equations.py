"""Index of the paper's equations: each has one home, a docstring line `Equation: n` under src/recparam.

`python tools/equations.py` checks, and exits with 1 and a list of what is wrong;
`python tools/equations.py --write` rewrites docs/equations.md first.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TITLES = {
    1: "evidence lower bound of a latent-variable model",
    2: "the same bound as reconstruction minus KL divergence",
    3: "joint of the recognition model: encoders times the base distribution",
    4: "recognition joint over latents, R(z, z')",
    5: "mutual information between the latents",
    6: "finite-sample InfoNCE and its constant",
    7: "finite-sample and infinite-sample InfoNCE lie below the mutual information",
    8: "bilinear coupling",
    9: "generative joint of the RPM",
    10: "likelihood by Bayes' rule from the recognition model",
    11: "recognition marginals, R(z) and R(z')",
    12: "ELBO with a free approximate posterior",
    13: "the constant: log-density of the base distribution",
    14: "approximate posterior equal to the recognition model",
    15: "ELBO with that posterior",
    16: "the same ELBO as the mean log-ratio",
    17: "ELBO split by adding and subtracting log R(z, z')",
    18: "ELBO = constant + mutual information - KL divergence",
    19: "optimal prior, P(z, z') = R(z, z')",
    20: "ELBO under the optimal prior: constant + mutual information",
    21: "InfoNCE prior: marginal of the first latent, energy-based conditional of the next",
    22: "normaliser of the InfoNCE prior",
    23: "ELBO under the InfoNCE prior",
    24: "the same ELBO with the normaliser written out: infinite-sample InfoNCE",
    25: "the ELBO and infinite-sample InfoNCE differ by a constant, and lie below the MI",
    26: "density of the next latent, R(z') f(z, z') / Z(z)",
    27: "Gaussian RBF coupling",
    28: "empirical base distribution",
    29: "recognition marginals under the empirical base",
    30: "likelihood of a pair as an integral over latents",
    31: "the same as base distributions times F(x, x')",
    32: "the expected ratio F(x, x')",
    33: "likelihood of a pair under the empirical base",
    34: "matching probabilities P_ij",
    35: "recognition marginals under the true base",
    36: "the same marginals as expectations",
    37: "their estimates from samples",
    38: "deterministic recognition model of the first observation",
    39: "deterministic recognition model of the second observation",
    40: "KL divergence between measures",
    41: "density of one measure with respect to another",
    42: "what that density means",
    43: "KL divergence between recognition joint and product of its marginals",
    44: "absolute continuity of the recognition joint",
    45: "KL divergence between recognition joint and prior",
    46: "epsilon-Gaussian recognition model of the first observation",
    47: "epsilon-Gaussian recognition model of the second observation",
    48: "log-likelihood of a pair as an integral over latents",
    49: "the same with the likelihood written by Bayes' rule",
    50: "log-likelihood as an expectation under the recognition model",
    51: "log-likelihood with deterministic encoders",
}

# Equations whose home is docs/theory.md, and those that the library does not compute yet.
PROSE = frozenset({1, 2, 40, 41, 42, 43, 44, 45, 48, 49})
NOT_YET = frozenset({9, 10, 12})
REQUIRED = frozenset(TITLES) - PROSE - NOT_YET

_LINE = re.compile(r"^\s*Equation:(?P<numbers>.*)$", re.MULTILINE)
_ITEM = re.compile(r"(\d+)[a-z]?(?:\s*-\s*(\d+)[a-z]?)?")
_CITATION = re.compile(r"\bEqs?\.\s+((?:\d+[a-z]?(?:\s*(?:-|–|,|and)\s*)?)+)")

Homes = dict[int, list[str]]
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parse_numbers(text: str) -> list[int]:
    """Turn `21a, 21b, 22` or `15-16` into equation numbers, without repeats.

    Raises:
        ValueError: `text` is not a list of numbers and ranges, or a number is not in the paper.
    """
    numbers: list[int] = []
    for item in text.strip().removesuffix(".").split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise ValueError(
                f"'Equation:' expects numbers such as '21a, 21b, 22' or '15-16'; got {text.strip()!r}. "
                "Put other words on lines of their own."
            )
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"'Equation:' expects rising ranges; got {item.strip()!r}.")
        numbers.extend(range(first, last + 1))
    unknown = sorted(set(numbers) - set(TITLES))
    if unknown:
        raise ValueError(f"'Equation:' names {unknown}, but the paper's equations are 1 to {max(TITLES)}.")
    return list(dict.fromkeys(numbers))


def docstrings(source: Path) -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the docstring of every module, class and function below `source`.

    Args:
        source: folder of the package, whose name is the first part of every dotted name.
    """
    for path in sorted(source.rglob("*.py")):
        parts = (source.name, *path.relative_to(source).with_suffix("").parts)
        module = ".".join(part for part in parts if part != "__init__")
        yield from _walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)), module)


def _walk(node: _Documented, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text is not None:
        yield name, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}")


def find_homes(source: Path) -> Homes:
    """Map each equation number to the dotted names of the docstrings that claim it.

    Raises:
        ValueError: a line `Equation: ...` cannot be read; the text says whose.
    """
    homes: Homes = {}
    for name, text in docstrings(source):
        claimed: list[int] = []
        for line in _LINE.finditer(text):
            try:
                claimed.extend(parse_numbers(line["numbers"]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        for number in dict.fromkeys(claimed):
            homes.setdefault(number, []).append(name)
    return homes


def cited(text: str) -> set[int]:
    """Return the equations that a page names as `Eq. 1`, `Eqs. 40-45` or `Eqs. 48 and 49`."""
    numbers: set[int] = set()
    for citation in _CITATION.finditer(text):
        for item in _ITEM.finditer(citation[1].replace("–", "-")):
            first = int(item[1])
            numbers.update(range(first, int(item[2] or first) + 1))
    return numbers


def problems(homes: Homes, theory: str) -> list[str]:
    """List what is wrong with the index, one sentence each; an empty list means nothing.

    Args:
        homes: result of `find_homes`.
        theory: text of docs/theory.md.
    """
    found: list[str] = []
    for number in sorted(REQUIRED - set(homes)):
        found.append(f"Eq. {number} ({TITLES[number]}) has no home: add 'Equation: {number}' to a docstring.")
    for number, names in sorted(homes.items()):
        if len(names) > 1:
            found.append(
                f"Eq. {number} has {len(names)} homes ({', '.join(names)}): "
                f"keep one, elsewhere write 'See also: Eq. {number}'."
            )
        if number in PROSE:
            found.append(
                f"Eq. {number} has its home in docs/theory.md, but {names[0]} claims it: "
                f"write 'See also: Eq. {number}'."
            )
    for number in sorted(PROSE - cited(theory)):
        found.append(f"Eq. {number} ({TITLES[number]}) is not named in docs/theory.md, its home.")
    return found


def render(homes: Homes) -> str:
    """Render docs/equations.md."""
    lines = [
        "# Where each equation lives",
        "",
        "Written by `make equations` from the docstrings; the tests fail when it is out of date.",
        "",
        "| equation | what it says | home |",
        "|---|---|---|",
    ]
    for number, title in TITLES.items():
        if number in homes:
            home = ", ".join(f"`{name}`" for name in homes[number])
        elif number in PROSE:
            home = "[theory.md](theory.md)"
        elif number in NOT_YET:
            home = "not yet in the library"
        else:
            home = "**missing**"
        lines.append(f"| {number} | {title} | {home} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Check the index, after rewriting the page if asked to; return the exit status."""
    parser = argparse.ArgumentParser(description="Index of the paper's equations.")
    parser.add_argument("--write", action="store_true", help="rewrite docs/equations.md")
    options = parser.parse_args(arguments)
    page, theory = ROOT / "docs" / "equations.md", ROOT / "docs" / "theory.md"
    homes = find_homes(ROOT / "src" / "recparam")
    if options.write:
        page.write_text(render(homes), encoding="utf-8")
    found = problems(homes, theory.read_text(encoding="utf-8") if theory.exists() else "")
    if not page.exists() or page.read_text(encoding="utf-8") != render(homes):
        found.append("docs/equations.md is out of date: run `make equations`.")
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
