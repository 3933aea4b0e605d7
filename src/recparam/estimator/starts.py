"""How a fit is made: several starts, of which the best by the held-out bound goes on."""

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
from recparam.training.ascent import Ascent, Step

_LOOKS = 20  # looks at the held-out pairs in a whole fit
_PATIENT = 1 / 3  # of the steps, without a better look
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
        progress: Whether to print each look.
        precision: Of the steps, as in `Settings`.
    """

    steps: int
    batch_size: int
    lr: float
    seed: int
    progress: bool
    precision: str = "32-true"


def climb(
    models: Sequence[RPM],
    fitted: Pairs,
    held_out: Pairs,
    *,
    plan: Plan,
    bank_rows: np.ndarray,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Ascent, Starts]:
    """Train several starts for a tenth of the steps, and the one with the best held-out bound to the end.

    Args:
        models: The starts.
        fitted: Pairs to fit.
        held_out: Pairs to look at.
        plan: Numbers.
        bank_rows: Which of the fitted pairs are the bank.
        device: Where to train.
        checkpoint: Where the state is kept, and gone on from if there is one.
        facts: What has to be equal for that.

    Returns:
        The best, with its best state in the model; and where each start stood when it was chosen.
    """
    every = max(1, min(plan.steps // _LOOKS or 1, 100))
    validate = validation(fitted, held_out, bank_rows=bank_rows, device=device)
    table: Starts = []

    def state() -> dict[str, Any]:  # of the starts that still matter
        kept = [ascent.state() if not table or table[k]["chosen"] else {} for k, ascent in enumerate(ascents)]
        return {"starts": table, "ascents": kept}

    def looked(number: int, line: Step) -> None:
        if plan.progress:
            _print(line, number, len(models))
        if checkpoint is not None:
            checkpoint.write(state)

    ascents = [
        Ascent(
            model.to(device),
            fitted.batches(plan.batch_size, seed=plan.seed + number),
            steps=plan.steps,
            lr=plan.lr,
            seed=plan.seed + number,
            precision=plan.precision,
            validate=validate,
            every=every,
            patience=max(every, int(plan.steps * _PATIENT)),
            report=partial(looked, number),
            objective=None if fitted.strata is None else partial(elbo_by_stratum, model),
        )
        for number, model in enumerate(models)
    ]
    kept = checkpoint and checkpoint.begin(facts or {})
    if kept:
        table += kept["starts"]
        for ascent, stood in zip(ascents, kept["ascents"], strict=True):
            ascent.go_on_from(stood)
    if not table:
        first = plan.steps if len(ascents) == 1 else max(every, int(plan.steps * _FIRST) // every * every)
        for ascent in ascents:
            ascent.run(first)
        best = max(ascents, key=lambda ascent: float(ascent.best))
        table += [
            {"seed": a.seed, "steps": a.step, "validation_nats": float(a.best), "chosen": a is best} for a in ascents
        ]
    chosen = next(ascent for ascent, start in zip(ascents, table, strict=True) if start["chosen"])
    chosen.run(plan.steps)
    if checkpoint is not None:
        checkpoint.write(state, now=True)
    chosen.restore()
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
