"""Runs compared by their evidence on the same pairs, and the folder of a comparison."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recparam.comparison import Comparison
from recparam.comparison.compare import compare_estimators
from recparam.data.pairs import Pairs
from recparam.runs.folder import Run, check_free
from recparam.utils.storage import replacing_folder, write_json

FACTS = "comparison.json"
_TABLES = ("models", "differences")


def names_of(folders: Sequence[Path]) -> list[str]:
    """What runs are called: the names of their folders, or their whole paths where two have one name.

    Raises:
        ValueError: Fewer than two runs, or one of them twice.
    """
    if len(folders) < 2:
        raise ValueError(f"Expected at least two runs to compare; got {len(folders)}. For one, use recparam score.")
    places = [folder.absolute().resolve() for folder in folders]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise ValueError(f"Expected different runs; got {folders[index]} twice.")
    short = [place.name for place in places]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def compare_runs(names: Sequence[str], runs: Sequence[Run], pairs: Sequence[Pairs]) -> Comparison:
    """Compare runs on the same pairs, as each of them reads them."""
    return compare_estimators(
        {name: run.estimator for name, run in zip(names, runs, strict=True)}, dict(zip(names, pairs, strict=True))
    )


def check_comparison(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder for a comparison that holds something else, before any work; see `check_free`."""
    check_free(out, holds=FACTS, what="a comparison", overwrite=overwrite)


def write_comparison(out: Path, found: Comparison, facts: Mapping[str, Any]) -> list[str]:
    """Write a folder, whole or not at all: comparison.json, models.csv, differences.csv and the figure as PNG and PDF.

    Args:
        out: The folder; one that is there is replaced.
        found: The comparison.
        facts: What comparison.json says.

    Returns:
        Names of the files.
    """
    with replacing_folder(out) as folder:
        write_json(folder / FACTS, facts)
        for table in _TABLES:
            rows: list[dict[str, Any]] = found.facts()[table]
            with (folder / f"{table}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        figure = found.figure()
        for suffix in ("png", "pdf"):
            figure.savefig(folder / f"comparison.{suffix}", dpi=150)
    return [FACTS, *(f"{table}.csv" for table in _TABLES), "comparison.png", "comparison.pdf"]
