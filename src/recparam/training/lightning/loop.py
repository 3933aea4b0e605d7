"""`fit`: train until so many epochs are finished, from the start or from where a run was stopped."""

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from recparam.data.batches import TupleBatches
from recparam.training.diverged import TrainingDiverged
from recparam.training.lightning.checkpoints import AtomicCheckpointIO, Epoch, Keeper, checkpoint_path
from recparam.training.lightning.isolation import isolated
from recparam.training.lightning.module import RPMModule
from recparam.training.lightning.progress import progress_line
from recparam.utils.storage import StorageError, load_checkpoint, remove_leftovers


def fit(
    module: RPMModule,
    data: Iterable[tuple[Tensor, ...]] | Sequence[Tensor | np.ndarray],
    *,
    epochs: int,
    folder: str | os.PathLike[str],
    seed: int,
    batch_size: int | None = None,
    gradient_clip: float | None = None,
    resume: bool = True,
    progress: bool = True,
    report: Callable[[Epoch], None] | None = None,
    accelerator: str = "auto",
    deterministic: bool = False,
) -> list[Epoch]:
    """Train until `epochs` epochs are finished, with a checkpoint and a line of history after each.

    A run that was stopped continues after its last finished epoch. The model is put into training mode and is
    on the CPU afterwards. The caller's random state, loggers, warnings, signals and environment are left as
    they were.

    Args:
        module: the model and its optimiser.
        data: batches (`TupleBatches`, `PairBatches`, or any loader with a length), or a tuple of aligned
            observations of shape (rows, ...) that are batched here. With another loader a resumed run equals
            an uninterrupted one only if its order depends on the epoch passed to its `set_epoch`.
        epochs: how many to finish in all, those of a resumed run included.
        folder: receives `checkpoint/last.ckpt` and `history.csv`.
        seed: whole number, not negative; decides the order of the data and all sampling.
        batch_size: tuples in a batch, for observations only.
        gradient_clip: the largest norm of a gradient.
        resume: continue the run in `folder`, if there is one; otherwise it is replaced.
        progress: draw one line on a terminal.
        report: is called after each epoch, once its checkpoint is safe, with its line of history.
        accelerator: Lightning's name of the device: "auto", "cpu", "gpu".
        deterministic: ask PyTorch for deterministic algorithms while training (slower on a GPU).

    Returns:
        One dictionary per finished epoch: epoch (from 1), bound_nats, ceiling_nats (None where there is
        none), seconds.

    Raises:
        ValueError: bad arguments, or `folder` holds a run with other settings.
        NotADirectoryError: `folder` is a file.
        StorageError: the checkpoint is damaged, or of something else.
        TrainingDiverged: the bound, a gradient or a parameter is not finite; the last checkpoint is kept.
        NonFiniteError: the model is not finite on the first batch, before any step.
        KeyboardInterrupt: after Ctrl-C; the last finished epoch is kept and a new call resumes.
        SystemExit: 143 after SIGTERM; the last finished epoch is kept and a new call resumes.
    """
    folder = Path(folder)
    if epochs < 1:
        raise ValueError(f"epochs: expected at least 1, got {epochs}.")
    if seed < 0:
        raise ValueError(f"seed: expected a whole number >= 0, got {seed}. Choose another.")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"folder: expected a folder, got the file {folder}. Choose another place.")
    batches = _batches(data, batch_size=batch_size, seed=seed)
    checkpoint = checkpoint_path(folder)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(checkpoint.parent)
    settings = module.settings | {
        "seed": seed,
        "gradient_clip": gradient_clip,
        "steps": len(batches),
        "batch_size": getattr(batches, "batch_size", None),
    }
    if module.schedule == "cosine":
        settings["epochs"] = epochs
    keeper = Keeper(module, batches, folder=folder, seed=seed, settings=settings, report=report)
    resume = resume and checkpoint.exists()
    if resume:
        tree = load_checkpoint(checkpoint)
        if not isinstance(tree, dict) or keeper.state_key not in tree.get("callbacks", {}):
            raise StorageError(f"{checkpoint}: not the checkpoint of a run of `fit`. Choose another folder.")
        keeper.resume(tree["callbacks"][keeper.state_key], epochs=epochs)
        if len(keeper.history) == epochs:
            module.load_state_dict(tree["state_dict"])
            keeper.write_history()
            return keeper.history
    module.train()
    with isolated(), progress_line(module, steps=epochs * len(batches), shown=progress) as line:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            devices=1,
            logger=False,
            callbacks=[keeper, *line],
            plugins=[AtomicCheckpointIO(), LightningEnvironment()],
            default_root_dir=folder,
            gradient_clip_val=gradient_clip,
            deterministic=deterministic,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, train_dataloaders=batches, ckpt_path=str(checkpoint) if resume else None)
        except SystemExit as stop:
            # Lightning turns Ctrl-C into an exit of the whole process.
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            if trainer.received_sigterm:
                # Lightning stops after the step, and would report success to whoever waits for this process.
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        except TrainingDiverged as error:
            if keeper.history:
                error.add_note(f"Last good checkpoint: {checkpoint} (epoch {len(keeper.history)}).")
            raise
    return keeper.history


def _batches(data: Any, *, batch_size: int | None, seed: int) -> Any:
    if isinstance(data, tuple | list) and all(isinstance(part, Tensor | np.ndarray) for part in data):
        if batch_size is None:
            raise ValueError("batch_size: expected a number with observations as data, got None. Try 128.")
        return TupleBatches(*data, batch_size=batch_size, seed=seed)
    own = getattr(data, "batch_size", None)
    if batch_size is not None and batch_size != own:
        raise ValueError(f"batch_size: expected that of the loader, {own}, got {batch_size}. Leave it out.")
    if not hasattr(data, "__len__") or len(data) == 0:
        raise ValueError(
            f"data: expected observations or a loader with batches and a length, got {type(data).__name__}. "
            "Give a tuple of tensors or `TupleBatches`."
        )
    return data
