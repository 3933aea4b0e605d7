"""How a fit is made: several starts, of which the best by the held-out bound is trained to the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from recparam.data.pairs import Pairs
from recparam.estimator.head import elbo_by_stratum
from recparam.estimator.held_out import validation
from recparam.estimator.resuming import Checkpoint
from recparam.model import RPM
from recparam.training.optimise import Optimisation, Step

_VALIDATIONS = 20  # in a whole fit
_PATIENCE = 1 / 3  # of the steps, without a better validation
_FIRST = 1 / 10  # of the steps, after which one of several starts is chosen
Starts = list[dict[str, int | float | bool]]


@dataclass(frozen=True)
class Plan:
    """Numbers of a fit.

    Args:
        steps: At most.
        batch_size: Pairs.
        lr: Learning rate.
        seed: Decides everything random.
        progress: Whether to print each validation.
        precision: Of the steps, as in `Settings`.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int
    progress: bool
    precision: str = "32-true"


def train_starts(
    models: Sequence[RPM],
    fitted: Pairs,
    held_out: Pairs,
    *,
    plan: Plan,
    bank_rows: np.ndarray,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Optimisation, Starts]:
    """Train several starts for a tenth of the steps, and the one with the best held-out bound to the end.

    Args:
        models: The starts.
        fitted: Pairs to fit.
        held_out: Pairs to validate on.
        plan: Numbers.
        bank_rows: Which of the fitted pairs are the bank.
        device: Where to train.
        checkpoint: Where the state is kept, from which the fit resumes if there is one.
        facts: What has to be equal for that.

    Returns:
        The best, with its best state in the model; and the state of each start when it was chosen.
    """
    every = max(1, min(plan.steps // _VALIDATIONS or 1, 100))
    validate = validation(fitted, held_out, bank_rows=bank_rows, device=device)
    table: Starts = []

    def state() -> dict[str, Any]:  # of the starts that still matter
        kept = [run.state_dict() if not table or table[k]["chosen"] else {} for k, run in enumerate(runs)]
        return {"starts": table, "runs": kept}

    def report(number: int, line: Step) -> None:
        if plan.progress:
            _print(line, number, len(models))
        if checkpoint is not None:
            checkpoint.write(state)

    runs = [
        Optimisation(
            model.to(device),
            fitted.batches(plan.batch_size, seed=plan.seed + number),
            steps=plan.steps,
            lr=plan.lr,
            seed=plan.seed + number,
            precision=plan.precision,
            validate=validate,
            every=every,
            patience=max(every, int(plan.steps * _PATIENCE)),
            report=partial(report, number),
            objective=None if fitted.strata is None else partial(elbo_by_stratum, model),
        )
        for number, model in enumerate(models)
    ]
    kept = checkpoint and checkpoint.begin(facts or {})
    if kept:
        table += kept["starts"]
        for run, state_dict in zip(runs, kept["runs"], strict=True):
            run.load_state_dict(state_dict)
    if not table:
        first = plan.steps if len(runs) == 1 else max(every, int(plan.steps * _FIRST) // every * every)
        for run in runs:
            run.train(first)
        best = max(runs, key=lambda run: float(run.best))
        table += [
            {"seed": run.seed, "steps": run.step, "validation_nats": float(run.best), "chosen": run is best}
            for run in runs
        ]
    chosen = next(run for run, start in zip(runs, table, strict=True) if start["chosen"])
    chosen.train(plan.steps)
    if checkpoint is not None:
        checkpoint.write(state, now=True)
    chosen.restore_best()
    return chosen, table


def split_off(pairs: Pairs, fraction: float) -> tuple[Pairs, Pairs]:
    """The pairs to fit and those held out, at the end of each session; of a very short recording enough for two."""
    before = (pairs.order - 1) * int(pairs.lag.max(initial=0))
    needed = (pairs.reach + before + 2) / len(pairs.recording)
    return pairs.split(max(fraction, min(needed, 0.5)))


def _print(line: Step, number: int, starts: int) -> None:
    start = f"start {number + 1} of {starts}  " if starts > 1 else ""
    print(
        f"{start}step {line['step']}  bound {line['bound_nats']:.3f}  held out {line['validation_nats']:.3f} nats",
        file=sys.stderr,
    )
