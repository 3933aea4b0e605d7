"""Cells of an experiment measured in parallel processes of one thread each, by joblib."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from recparam.training import TrainingDiverged
from recparam.utils.checks import NonFiniteError

Cell = TypeVar("Cell")
Ended = tuple[Cell, bool, str]
"""A cell, whether it was measured, and a phrase for people: the numbers in short, or why it failed."""

tell: Callable[[str], None] = partial(print, flush=True)
"""Print a line at once: lines of several processes share one output."""


def missing(
    cells: Sequence[Cell], finished: Callable[[Cell], object], out: Path, say: Callable[[str], None]
) -> list[Cell]:
    """Return the cells that a folder has no finished file of, and say how many it has."""
    found = [cell for cell in cells if finished(cell) is None]
    if len(found) < len(cells):
        say(f"{len(cells) - len(found)} of {len(cells)} runs are finished in {out} and are kept.")
    return found


def measure_cells(
    measure: Callable[[Cell], str], cells: Sequence[Cell], *, jobs: int | None, say: Callable[[str], None]
) -> dict[Cell, str]:
    """Measure cells, each with one thread; one that fails does not stop the others.

    Args:
        measure: Measures a cell, writes its files whole or not at all, and returns a phrase for people; picklable.
        cells: Hashable; longest first, so that the processes finish together.
        jobs: Parallel processes; None: one per core; 0 or 1: none but this one.
        say: Takes a line for people as each cell ends.

    Returns:
        Why cells failed, by cell.

    Raises:
        RuntimeError: An exception in a cell other than of diverged training and of files.
        KeyboardInterrupt: On Ctrl-C; the processes have ended.
    """
    jobs = min(os.cpu_count() or 1 if jobs is None else jobs, len(cells))
    failed: dict[Cell, str] = {}
    for cell, done, text in _in_processes(measure, cells, jobs) if jobs > 1 else _in_this_process(measure, cells):
        if not done:
            failed[cell] = text
        say(f"{cell}: {'done, ' if done else 'failed: '}{text}")
    return failed


def check_jobs(jobs: int | None) -> None:
    """Refuse a negative number of processes.

    Raises:
        ValueError: It is one.
    """
    if jobs is not None and jobs < 0:
        raise ValueError(
            f"jobs must be at least 1 (or 0 for this process alone); got {jobs}. It is a number of processes."
        )


def _in_this_process(measure: Callable[[Cell], str], cells: Iterable[Cell]) -> Iterator[Ended[Cell]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from (_attempt(measure, cell) for cell in cells)
    finally:
        torch.set_num_threads(threads)


def _in_processes(measure: Callable[[Cell], str], cells: Sequence[Cell], jobs: int) -> Iterator[Ended[Cell]]:
    waiting = list(cells)
    while waiting:
        # Cells are handed out one at a time and in order. Memory-mapped arguments would be read-only.
        parallel = cast(Any, Parallel)(  # which has no types
            jobs, return_as="generator_unordered", batch_size=1, max_nbytes=None, initializer=_begin_process
        )
        try:
            for ended in parallel(delayed(_attempt)(measure, cell) for cell in waiting):
                waiting.remove(ended[0])
                yield ended
        except TerminatedWorkerError:
            # joblib ends all processes where one was killed, so that the cells being measured are lost, and no others.
            for cell in waiting[:jobs]:
                yield cell, False, "a process was killed; is memory short? Repeat the command, with fewer --jobs."
            waiting = waiting[jobs:]


def _attempt(measure: Callable[[Cell], str], cell: Cell) -> Ended[Cell]:
    try:
        return cell, True, measure(cell)
    except (TrainingDiverged, NonFiniteError) as error:
        return cell, False, str(error)
    except OSError as error:
        return cell, False, f"could not be written or read: {error}. Free space or fix access, run again."
    except Exception as error:
        raise RuntimeError(f"{cell} stopped on an unexpected error.") from error


def _begin_process() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """End this process when its parent was killed, which joblib leaves to the end of a cell: hours of training."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # files are written whole or not at all
