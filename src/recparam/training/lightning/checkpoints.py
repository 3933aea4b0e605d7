"""What is kept of a run after each epoch: its checkpoint and its history."""

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from recparam.training.lightning.module import RPMModule
from recparam.utils.storage import changes, load_checkpoint, replacing, save_checkpoint

Epoch = dict[str, int | float | None]
COLUMNS: tuple[str, ...] = ("epoch", "bound_nats", "ceiling_nats", "seconds")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, replaced whole, and read with `torch.load(weights_only=True)` and checked."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; see `recparam.utils.storage.save_checkpoint`."""
        if storage_options is not None:
            raise TypeError("storage_options: expected None. Files are written to the local disk only.")
        save_checkpoint(path, checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, to the CPU unless `map_location` says otherwise; `weights_only` is True in any case."""
        return load_checkpoint(path, map_location=map_location or "cpu")


def checkpoint_path(folder: str | os.PathLike[str]) -> Path:
    """Return where `fit` keeps the state after the last finished epoch of the run in `folder`."""
    return Path(folder) / "checkpoint" / "last.ckpt"


class Keeper(Checkpoint):
    """Seeds each epoch and keeps, after it, first the checkpoint, then the history, then tells the caller.

    Being a `Checkpoint`, Lightning calls it after the module's own end of the epoch.

    Args:
        module: what is trained.
        batches: what it is trained with; its `set_epoch`, if it has one, is told the number of each epoch.
        folder: the folder of the run.
        seed: decides, together with the epoch, all sampling.
        settings: what has to be equal in a run and its resumption.
        report: is called after each epoch with its line of history.
    """

    def __init__(
        self,
        module: RPMModule,
        batches: Any,
        *,
        folder: Path,
        seed: int,
        settings: dict[str, Any],
        report: Callable[[Epoch], None] | None,
    ) -> None:
        self.module, self.batches, self.folder, self.seed = module, batches, folder, seed
        self.settings, self.report = settings, report
        self.history: list[Epoch] = []
        self._started = time.perf_counter()

    @property
    def state_key(self) -> str:
        """Where the checkpoint holds the keeper's part."""
        return "recparam"

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint holds in addition to Lightning's part."""
        return {"settings": self.settings, "history": self.history}

    def resume(self, state: dict[str, Any], *, epochs: int) -> None:
        """Continue the history of a run, if it is the same one.

        Args:
            state: what `state_dict` returned.
            epochs: how many to finish in all.

        Raises:
            ValueError: other settings, or more epochs than asked for.
        """
        different = changes(state["settings"], self.settings)
        if different:
            raise ValueError(
                f"folder: {self.folder} holds another run: {', '.join(different)}. "
                "Choose another folder, or `resume=False` to replace it."
            )
        if len(state["history"]) > epochs:
            raise ValueError(
                f"epochs: {self.folder} already holds {len(state['history'])} epochs, got {epochs}. Ask for at "
                "least as many, or choose another folder."
            )
        self.history = state["history"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and choose the order of the batches."""
        self._started = time.perf_counter()
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the epoch."""
        # Not at the start of the epoch: a loader may draw from the generator when its iterator is made, which
        # happens at another moment in a resumed run.
        if batch_idx == 0:
            mixed = np.random.SeedSequence([self.seed, trainer.current_epoch]).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0] >> 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch."""
        bound, ceiling = self.module.averages()
        seconds = time.perf_counter() - self._started
        row: Epoch = dict(zip(COLUMNS, (trainer.current_epoch + 1, bound, ceiling, seconds), strict=True))
        self.history.append(row)
        trainer.save_checkpoint(checkpoint_path(self.folder), weights_only=False)
        self.write_history()
        if self.report is not None:
            self.report(dict(row))

    def write_history(self) -> None:
        """Write `history.csv`, one line per finished epoch."""
        with replacing(self.folder / "history.csv") as temporary, temporary.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(self.history)
