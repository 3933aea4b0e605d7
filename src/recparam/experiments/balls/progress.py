"""What the experiment prints while it runs: bars on a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from recparam.experiments.balls.settings import TRAINED_ARMS, Run, Settings

PLAIN_EVERY = 10
"""Without a terminal, every so many epochs of a run are worth a line."""


def duration(seconds: float) -> str:
    """Write a duration for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def describe(run: Run, content: dict[str, Any]) -> str:
    """Write the state of a training run in one phrase: the bound and its ceiling, or the supervised loss."""
    bound, ceiling = content["bound_nats"], content["ceiling_nats"]
    if run.arm == "supervised":
        return f"squared error {-bound:.2f} px^2"
    return f"bound {bound:.3f} nats" + ("" if ceiling is None else f", ceiling {ceiling:.3f}")


class Progress:
    """Show one line per active run.

    Args:
        console: where to print.
        settings: of the experiment.
        runs: all runs; messages refer to them by index.
    """

    def __init__(self, console: Console, settings: Settings, runs: list[Run]) -> None:
        self.console = console
        self.settings = settings
        self.runs = runs
        self.width = max(len(str(run)) for run in runs)
        self.tasks: dict[int, TaskID] = {}
        self.last: dict[int, str] = {}
        self.live = (
            RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("epochs"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[state]}"),
                console=console,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Progress":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, kind: str, index: int, content: Any) -> None:
        """Show one message of a run: "start", "progress", "done", "failed" or "crashed"."""
        run = self.runs[index]
        if kind == "progress":
            self.last[index] = describe(run, content)
            self._advance(index, run, content["epoch"])
        elif kind == "start":
            if self.live is not None and run.arm in TRAINED_ARMS:
                title = f"{run!s:<{self.width}}"
                self.tasks[index] = self.live.add_task(title, total=self.settings.epochs_of(run.arm), state="")
        else:
            self._end(index, run, kind, content)

    def _advance(self, index: int, run: Run, epoch: int) -> None:
        epochs = self.settings.epochs_of(run.arm)
        if self.live is not None:
            if index in self.tasks:
                self.live.update(self.tasks[index], completed=epoch, state=self.last[index])
        elif epoch == 1 or epoch % PLAIN_EVERY == 0 or epoch == epochs:
            self._print(f"{run!s:<{self.width}}  epoch {epoch:>3} of {epochs}  {self.last[index]}")

    def _end(self, index: int, run: Run, kind: str, content: Any) -> None:
        if index in self.tasks and self.live is not None:
            self.live.remove_task(self.tasks.pop(index))
        if kind == "done":
            self._print(f"{run!s:<{self.width}}  done  {self.last.get(index, '')}".rstrip())
        else:
            self._print(f"{run!s:<{self.width}}  failed: {content}")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
