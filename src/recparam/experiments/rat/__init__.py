"""Priors of motion compared on a recorded series: held-out evidence and linear decoding (docs/rat.md)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from recparam.experiments.grid import Cell, run_grid
from recparam.experiments.outcome import Outcome
from recparam.experiments.rat.settings import Settings


def run_rat(
    settings: Settings,
    path: Path,
    *,
    counts: str,
    position: str,
    seeds: tuple[int, ...],
    out: Path,
    jobs: int | None,
    say: Callable[[str], None] = print,
) -> Outcome[Cell]:
    """Read the series, run the cells that the folder lacks, and draw the figure.

    Arguments and errors as of `read_series` and `run_grid`.
    """
    from recparam.experiments.rat.measure import conclude, measure_arm
    from recparam.experiments.rat.plot import draw_rat
    from recparam.experiments.rat.series import read_series

    series = read_series(path, settings, counts=counts, position=position)
    return run_grid(
        partial(measure_arm, settings, series),
        identity=settings.identity(series.checksum),
        arms=settings.arms(),
        seeds=seeds,
        out=out,
        conclude=conclude,
        draw=draw_rat,
        jobs=jobs,
        say=say,
    )
