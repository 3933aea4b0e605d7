"""A model as a Lightning module: the bound is maximised, and nothing that is not finite gets past a step."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from lightning import LightningModule
from torch import Tensor, nn

from recparam.ops import NonFiniteError
from recparam.training.diverged import TrainingDiverged
from recparam.utils.checks import UninitialisedError

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine")


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


class RPMModule(LightningModule):
    """A model and how its bound is maximised.

    The bound is maximised. Optimisers descend, so `training_step` returns `loss = -bound.value`: the one
    place where the sign changes.

    Args:
        model: has `elbo(*observations)`, which returns a `Bound`, and `initialise(*observations)`, which is
            called once, in training mode and without gradients, with the first training batch of a run that is not
            resumed. Validation sets nothing: Lightning's sanity check of a model that waits for data is left out.
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
        self.model: Any = model  # what it has to offer depends on `objective`
        self.optimiser = optimiser
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.schedule = schedule
        self.objective = objective
        self.label = label
        self.register_buffer("initialised", torch.tensor(False))
        self._mean = _Mean()

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
        self._mean = _Mean()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the model see the first training batch of a run before its first step."""
        if batch_idx == 0 and self.objective is None and not bool(self.initialised):
            with torch.no_grad():
                self.model.initialise(*batch)
            self.initialised.fill_(True)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Return the loss, minus the bound.

        Args:
            batch: the observations, each of shape (batch, ...).
            batch_idx: number of the batch in the epoch.

        Returns:
            `-bound.value`, in nats.

        Raises:
            TrainingDiverged: the bound, or what it is computed from, is not finite. No parameter has been touched.
        """
        observations = tuple(batch)
        try:
            bound: Objective = self._bound(observations)
        except NonFiniteError as error:
            raise self._diverged("an observation or a network's output", self.global_step + 1) from error
        loss = -bound.value
        if not bool(torch.isfinite(loss)):
            raise self._diverged("the objective", self.global_step + 1)
        self._mean.add(bound.value.detach(), bound.ceiling, rows=len(observations[0]))
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Log `validation_nats`, the mean over validation batches; the bank of each is the batch itself.

        Raises:
            UninitialisedError: The model waits for data; only the sanity check before training passes over it.
        """
        observations = tuple(batch)
        try:
            bound: Objective = self._bound(observations)
        except UninitialisedError:
            if self.trainer.sanity_checking:
                return
            raise
        self.log("validation_nats", bound.value, batch_size=len(observations[0]), sync_dist=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a step along a gradient that is not finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            raise self._diverged("the gradient", self.global_step + 1)

    def on_train_epoch_end(self) -> None:
        """Log the averages of the epoch, and let no broken parameters pass into a checkpoint."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise self._diverged("a parameter", self.global_step)
        bound, ceiling = self.averages()
        self.log("bound_nats", bound, sync_dist=True)  # the mean over processes, if there are several
        if ceiling is not None:
            self.log("ceiling_nats", ceiling, sync_dist=True)

    def averages(self) -> tuple[float, float | None]:
        """Return bound and ceiling of the epoch so far, in nats, averaged over its tuples."""
        return self._mean.read()

    def _bound(self, observations: tuple[Tensor, ...]) -> Any:
        return self.model.elbo(*observations) if self.objective is None else self.objective(self.model, observations)

    def _diverged(self, what: str, step: int) -> TrainingDiverged:
        return TrainingDiverged(what, label=self.label, step=step, epoch=self.current_epoch + 1, lr=self.lr)


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
