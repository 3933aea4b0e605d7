"""How a fit is made: choices and starts by successive halving, of which the best is trained to the end."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from recparam.estimator.candidates import Candidate
from recparam.estimator.head import elbo_by_stratum
from recparam.estimator.held_out import validation
from recparam.estimator.predicted import Targets
from recparam.estimator.resuming import Checkpoint
from recparam.training.diverged import TrainingDiverged
from recparam.training.optimise import Optimisation, Step

_VALIDATIONS = 20  # in a whole fit
_PATIENCE = 1 / 3  # of the steps, without a better validation
EARLY, LATE = ((1 / 16, 1 / 8), (1 / 8, 1 / 4)), ((1.0, 1.0), (1 / 2, 1.0))  # of the steps: see `Plan`
Starts = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """Numbers of a fit.

    Args:
        steps: At most, of one start.
        starts: With the choice that is taken.
        batch_size: Pairs.
        lr: Learning rate; None: that of the encoder.
        seed: Decides everything random.
        progress: Whether to print each validation.
        precision: Of the steps, as in `Settings`.
        halvings: The parts of the steps after which choices are halved, and one of them taken; and likewise starts.
    """

    steps: int
    starts: int
    batch_size: int
    lr: float | None
    seed: int
    progress: bool
    precision: str = "32-true"
    halvings: tuple[tuple[float, float], tuple[float, float]] = EARLY

    def until(self, fraction: float) -> int:
        """The step at which that part of the steps is taken."""
        return max(1, round(self.steps * fraction))

    def budget(self, choices: int) -> int:
        """Steps of all starts together, at most."""
        first, second = map(self.until, self.halvings[0])
        third, fourth = map(self.until, self.halvings[1])
        steps = self.steps
        if choices > 1:
            steps += choices * first + _half(choices) * (second - first) - second
        if self.starts > 1:
            steps += (self.starts - 1) * third + (_half(self.starts) - 1) * (fourth - third)
        return steps


class Search:
    """The starts of a fit.

    Args:
        candidates: What is compared; with more than one, the one whose latents predict the most of `targets`.
        targets: See `predicted`; None where there is one candidate.
        plan: Numbers.
        device: Where to train.
        checkpoint: Where the state is kept, from which the fit resumes if there is one.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        targets: Targets | None,
        *,
        plan: Plan,
        device: torch.device,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.candidates, self.targets, self.plan, self.device = candidates, targets, plan, device
        self._checkpoint = checkpoint
        self._every = max(1, min(plan.steps // _VALIDATIONS or 1, 100))
        self._validate = [
            validation(one.fitted, one.held_out, bank_rows=one.bank_rows, device=device) for one in candidates
        ]
        self.table: Starts = []
        self._runs: list[Optimisation] = []
        self._kept: list[list[int]] = []  # of each round that is over

    def train(self, facts: Mapping[str, Any] | None = None) -> tuple[Optimisation, Candidate, int]:
        """Train by successive halving.

        Args:
            facts: What has to be equal in a fit that is resumed.

        Returns:
            The best, with its best state in the model; its candidate, and its number among the starts of that.
        """
        for number in range(len(self.candidates)):
            self._start(number, 0)
        kept = self._checkpoint and self._checkpoint.begin(facts or {})
        if kept:
            self._kept = kept["kept"]
            for place, nth in kept["starts"][len(self.candidates) :]:
                self._start(place, nth)
            for row, told in zip(self.table, kept["table"], strict=True):
                row.update(told)
            for run, state in zip(self._runs, kept["runs"], strict=True):
                run.load_state_dict(state)
        alive = list(range(len(self.candidates)))
        if len(alive) > 1:
            alive = self._round(0, alive, self.plan.halvings[0][0], _half(len(alive)), self._share)
            alive = self._round(1, alive, self.plan.halvings[0][1], 1, self._share)
        chosen = alive[0]
        if self.plan.starts > 1:
            if len(self._runs) == len(self.candidates):
                for nth in range(1, self.plan.starts):
                    self._start(chosen, nth)
            alive = [chosen, *range(len(self.candidates), len(self._runs))]
            alive = self._round(2, alive, self.plan.halvings[1][0], _half(len(alive)), self._bound)
            alive = self._round(3, alive, self.plan.halvings[1][1], 1, self._bound)
        best = self._runs[alive[0]]
        self.table[alive[0]]["chosen"] = True
        best.train(self.plan.steps)
        self._note(alive[0])
        if self._checkpoint is not None:
            self._checkpoint.write(self._state, now=True)
        best.restore_best()
        return best, self.candidates[chosen], self.table[alive[0]]["start"][1]

    def _start(self, place: int, nth: int) -> None:
        """One more start: the nth of a candidate."""
        number, candidate = len(self._runs), self.candidates[place]
        model = candidate.make(number, nth).to(self.device)
        self._runs.append(
            Optimisation(
                model,
                candidate.fitted.batches(self.plan.batch_size, seed=self.plan.seed + number),
                steps=self.plan.steps,
                lr=candidate.learning_rate if self.plan.lr is None else self.plan.lr,
                seed=self.plan.seed + number,
                precision=self.plan.precision,
                validate=self._validate[place],
                every=self._every,
                patience=max(self._every, int(self.plan.steps * _PATIENCE)),
                report=partial(self._report, number),
                objective=None if candidate.fitted.strata is None else partial(elbo_by_stratum, model),
            )
        )
        choice = candidate.choice
        self.table.append(
            {
                "choice": choice.text,
                "window": choice.window,
                "lag": list(choice.lag),
                "dropout": candidate.encoders(nth)[0].dropout_share,
                "seed": self.plan.seed + number,
                "steps": 0,
                "predicted_share": None,
                "validation_nats": None,
                "behind_nats": None,
                "chosen": False,
                "start": [place, nth],
            }
        )

    def _round(
        self, number: int, alive: list[int], fraction: float, keep: int, score: Callable[[int], float]
    ) -> list[int]:
        """Train these to that part of the steps, and keep as many of the best, best first."""
        if number < len(self._kept):
            return self._kept[number]
        scores: dict[int, float] = {}
        for place, start in enumerate(alive, start=1):
            try:
                self._runs[start].train(self.plan.until(fraction))
            except TrainingDiverged:
                if place == len(alive) and not scores:  # all of them did
                    raise
                continue
            self._note(start)
            scores[start] = score(start)
        if score == self._bound:
            for start, nats in scores.items():  # of the best, after as many steps
                self.table[start]["behind_nats"] = max(scores.values()) - nats
        found = sorted(scores, key=lambda start: -np.nan_to_num(scores[start], nan=-math.inf))[:keep]
        self._kept += [[] for _ in range(number - len(self._kept))] + [found]
        return found

    def _share(self, start: int) -> float:
        assert self.targets is not None
        candidate = self.candidates[self.table[start]["start"][0]]
        share = self.targets.share(self._runs[start].best_model(), candidate.fitted.recording)
        self.table[start]["predicted_share"] = share
        return share

    def _bound(self, start: int) -> float:
        return float(self._runs[start].best)

    def _note(self, start: int) -> None:
        run = self._runs[start]
        self.table[start] |= {"steps": run.step, "validation_nats": float(run.best)}

    def _state(self) -> dict[str, Any]:
        """What a fit resumes from: of the starts that still matter."""
        alive = set(self._kept[-1]) if self._kept else set(range(len(self._runs)))
        if len(self._kept) < 3:  # those of the second wave, too
            alive |= set(range(len(self.candidates), len(self._runs)))
        return {
            "kept": self._kept,
            "starts": [row["start"] for row in self.table],
            "table": self.table,
            "runs": [run.state_dict() if k in alive else {} for k, run in enumerate(self._runs)],
        }

    def _report(self, number: int, line: Step) -> None:
        if self.plan.progress:
            start = f"start {number + 1}  " if len(self.candidates) > 1 or self.plan.starts > 1 else ""
            print(
                f"{start}step {line['step']}  bound {line['bound_nats']:.3f}  "
                f"held out {line['validation_nats']:.3f} nats",
                file=sys.stderr,
            )
        if self._checkpoint is not None:
            self._checkpoint.write(self._state)


def _half(count: int) -> int:
    return -(-count // 2)
