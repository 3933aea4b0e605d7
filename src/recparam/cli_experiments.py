"""The commands that run experiments on a grid of arms and seeds: each parses, calls and prints."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from recparam.experiments.outcome import Outcome

INCOMPLETE = 1

EXPERIMENTS: dict[str, Callable[..., int]] = {}
"""By the name that follows `recparam experiments`."""


def print_outcome(outcome: "Outcome[Any]", columns: Mapping[str, str], *, title: str, digits: int = 3) -> int:
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

    from recparam.evaluation import interval_text

    console = Console()
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for arm, numbers in outcome.results["summary"].items():
        cells = [interval_text(*numbers[name].values(), digits=digits) if name in numbers else "-" for name in columns]
        table.add_row(arm, *cells)
    if outcome.results["arms"]:
        console.print(table)
    return print_end(console, outcome)


def print_end(console: "Console", outcome: "Outcome[Any]") -> int:
    """Print the files and the failures, and return the exit code: 0, or 1 if a run failed."""
    for path in outcome.files:
        console.print(str(path), highlight=False, soft_wrap=True)
    for run, message in outcome.failed.items():
        console.print(f"failed: {run}: {message}", highlight=False, markup=False, soft_wrap=True)
    return INCOMPLETE if outcome.failed else 0
