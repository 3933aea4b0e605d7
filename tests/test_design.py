"""The page of the design says what is there, and the code keeps to what it says."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "recparam"
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
LONG: dict[str, str] = {
    "data/pairs.py": "one class and the ways to declare it",
    "ops/summaries.py": "one question each to P(m given a), all of one sweep",
}
"""Files of more than 400 lines, each with its reason; at most three."""


def test_the_page_is_short_and_names_every_folder() -> None:
    assert len(PAGE.splitlines()) <= 120
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))


def test_the_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", PAGE)
    assert len(named) > 15
    for name in named:
        assert any((base / name).exists() for base in (SOURCE, ROOT)), name


def test_no_file_has_outgrown_its_idea() -> None:
    sizes = {path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {name for name, lines in sizes.items() if lines > 400} == set(LONG)
    assert len(LONG) <= 3
