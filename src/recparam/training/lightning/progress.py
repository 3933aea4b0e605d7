"""One line on a terminal that says how far the training is."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from recparam.training.lightning.module import RPMModule

_EVERY = 0.2  # seconds; reading the bound waits for the device, so not at every step


@contextlib.contextmanager
def progress_line(module: RPMModule, *, steps: int, shown: bool) -> Iterator[list[Callback]]:
    """Hand out the callback that draws the line on standard error, or none where there is no terminal.

    Args:
        module: what is trained.
        steps: the number of steps of the whole run.
        shown: whether a line is wanted at all.

    Returns:
        A context manager that gives the callbacks for a `Trainer`.
    """
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield []
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    # Without a thread that redraws: it would compete with the training for the processor.
    with Progress(*columns, console=console, auto_refresh=False) as display:
        yield [_Line(module, display, display.add_task(module.label, total=steps, text="starting"))]


class _Line(Callback):
    """Advances one line of a display."""

    def __init__(self, module: RPMModule, display: Progress, task: TaskID) -> None:
        self.module, self.display, self.task = module, display, task
        self._drawn = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if now - self._drawn > _EVERY:
            self._drawn = now
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        bound, ceiling = self.module.averages()
        unit = "nats" if self.module.objective is None else "(objective)"
        limit = "" if ceiling is None else f" of at most {ceiling:.3f}"
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        text = f"epoch {epoch}/{trainer.max_epochs}  {bound:.3f}{limit} {unit}"
        self.display.update(self.task, completed=trainer.global_step, text=text)
        self.display.refresh()
