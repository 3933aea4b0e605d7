"""What a comparison of models says: the evidence of each, the difference of each two, and whether it is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from recparam.comparison.difference import Difference, difference_of
from recparam.comparison.errors import values_of
from recparam.comparison.evidence import LEVEL, Evidence
from recparam.evaluation import interval_text
from recparam.evaluation.series import FEWEST

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison:
    """Models on the same targets; `print` shows it as a table.

    Args:
        models: The evidence of each, by name.
        differences: Of each two of them, in their order.
        targets: What is scored, in the paper's notation.
        rows: How many rows are scored; all that were given.
        steps: Steps of a chain in each row, over which a value is the sum.
        context: Observations of a row that come before the first one that is scored.
        bank: Where R(z) comes from, for people.
    """

    models: Mapping[str, Evidence]
    differences: tuple[Difference, ...]
    targets: str
    rows: int
    steps: int
    context: int
    bank: str

    def __getitem__(self, name: str) -> Evidence:
        """The evidence of a model."""
        return self.models[name]

    def difference(self, first: str, second: str) -> Difference:
        """The evidence of one model less that of another.

        Raises:
            KeyError: No such pair of models.
        """
        for found in self.differences:
            if (found.first, found.second) == (first, second):
                return found
        if first == second or first not in self.models or second not in self.models:
            raise KeyError(f"Expected two of {', '.join(self.models)}; got {first!r} and {second!r}.")
        return difference_of(first, self.models[first], second, self.models[second], steps=self.steps)

    @property
    def ranking(self) -> list[str]:
        """Names by estimate, the highest first."""
        return sorted(self.models, key=lambda name: -float(self.models[name].estimate))

    def facts(self) -> dict[str, Any]:
        """As plain values, for JSON; None where there is no such number, or it is infinite."""
        return {
            "targets": self.targets,
            "rows": self.rows,
            "steps": self.steps,
            "context": self.context,
            "bank": self.bank,
            "level": LEVEL,
            "models": [{"name": name, **evidence.facts()} for name, evidence in self.models.items()],
            "differences": [difference.facts() for difference in self.differences],
        }

    def table(self) -> str:
        """A table of the models, and one of their differences."""
        facts = self.facts()
        models = [
            [
                m["name"] + ("" if m["fair"] else " (*)"),
                interval_text(m["value_nats"], m["low_nats"], m["high_nats"]),
                _shown(m["lower_nats"], m["lower_kind"]),
                _shown(m["upper_nats"], m["upper_kind"]),
                _shown(m["ceiling_nats"]),
            ]
            for m in facts["models"]
        ]
        differences = [
            [
                f"{d['first']} - {d['second']}",
                interval_text(d["difference_nats"], d["difference_low_nats"], d["difference_high_nats"]),
                _between(d),
                d["verdict"],
            ]
            for d in facts["differences"]
        ]
        notes = [f"(*) {name}: {e.unfair}" for name, e in self.models.items() if e.unfair]
        notes += [
            f"{name} leaves {e.left_out} of the {self.steps} steps at R(z)."
            for name, e in self.models.items()
            if e.left_out
        ]
        notes += [
            f"No interval of {name}: {e.interval.blocks} independent blocks of rows, of {FEWEST} that it needs."
            for name, e in self.models.items()
            if e.interval.blocks < FEWEST
        ]
        sides = [side for e in self.models.values() for side in (e.lower, e.upper) if side is not None]
        if any(side.kind == "estimate" for side in sides):
            notes.append("~: estimates of the sides and no bounds, since rows of the bank are not independent.")
        steps = "" if self.steps == 1 else f", {self.steps} steps each"
        head = f"{self.targets}, nats per row; {self.rows} rows{steps}; bank: {self.bank}"
        return "\n".join(
            [
                head,
                *_aligned([["model", "estimate (95 %)", "lower", "upper", "ceiling"], *models]),
                *_aligned([["difference", "paired (95 %)", "by the bounds (95 %)", ""], *differences]),
                *notes,
            ]
        )

    def __str__(self) -> str:
        """The table."""
        return self.table()

    __repr__ = __str__

    def figure(self) -> Figure:
        """The table as a picture; a matplotlib figure with a canvas of its own."""
        from recparam.plots.comparison import draw_comparison

        return draw_comparison(self.facts())


def comparison(
    models: Mapping[str, Evidence], *, targets: str, steps: int = 1, context: int = 1, bank: str
) -> Comparison:
    """Take the differences of each two models.

    Args:
        models: Their evidence on the same rows, in order of time.
        targets: As `Comparison`.
        steps: As `Comparison`.
        context: As `Comparison`.
        bank: As `Comparison`.

    Raises:
        ValueError: Fewer than two models, other rows, other numbers of groups, or an estimate that is not finite.
    """
    if len(models) < 2:
        raise ValueError(f"Expected at least two models to compare; got {len(models)}. For one, use model.elbo.")
    rows = {name: len(evidence.estimate.per_observation) for name, evidence in models.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"Expected models that score the same rows; got {rows}. Give all of them the same data.")
    groups = {name: evidence.estimate.groups for name, evidence in models.items()}
    if len(set(groups.values())) > 1:
        raise ValueError(
            f"Expected bounds with one number of groups, as others do not compare (rp.elbo_of_groups); got {groups}. "
            "Use model.elbo, or rp.compare on the models."
        )
    for name, evidence in models.items():
        lost = int((~np.isfinite(values_of(evidence.estimate))).sum())
        if lost:
            raise ValueError(
                f"Expected finite values of {name}; got {lost} NaN or infinite ones in {rows[name]} rows. Look at its "
                "weights: its training diverged, or its latents are too far apart for its prior."
            )
    differences = tuple(
        difference_of(first, models[first], second, models[second], steps=steps)
        for first, second in combinations(models, 2)
    )
    return Comparison(dict(models), differences, targets, next(iter(rows.values())), steps, context, bank)


def _shown(value: float | None, kind: str | None = None) -> str:
    if value is None:
        return "-"
    return f"{'~' if kind == 'estimate' else ''}{value:.{'3f' if abs(value) < 1e4 else '1e'}}"


def _between(difference: Mapping[str, Any]) -> str:
    """The ends by the bounds, and in brackets how far the intervals of either reach."""
    ends_of = [_shown(difference[f"bounds_{end}_nats"]) for end in ("low", "high", "least", "most")]
    return f"{ends_of[0]} to {ends_of[1]} ({ends_of[2]} to {ends_of[3]})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
