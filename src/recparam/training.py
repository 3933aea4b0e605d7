"""Train a model by maximising its bound: batches of tuples, a Lightning module, and `fit`, which resumes.

Everything random about a run depends on its seed and the number of the epoch alone, so a run that was
interrupted and resumed ends, on a CPU, with the same weights to the last bit as one that was not.
"""

import contextlib
import csv
import logging
import math
import os
import signal
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int, Shaped
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, Checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from recparam.storage import flatten, load_tree, remove_leftovers, replacing, save_tree, unflatten

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine")
Epoch = dict[str, int | float | None]
COLUMNS = ("epoch", "bound_nats", "ceiling_nats", "seconds")


class Objective(Protocol):
    """What is maximised: a number and, where there is one, the value it cannot exceed. A `Bound` is one."""

    @property
    def value(self) -> Tensor:
        """The number, a tensor without dimensions."""
        ...

    @property
    def ceiling(self) -> float | None:
        """The largest value it can take, or None."""
        ...


class TrainingDiverged(RuntimeError):
    """The objective, a gradient or a parameter stopped being finite; the last checkpoint is good.

    Args:
        what: what is not finite.
        label: the name of what was trained.
        step: the optimiser's step at which it happened, from 1.
        epoch: the epoch, from 1.
        lr: the learning rate at that step.
    """

    def __init__(self, what: str, *, label: str, step: int, epoch: int, lr: float | None = None) -> None:
        rate = "" if lr is None else f" (now {lr:g})"
        super().__init__(
            f"{label}: {what} is not finite at step {step} (epoch {epoch}). Training stopped; the checkpoint "
            f"of the last finished epoch is kept. Lower `lr`{rate}, set `gradient_clip`, or look for extreme "
            "observations."
        )
        self.label, self.step, self.epoch = label, step, epoch


class Batches(ABC):
    """Batches of rows in an order that depends on the seed and the epoch only; a base class.

    The last batch may be smaller. It is left out when a single row remains, which would have no negative.

    Args:
        rows: the number of rows.
        batch_size: rows in a batch, at least 2.
        seed: a whole number, not negative.
    """

    def __init__(self, rows: int, *, batch_size: int, seed: int) -> None:
        if batch_size < 2:
            raise ValueError(
                f"batch_size: expected at least 2, got {batch_size}. The negatives of a row are the other "
                "rows of its batch; a batch of one has none."
            )
        if rows < 2:
            raise ValueError(f"observations: expected at least 2 tuples, got {rows}. Give more data.")
        if seed < 0:
            raise ValueError(f"seed: expected a whole number >= 0, got {seed}. Choose another.")
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass.

        Args:
            epoch: the number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.rows, self.batch_size)
        return whole + (rest >= 2)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        order = torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(self.rows))
        for batch in range(len(self)):
            yield self._gather(order[batch * self.batch_size : (batch + 1) * self.batch_size])

    @abstractmethod
    def _gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The observations of these rows."""


class TupleBatches(Batches):
    """Random batches of aligned observations: row i of each belongs to the same tuple.

    Args:
        observations: arrays or tensors of shape (rows, ...), one per observation.
        batch_size: tuples in a batch, at least 2.
        seed: decides the order, together with the epoch.

    Raises:
        ValueError: no observations, different numbers of rows, numbers that are not finite, a batch of one.
    """

    def __init__(self, *observations: Tensor | np.ndarray, batch_size: int, seed: int) -> None:
        lengths = [len(observation) for observation in observations]
        if not lengths or len(set(lengths)) > 1:
            raise ValueError(
                f"observations: expected one or more with the same number of rows, got {lengths} rows. "
                "Row i of each has to belong to the same tuple."
            )
        super().__init__(lengths[0], batch_size=batch_size, seed=seed)
        for number, observation in enumerate(observations):
            _check_finite(observation, f"observations[{number}]")
        self.observations = observations

    def _gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(_take(observation, rows) for observation in self.observations)


class PairBatches(Batches):
    """Random batches of pairs of frames, gathered by index from one recording that is never copied.

    Args:
        frames: array or tensor of shape (time, ...).
        pairs: which frames belong together, of shape (pairs, J), J observations each; by default all
            consecutive pairs (t, t + 1).
        targets: something known about each frame, of shape (time, ...); batches then hold, after the frames,
            the targets of the same J indices.
        batch_size: pairs in a batch, at least 2.
        seed: decides the order, together with the epoch.

    Raises:
        ValueError: indices outside the recording, targets of another length, numbers that are not finite, a
            batch of one.
    """

    def __init__(
        self,
        frames: Shaped[Tensor, "time ..."] | Shaped[np.ndarray, "time ..."],
        *,
        pairs: Int[Tensor, "pairs J"] | Int[np.ndarray, "pairs J"] | None = None,
        targets: Shaped[Tensor, "targets ..."] | Shaped[np.ndarray, "targets ..."] | None = None,
        batch_size: int,
        seed: int,
    ) -> None:
        if pairs is None:
            start = torch.arange(max(len(frames) - 1, 0))
            indices = torch.stack([start, start + 1], dim=1)
        else:
            indices = torch.as_tensor(pairs, dtype=torch.int64, device="cpu")
        super().__init__(len(indices), batch_size=batch_size, seed=seed)
        if indices.min() < 0 or indices.max() >= len(frames):
            raise ValueError(
                f"pairs: expected indices from 0 to {len(frames) - 1}, got {int(indices.min())} to "
                f"{int(indices.max())}. Count from the first frame."
            )
        if targets is not None and len(targets) != len(frames):
            raise ValueError(
                f"targets: expected one per frame, {len(frames)}, got {len(targets)}. Give each frame one."
            )
        _check_finite(frames, "frames")
        if targets is not None:
            _check_finite(targets, "targets")
        self.frames, self.targets, self.indices = frames, targets, indices

    def _gather(self, rows: Tensor) -> tuple[Tensor, ...]:
        columns = self.indices[rows].unbind(dim=1)
        sources = (self.frames,) if self.targets is None else (self.frames, self.targets)
        return tuple(_take(source, column) for source in sources for column in columns)


class RPMModule(LightningModule):
    """A model and how its bound is climbed.

    The bound is maximised. Optimisers descend, so `training_step` returns `loss = -bound.value`: the one
    place where the sign changes.

    Args:
        model: has `elbo(*observations)`, which returns a `Bound`, and `initialise(*observations)`, which is
            called once, without gradients, with the first batch of a run that starts anew.
        optimiser: "sgd", "adam" or "adamw".
        lr: the learning rate.
        momentum: of "sgd" only.
        weight_decay: in the sense of the optimiser.
        schedule: "constant", or "cosine" from `lr` at the first step to 0 after the last.
        objective: what to maximise instead of `model.elbo(*batch)`, a function of the model and the batch,
            for a supervised arm for example; it is reported in the bound's place, in its own unit. The model
            then needs neither method.
        label: the name of what is trained, for messages.

    Raises:
        ValueError: an unknown optimiser or schedule, a rate that is not positive, momentum without "sgd".
    """

    initialised: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        optimiser: str = "adam",
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        objective: Callable[[Any, tuple[Tensor, ...]], Objective] | None = None,
        label: str = "model",
    ) -> None:
        super().__init__()
        for name, value, known in (("optimiser", optimiser, OPTIMISERS), ("schedule", schedule, SCHEDULES)):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, got {value!r}.")
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr: expected a positive number, got {lr}. Try 1e-3.")
        if momentum and optimiser != "sgd":
            raise ValueError(f"momentum: expected 0 with {optimiser!r}, got {momentum}. Only 'sgd' has momentum.")
        if not (0 <= momentum < 1 and math.isfinite(weight_decay) and weight_decay >= 0):
            raise ValueError(
                f"momentum, weight_decay: expected 0 <= momentum < 1 and weight_decay >= 0, got {momentum} "
                f"and {weight_decay}. Zero switches either off."
            )
        self.model = model
        self.optimiser = optimiser
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.schedule = schedule
        self.objective = objective
        self.label = label
        self.register_buffer("initialised", torch.tensor(False))
        self._forget()

    @property
    def settings(self) -> dict[str, Any]:
        """What has to be equal in a run and its resumption."""
        names = ("optimiser", "lr", "momentum", "weight_decay", "schedule", "label")
        return {name: getattr(self, name) for name in names}

    def configure_optimizers(self) -> Any:
        """Build the optimiser and, for "cosine", its schedule over the steps of the whole run."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not parameters:
            raise ValueError(f"model: expected parameters to train, {self.label} has none. Evaluate it directly.")
        if self.optimiser == "sgd":
            optimiser: torch.optim.Optimizer = torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
        else:
            kind = torch.optim.Adam if self.optimiser == "adam" else torch.optim.AdamW
            optimiser = kind(parameters, lr=self.lr, weight_decay=self.weight_decay)
        if self.schedule == "constant":
            return optimiser
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        cosine = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
        )
        # Per step: Lightning moves schedules of an epoch only after the checkpoint of that epoch was written.
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Start the epoch's averages."""
        self._forget()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the model see the first batch of a run before its first step."""
        if batch_idx == 0 and self.objective is None and not bool(self.initialised):
            with torch.no_grad():
                self.model.initialise(*batch)  # pyright: ignore[reportCallIssue]
            self.initialised.fill_(True)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the loss, minus the bound.

        Args:
            batch: the observations, each of shape (batch, ...).
            batch_idx: number of the batch in the epoch.

        Returns:
            `-bound.value`, in nats.

        Raises:
            TrainingDiverged: the bound is not finite. No parameter has been touched.
        """
        observations = tuple(batch)
        bound: Objective = (
            self.model.elbo(*observations)  # pyright: ignore[reportCallIssue]
            if self.objective is None
            else self.objective(self.model, observations)
        )
        loss = -bound.value
        if not bool(torch.isfinite(loss)):
            raise self._diverged("the objective")
        self._mean.add(bound.value.detach(), bound.ceiling, rows=len(observations[0]))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a step along a gradient that is not finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            raise self._diverged("the gradient")

    def on_train_epoch_end(self) -> None:
        """Log the averages of the epoch, and let no broken parameters pass into a checkpoint."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._diverged("a parameter")
        bound, ceiling = self.averages()
        self.log("bound_nats", bound)
        if ceiling is not None:
            self.log("ceiling_nats", ceiling)

    def averages(self) -> tuple[float, float | None]:
        """Return bound and ceiling of the epoch so far, in nats, averaged over its tuples."""
        return self._mean.read()

    def _forget(self) -> None:
        self._mean = _Mean()

    def _diverged(self, what: str) -> TrainingDiverged:
        # The counter is already advanced when the epoch ends, and not yet within a step.
        step, epoch = self.global_step + (what != "a parameter"), self.current_epoch + 1
        return TrainingDiverged(what, label=self.label, step=step, epoch=epoch, lr=self.lr)


class _Mean:
    """Averages over the tuples of an epoch. Not attributes of the module, where each assignment is slow."""

    def __init__(self) -> None:
        self.rows, self.ceiling_rows, self.ceiling = 0, 0, 0.0
        self.value: Tensor | float = 0.0

    def add(self, value: Tensor, ceiling: float | None, *, rows: int) -> None:
        self.rows += rows
        self.value = self.value + rows * value  # stays on the device: reading it would wait for the step
        if ceiling is not None:
            self.ceiling_rows += rows
            self.ceiling += rows * float(ceiling)

    def read(self) -> tuple[float, float | None]:
        if not self.rows:
            return math.nan, None
        return float(self.value) / self.rows, self.ceiling / self.rows if self.ceiling_rows == self.rows else None


class SafetensorsCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as safetensors files, without pickle and replaced whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; see `recparam.storage.save_tree`."""
        if storage_options is not None:
            raise TypeError("storage_options: expected None. Files are written to the local disk only.")
        save_tree(path, checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, to the CPU unless `map_location` is a device."""
        tree = load_tree(path)
        if isinstance(map_location, str | torch.device):
            tensors, skeleton = flatten(tree)
            tree = unflatten({name: tensor.to(map_location) for name, tensor in tensors.items()}, skeleton)
        return tree

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def checkpoint_path(folder: str | os.PathLike[str]) -> Path:
    """Return where `fit` keeps the state after the last finished epoch of the run in `folder`."""
    return Path(folder) / "checkpoint" / "last.safetensors"


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
        folder: receives `checkpoint/last.safetensors` and `history.csv`.
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
        TrainingDiverged: something is not finite; the last checkpoint is kept.
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
    settings = module.settings | {"seed": seed, "gradient_clip": gradient_clip, "steps": len(batches)}
    settings |= {"batch_size": getattr(batches, "batch_size", None)}
    if module.schedule == "cosine":
        settings["epochs"] = epochs
    keeper = _Keeper(folder, batches, settings, seed=seed, report=report)
    resume = resume and checkpoint.exists()
    if resume:
        tree = load_tree(checkpoint)
        _check_same_run(tree["callbacks"][keeper.state_key]["settings"], settings, folder)
        keeper.history = tree["callbacks"][keeper.state_key]["history"]
        if len(keeper.history) > epochs:
            raise ValueError(
                f"epochs: {folder} already holds {len(keeper.history)} epochs, got {epochs}. Ask for at "
                "least as many, or choose another folder."
            )
        if len(keeper.history) == epochs:
            module.load_state_dict(tree["state_dict"])
            keeper.write_history()
            return keeper.history
    module.train()
    with _undisturbed(), _line(module, len(batches), epochs, shown=progress) as line:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            devices=1,
            logger=False,
            callbacks=[keeper, *line],
            plugins=[SafetensorsCheckpointIO(), LightningEnvironment()],
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
        except SystemExit:
            # Lightning turns Ctrl-C into an exit of the whole process.
            if keeper.interrupted:
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


class _Keeper(Checkpoint):
    """Seeds each epoch and keeps, after it, first the checkpoint, then the history, then tells the caller.

    Being a `Checkpoint`, Lightning calls it after the module's own end of the epoch.
    """

    def __init__(
        self,
        folder: Path,
        batches: Any,
        settings: dict[str, Any],
        *,
        seed: int,
        report: Callable[[Epoch], None] | None,
    ) -> None:
        self.folder, self.batches, self.settings, self.seed, self.report = (
            folder,
            batches,
            settings,
            seed,
            report,
        )
        self.history: list[Epoch] = []
        self.interrupted = False
        self._started = time.perf_counter()

    @property
    def state_key(self) -> str:
        return "recparam"

    def state_dict(self) -> dict[str, Any]:
        return {"settings": self.settings, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not at the start of the epoch: a loader may draw from the generator when its iterator is made, which
        # happens at another moment in a resumed run.
        if batch_idx == 0:
            mixed = np.random.SeedSequence([self.seed, trainer.current_epoch]).generate_state(1, np.uint64)
            torch.manual_seed(int(mixed[0] >> 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, RPMModule):
            raise TypeError(f"module: expected an RPMModule, got {type(pl_module).__name__}.")
        bound, ceiling = pl_module.averages()
        row: Epoch = {
            "epoch": trainer.current_epoch + 1,
            "bound_nats": bound,
            "ceiling_nats": ceiling,
            "seconds": time.perf_counter() - self._started,
        }
        self.history.append(row)
        trainer.save_checkpoint(checkpoint_path(self.folder), weights_only=False)
        self.write_history()
        if self.report is not None:
            self.report(dict(row))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.interrupted = isinstance(exception, KeyboardInterrupt)

    def write_history(self) -> None:
        with replacing(self.folder / "history.csv") as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows([row[column] for column in COLUMNS] for row in self.history)


class _Line(Callback):
    """Advances one line of a progress display."""

    def __init__(self, display: Progress, task: Any) -> None:
        self.display, self.task = display, task
        self._drawn = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        # Reading the bound waits for the device, so not at every step.
        if now - self._drawn > 0.2 and isinstance(pl_module, RPMModule):
            self._drawn = now
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, RPMModule):
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, module: RPMModule) -> None:
        bound, ceiling = module.averages()
        unit = "nats" if module.objective is None else "(objective)"
        limit = "" if ceiling is None else f" of at most {ceiling:.3f}"
        epoch = min(trainer.current_epoch + 1, trainer.max_epochs or 1)
        text = f"epoch {epoch}/{trainer.max_epochs}  {bound:.3f}{limit} {unit}"
        self.display.update(self.task, completed=trainer.global_step, text=text)
        self.display.refresh()


@contextlib.contextmanager
def _line(module: RPMModule, steps: int, epochs: int, *, shown: bool) -> Iterator[list[Callback]]:
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
        yield [_Line(display, display.add_task(module.label, total=steps * epochs, text="starting"))]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Lightning's talk from the user, and the run's global settings from the rest of the process."""
    levels = {name: logging.getLogger(name).level for name in ("lightning", "lightning.pytorch", "lightning.fabric")}
    environment = dict(os.environ)
    interrupt = signal.getsignal(signal.SIGINT)
    deterministic = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, grad = torch.backends.cudnn.benchmark, torch.is_grad_enabled()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if signal.getsignal(signal.SIGINT) is not interrupt and interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warn)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_grad_enabled(grad)


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


def _check_same_run(stored: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    other = {
        name: (stored.get(name), asked.get(name))
        for name in sorted(stored.keys() | asked.keys())
        if stored.get(name) != asked.get(name)
    }
    if other:
        words = ", ".join(f"{name} was {was!r} and is now {now!r}" for name, (was, now) in other.items())
        raise ValueError(
            f"folder: {folder} holds another run: {words}. Choose another folder, or `resume=False` to replace it."
        )


def _check_finite(values: Any, name: str) -> None:
    floating = values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind == "f"
    if not floating:
        return
    finite = bool(torch.isfinite(values).all()) if isinstance(values, Tensor) else bool(np.isfinite(values).all())
    if not finite:
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity. Remove or repair those rows.")


def _take(values: Any, rows: Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values[rows.to(values.device)]
    # Index first: a read-only or memory-mapped array never becomes a tensor as a whole.
    return torch.from_numpy(np.asarray(values[rows.numpy()]))
