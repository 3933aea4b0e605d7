"""A callback of test_processes.py, apart from process_world.py so that its processes need not load Lightning."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from process_world import gradients_of


class KeepGradients(Callback):
    """Writes what the optimiser is about to use, of each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        torch.save(gradients_of(pl_module), self.folder / f"{trainer.global_rank}-{trainer.global_step}.pt")
