"""A plain loop that maximises a model's bound, and keeps the average of its states that is best on held-out pairs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from recparam.bounds import Bound
from recparam.data.batches import Batches
from recparam.model import RPM
from recparam.ops import NonFiniteError
from recparam.training.diverged import TrainingDiverged

_ETA = 4.0  # the average is over the last fifth of the steps, roughly
Step = dict[str, int | float | None]


def averaged(model: nn.Module, *, eta: float = _ETA) -> AveragedModel:
    """A copy of a model for the polynomial-decay average of its states, by Shamir and Zhang (2013).

        average_t = (1 - w) average_{t-1} + w state_t,    w = (eta + 1) / (eta + t)

    A single state is thrown about by its last batches; the average over the last fifth of the steps is not, so that
    the held-out bounds of two starts, or of two moments, can be told apart.

    Args:
        model: Whose floating-point parameters and buffers are averaged; whole numbers and truths are the last.
        eta: The larger, the shorter the memory.

    Returns:
        The average, in evaluation mode; `update_parameters(model)` after each step takes the model's state in.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> average = averaged(net)
        >>> average.update_parameters(net)
        >>> torch.equal(average.module.weight, net.weight)
        True
    """

    def take_in(kept: Any, live: Any, _: Any) -> None:
        # By the count on the CPU: to read its copy, which is passed here, would wait for a GPU.
        weight = (eta + 1) / (eta + 1 + int(average.n_averaged))
        for old, new in zip(kept, live, strict=True):
            old.lerp_(new, weight) if old.is_floating_point() else old.copy_(new)

    average = AveragedModel(model, multi_avg_fn=take_in, use_buffers=True)
    return average.eval()


class Optimisation:
    """Adam on a model's bound, in steps rather than epochs, that can be interrupted and resumed.

    The learning rate is constant for the first half of the steps and falls to zero over the second. What is validated
    and kept is the average of the states of about the last fifth of the steps (`averaged`). Everything random
    depends on the seed and the step alone, so that several optimisations may take turns. One that resumes from the
    `state_dict` of another ends, on a CPU, with the same weights to the last bit.

    Args:
        model: What is trained, on the device where it is; set from the first training batch.
        batches: Pairs (x, x').
        steps: Steps in all.
        lr: The learning rate of the first half.
        seed: Decides draws of latents and dropout; the order of the data is the batches' own.
        validate: The held-out bound of a model, called with the average; larger is better.
        every: Steps between validations; at first they are five times as frequent.
        patience: Stop when so many steps brought no better validation; None: never.
        report: Called with each line of history, when `state_dict` may be taken.
        objective: Gives the bound of a batch (x, x') that is maximised; None: `model.elbo`.
        precision: Of the steps: "32-true", "bf16-mixed" or, on a GPU, "16-mixed"; the model is in 32 bits.

    Attributes:
        history: One line per validation: step, bound_nats (mean since the last line), ceiling_nats, validation_nats.
        best: The best validation so far; `restore_best` puts its state back.
        finished: Whether all steps are taken, or patience is at its end.
    """

    def __init__(
        self,
        model: RPM,
        batches: Batches,
        *,
        steps: int,
        lr: float,
        seed: int,
        validate: Callable[[RPM], Bound],
        every: int,
        patience: int | None = None,
        report: Callable[[Step], None] | None = None,
        objective: Callable[..., Bound] | None = None,
        precision: str = "32-true",
    ) -> None:
        self.model, self.batches, self.steps, self.lr, self.seed = model, batches, steps, lr, seed
        self.validate, self.every, self.patience, self.report = validate, every, patience, report
        self.objective = model.elbo if objective is None else objective
        self.history: list[Step] = []
        self.step, self.best_step, self.finished = 0, 0, False
        self.device = next(model.parameters()).device
        half = torch.float16 if precision == "16-mixed" else torch.bfloat16
        self._autocast = torch.autocast(self.device.type, dtype=half, enabled=precision != "32-true")
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "16-mixed")
        self._stream = self._endless()
        self.best: Bound
        self._best: dict[str, Tensor] = {}
        self._optimiser: Optimizer | None = None
        self._average: AveragedModel

    def train(self, until: int) -> None:
        """Take steps until so many are taken in all, or the optimisation has finished.

        Raises:
            TrainingDiverged: The bound, or what it is computed from, is not finite.
        """
        self.model.train()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            total, rows = 0.0, 0
            while self.step < min(until, self.steps) and not self.finished:
                if not rows:  # after each validation, from which an interrupted optimisation resumes
                    torch.manual_seed(int(np.random.SeedSequence([self.seed, self.step]).generate_state(1)[0]))
                batch = next(self._stream)
                bound = self._take_step(batch)
                total, rows = total + float(bound) * len(batch[0]), rows + len(batch[0])
                if self._validation_due() or self.step == min(until, self.steps):
                    self._validate(total / rows, bound.ceiling)
                    total, rows = 0.0, 0

    def best_model(self) -> RPM:
        """A copy of the model with the best state, in evaluation mode."""
        model = copy.deepcopy(cast(RPM, self._average.module))
        model.load_state_dict(self._best)
        return model

    def restore_best(self) -> None:
        """Put the best state back into the model, in evaluation mode."""
        self.model.load_state_dict(self._best)
        self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, after a validation or before the first step; for `save_checkpoint`."""
        if self._optimiser is None:
            return {}
        return {
            "step": self.step,
            "finished": self.finished,
            "history": self.history,
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best_step": self.best_step,
            "best": vars(self.best),
            "best_model": self._best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the `state_dict` of another optimisation of the same model, data and settings."""
        if not state:
            return
        self.step, self.finished, self.history = state["step"], state["finished"], state["history"]
        self.best_step, self.best, self._best = state["best_step"], Bound(**state["best"]), state["best_model"]
        self.model.load_state_dict(state["model"])
        self._optimiser, self._average = self._adam(), averaged(self.model)
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])

    def _validation_due(self) -> bool:
        early = max(1, self.every // 5)  # small data are overfitted before the first few validations
        return self.step % self.every == 0 or (self.step < 2 * self.every and self.step % early == 0)

    def _take_step(self, batch: tuple[Tensor, ...]) -> Bound:
        optimiser = self._prepared(batch)
        for group in optimiser.param_groups:
            group["lr"] = self.lr * min(1.0, 2 * (1 - self.step / self.steps))
        try:
            with self._autocast:
                bound = self.objective(*batch)
        except NonFiniteError as error:
            raise self._diverged("an observation or a network's output") from error
        if not math.isfinite(float(bound)):
            raise self._diverged("the bound")
        optimiser.zero_grad()
        self._scaler.scale(-bound.value).backward()
        self._scaler.step(optimiser)
        self._scaler.update()
        self.step += 1
        self._average.update_parameters(self.model)
        return bound

    def _validate(self, bound: float, ceiling: float | None) -> None:
        average = cast(RPM, self._average.module)
        held_out = self.validate(average)
        nats = float(held_out)
        line: Step = {"step": self.step, "bound_nats": bound, "ceiling_nats": ceiling, "validation_nats": nats}
        self.history.append(line)
        if not self._best or nats > float(self.best):
            self.best, self.best_step = held_out.settled(), self.step
            self._best = {name: value.clone() for name, value in average.state_dict().items()}
        late = self.patience is not None and self.step - self.best_step >= self.patience
        self.finished = late or self.step >= self.steps
        if self.report is not None:
            self.report(line)

    def _prepared(self, batch: tuple[Tensor, ...]) -> Optimizer:
        if self._optimiser is None:
            self.model.initialise(*batch)
            self._optimiser, self._average = self._adam(), averaged(self.model)
        return self._optimiser

    def _adam(self) -> Optimizer:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=self.lr, fused=True)

    def _endless(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches from the present step on, one for each step."""
        whole, rest = divmod(self.batches.rows, self.batches.batch_size)
        # What is left of an epoch is no batch: two rows know next to nothing of Z.
        usable = max(1, min(len(self.batches), whole + (2 * rest >= self.batches.batch_size)))
        while True:
            epoch, done = divmod(self.step, usable)
            self.batches.set_epoch(epoch)
            for batch in islice(self.batches.after(done), usable - done):
                yield tuple(x.to(self.device) for x in batch)

    def _diverged(self, what: str) -> TrainingDiverged:
        step = self.step + 1
        return TrainingDiverged(what, label="model", step=step, epoch=1 + self.step // len(self.batches), lr=self.lr)
