"""Scores of several numbers of latents, the number that is chosen, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from recparam.comparison.evidence import Evidence
from recparam.comparison.result import Comparison
from recparam.estimator import RPMEstimator
from recparam.estimator.settings import Settings
from recparam.evaluation import interval_text
from recparam.evaluation.series import FEWEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORTH = 0.15
"""Of the nats that the best latent adds: the least for which a latent is worth it."""


@dataclass(frozen=True)
class DimScore:
    """What one number of latents is worth.

    Args:
        dim: The number.
        evidence: On the held-out pairs, in nats.
        left: What is left of the squares of each target of the predicted share, (M,); None: there are no targets.
        over: These squares, (M,).
    """

    dim: int
    evidence: Evidence
    left: Float[np.ndarray, " M"] | None = None
    over: Float[np.ndarray, " M"] | None = None

    @property
    def nats(self) -> float:
        """The held-out bound."""
        return float(self.evidence.estimate)

    @property
    def share(self) -> float | None:
        """The predicted share, see `recparam.estimator.predicted`; at most 1."""
        if self.left is None or self.over is None:
            return None
        return 1 - float(self.left.sum()) / float(self.over.sum())


@dataclass(frozen=True)
class Knee:
    """The number of latents that is chosen.

    Args:
        chosen: The number.
        gains: What each number adds to the bound, in nats for each of its further latents, over the best of the smaller
            numbers; zero latents have zero nats.
        adds: The same as parts of the largest of these and the earlier ones.
        why: In words.
    """

    chosen: int
    gains: tuple[float, ...]
    adds: tuple[float, ...]
    why: str


def knee(dims: Sequence[int], nats: Sequence[float]) -> Knee:
    """Choose the number of latents before the first that are not worth it.

    Further latents are worth it that add at least 15 % each of the nats that the best latent before them added. The
    bound keeps rising beyond what the world has: more latents say how well each row is known, and straighten what the
    prior's distance bends. A number whose bound is below that of a smaller one was fitted badly, and is passed over.

    Args:
        dims: Numbers of latents, in order.
        nats: The held-out bound of each.
    """
    before, best, most, chosen = 0, 0.0, 0.0, 0
    gains: list[float] = []
    adds: list[float] = []
    stopped = False
    for dim, value in zip(dims, nats, strict=True):
        gain = (value - best) / (dim - before)
        most = max(most, gain)
        gains.append(gain)
        adds.append(gain / most if most > 0 else 0.0)
        if gain > 0:
            before, best = dim, value
            stopped = stopped or adds[-1] < WORTH
            chosen = chosen if stopped else dim
    if not chosen:
        return Knee(dims[0], tuple(gains), tuple(adds), "the smallest number, since none has a bound above zero")
    why = f"the last number whose latents add at least {WORTH:.0%} each of the nats that the best latent adds"
    return Knee(chosen, tuple(gains), tuple(adds), why)


@dataclass(frozen=True)
class LatentDims:
    """How much each number of latents is worth; `print` shows it as a table.

    Args:
        scores: One for each number, in order.
        comparison: The evidence of each, and the difference of each two with its paired interval; by "1", "2", ...
        knee: The number that is chosen, and why.
        intrinsic: Intrinsic dimension of what the widest fit expects, E[z'|z]: see
            `recparam.evaluation.intrinsic.intrinsic_dimension`. It decides nothing.
        setting: Encoder, window, lag and dropout, which all fits share.
        estimators: The fits, by number.
    """

    scores: tuple[DimScore, ...]
    comparison: Comparison
    knee: Knee
    intrinsic: float
    setting: str
    estimators: Mapping[int, RPMEstimator]

    @property
    def dims(self) -> tuple[int, ...]:
        """The numbers, in order."""
        return tuple(score.dim for score in self.scores)

    @property
    def chosen(self) -> int:
        """The number that is chosen."""
        return self.knee.chosen

    @property
    def best_estimator(self) -> RPMEstimator:
        """The fit with the number that is chosen."""
        return self.estimators[self.chosen]

    def facts(self) -> dict[str, Any]:
        """As plain values, for JSON; None where there is no such number."""
        rows: list[dict[str, Any]] = []
        for score, gain, adds in zip(self.scores, self.knee.gains, self.knee.adds, strict=True):
            one = score.evidence.facts()
            rows.append(
                {
                    "latents": score.dim,
                    **{key: one[key] for key in ("value_nats", "low_nats", "high_nats", "ceiling_nats", "kind")},
                    "gain_nats_per_latent": gain,
                    "predicted_share": score.share,
                    "adds": adds,
                }
            )
        return {
            "chosen": self.chosen,
            "why": self.knee.why,
            "default": Settings.latent_dim,
            "advice": self.advice,
            "intrinsic_dimension": self.intrinsic if np.isfinite(self.intrinsic) else None,
            "setting": self.setting,
            "pairs": self.comparison.rows,
            "targets": self.comparison.targets,
            "dims": rows,
            "differences": self.comparison.facts()["differences"],
        }

    @property
    def advice(self) -> str:
        """Whether more latents than the default are worth it."""
        default = Settings.latent_dim
        if self.chosen > default:
            return f"More latents than the default of {default} are worth it: use {self.chosen}."
        if self.chosen == default:
            return f"The default of {default} latents is enough."
        return f"Fewer latents than the default of {default} are enough: use {self.chosen}."

    def table(self) -> str:
        """The table, what is chosen and why."""
        facts = self.facts()
        rows = [["latents", "held out, nats (95 %)", "gain per latent", "of the best", "predicted share", ""]]
        for row in facts["dims"]:
            gain, share = row["gain_nats_per_latent"], row["predicted_share"]
            rows.append(
                [
                    str(row["latents"]),
                    interval_text(row["value_nats"], row["low_nats"], row["high_nats"]),
                    f"{gain:+.3f}",
                    f"{row['adds']:.0%}",
                    "-" if share is None else f"{share:.3f}",
                    "chosen" if row["latents"] == self.chosen else "",
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        notes: list[str] = []
        if any(row["low_nats"] is None for row in facts["dims"]):
            notes.append(f"No interval where held-out pairs make fewer than {FEWEST} independent blocks.")
        intrinsic = "-" if facts["intrinsic_dimension"] is None else f"{self.intrinsic:.1f}"
        return "\n".join(
            [
                f"{facts['targets']}, {facts['pairs']} held-out pairs; {self.setting}",
                *("  " + line for line in lines),
                *notes,
                f"Chosen: {self.chosen}, {self.knee.why}.",
                f"Intrinsic dimension of what {self.dims[-1]} latents expect: {intrinsic}. It decides nothing.",
                self.advice,
            ]
        )

    def __str__(self) -> str:
        """The table."""
        return self.table()

    __repr__ = __str__

    def plot(self) -> Figure:
        """The held-out bound and the predicted share by number of latents; a figure with a canvas of its own."""
        from recparam.plots.dims import draw_dims

        return draw_dims(self.facts())
