"""The commands that run experiments on a grid of arms and seeds: each parses, calls and prints."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recparam.experiments.grid import Outcome

INCOMPLETE = 1

EXPERIMENTS: dict[str, Callable[..., int]] = {}
"""By the name that follows `recparam experiments`."""


def print_outcome(outcome: "Outcome", columns: Mapping[str, str], *, title: str, digits: int = 3) -> int:
    """Print a table with a row for each arm, the files and the failures.

    Args:
        outcome: Of the experiment.
        columns: Headings of the numbers to print, by their names in the results.
        title: Of the table.
        digits: After the point.

    Returns:
        The exit code: 0, or 1 if a run failed.
    """
    from rich.console import Console
    from rich.table import Table

    from recparam.experiments.grid import interval_text

    console = Console()
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for arm, numbers in outcome.results["summary"].items():
        table.add_row(arm, *_cells(numbers, list(columns), digits, interval_text))
    if outcome.results["arms"]:
        console.print(table)
    for path in outcome.files:
        console.print(str(path), highlight=False, soft_wrap=True)
    for cell, message in outcome.failed.items():
        console.print(f"failed: {cell}: {message}", highlight=False, markup=False, soft_wrap=True)
    return INCOMPLETE if outcome.failed else 0


def _cells(
    numbers: Mapping[str, Mapping[str, float | None]],
    names: Sequence[str],
    digits: int,
    text: Callable[[Sequence[float | None], int], str],
) -> list[str]:
    return [text(list(numbers[name].values()), digits) if name in numbers else "-" for name in names]
