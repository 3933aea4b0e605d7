"""Experiments that are a grid of arms and seeds: a cell is measured once, kept as a file, and averaged over seeds."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recparam.evaluation import Interval, mean_interval
from recparam.experiments.folder import prepare_folder
from recparam.experiments.outcome import Outcome
from recparam.experiments.processes import check_jobs, measure_cells, missing, tell
from recparam.plots.style import save_figure, style
from recparam.utils.storage import write_json
from recparam.utils.versions import versions

FORMAT = 1

Numbers = dict[str, Any]
"""What is measured in a cell, by name, as JSON."""


@dataclass(frozen=True)
class Cell:
    """One arm with one seed."""

    arm: str
    seed: int

    @property
    def file(self) -> str:
        """Its file, relative to the output folder."""
        return f"runs/{self.arm}/seed{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.arm} seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """What is measured in each cell of a grid, and what is made of all of them.

    Args:
        measure: Gives the numbers of an arm and a seed; picklable, as a function of a module or a partial of one.
        identity: All that decides the numbers, but for arms and seeds, as JSON; `experiment` is the name, and that of
            the figure's files.
        arms: Names, which may hold a slash.
        conclude: Gives what is to be said of all cells together, to be put in the results.
        draw: Draws the results.
    """

    measure: Callable[[str, int], Numbers]
    identity: Mapping[str, Any]
    arms: Sequence[str]
    conclude: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    draw: Callable[[dict[str, Any]], Figure] | None = None


def run_grid(
    experiment: Experiment,
    *,
    seeds: Sequence[int],
    out: Path,
    jobs: int | None = None,
    say: Callable[[str], None] = tell,
) -> Outcome[Cell]:
    """Measure the cells that a folder lacks, then write `results.json` and draw the figure.

    A cell ends with a file of its own. An interrupted run resumes when the command is repeated.

    Args:
        experiment: What to run.
        seeds: Of the cells.
        out: Output folder.
        jobs: Processes, each with one thread; None: one per core; 0 or 1: none but this.
        say: Takes a line for people.

    Returns:
        The results, the files, and the cells that failed.

    Raises:
        ValueError: A folder that holds something else, or a negative number of processes; nothing was written.
        KeyboardInterrupt: On Ctrl-C, after the processes have ended.
        RuntimeError: An unexpected exception in a cell.
    """
    check_jobs(jobs)
    prepare_folder(experiment.identity, out)
    begin = time.perf_counter()
    cells = [Cell(arm, seed) for seed in seeds for arm in experiment.arms]
    cells = missing(cells, partial(finished, out=out), out, say)
    failed = measure_cells(partial(_measure, experiment.measure, out), cells, jobs=jobs, say=say)
    results = _collect(experiment, out, failed, seconds=time.perf_counter() - begin)
    if experiment.conclude is not None and results["arms"]:
        results |= experiment.conclude(results)
    write_json(out / "results.json", results)
    files = [out / "results.json"]
    if experiment.draw is not None and results["arms"]:
        with style():
            files += save_figure(experiment.draw(results), out / experiment.identity["experiment"])
    return Outcome(results, files, failed)


def finished(cell: Cell, out: Path) -> Numbers | None:
    """The numbers of a cell that is complete, else None."""
    try:
        found = json.loads((out / cell.file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and (found.get("arm"), found.get("seed")) == (cell.arm, cell.seed) else None


def summarise(runs: Sequence[Numbers]) -> dict[str, dict[str, Interval]]:
    """The mean over seeds of each number of each arm, with its interval; by arm, then name."""
    summary: dict[str, dict[str, Interval]] = {}
    for arm in dict.fromkeys(run["arm"] for run in runs):
        group = [run for run in runs if run["arm"] == arm]
        names = [name for name, value in group[0].items() if isinstance(value, int | float) and name != "seed"]
        summary[arm] = {name: mean_interval([float(run[name]) for run in group]) for name in names}
    return summary


def _measure(measure: Callable[[str, int], Numbers], out: Path, cell: Cell) -> str:
    """Measure one cell, write its file and say how long it took."""
    begin = time.process_time()
    numbers = measure(cell.arm, cell.seed)
    seconds = round(time.process_time() - begin, 1)
    write_json(out / cell.file, {"arm": cell.arm, "seed": cell.seed, **numbers, "cpu_seconds": seconds})
    return f"{seconds:.0f} s"


def _collect(experiment: Experiment, out: Path, failed: Mapping[Cell, str], *, seconds: float) -> dict[str, Any]:
    """The content of `results.json`: the cells of earlier commands included."""
    runs: list[Numbers] = []
    for path in sorted((out / "runs").rglob("seed*.json")):
        seed = path.stem.removeprefix("seed")
        cell = Cell(path.parent.relative_to(out / "runs").as_posix(), int(seed) if seed.isdigit() else -1)
        found = finished(cell, out)
        if found is not None:
            runs.append(found)
    order = {arm: place for place, arm in enumerate(experiment.arms)}
    runs.sort(key=lambda run: (order.get(run["arm"], len(order)), run["arm"], run["seed"]))
    summary = summarise(runs)
    return {
        "format": FORMAT,
        "settings": dict(experiment.identity),
        "arms": list(summary),
        "seeds": sorted({run["seed"] for run in runs}),
        "seconds": round(seconds, 1),
        "versions": versions(),
        "runs": runs,
        "failed": [{"arm": cell.arm, "seed": cell.seed, "message": text} for cell, text in failed.items()],
        "summary": {arm: {name: value._asdict() for name, value in each.items()} for arm, each in summary.items()},
    }
