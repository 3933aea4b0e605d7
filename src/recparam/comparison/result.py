"""What a comparison of models says: the evidence of each, the difference of each two, and whether it is decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recparam.bounds import Bound, at_ceiling
from recparam.comparison.errors import EFFECTIVE, HEAVY, effective_share, error_of, rounding, values_of
from recparam.evaluation import interval_text
from recparam.evaluation.series import FEWEST, BlockInterval, around

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Basis = Literal["bounds", "estimates"]
LEVEL = 0.95
DECIDED = 0.99
"""The level at which a winner is declared: above that of the intervals, since several models are compared."""
_TIE = 16  # times the rounding of a mean, that of a row


@dataclass(frozen=True)
class Evidence:
    """What one model makes of the targets, in nats per row, less the constant that all models share.

    Args:
        estimate: The value with a row's own latents in its bank, which limits it.
        lower: A lower bound; None where the bank allows none.
        upper: An upper bound, of the ELBO; None where the bank allows none.
        unfair: Why the ELBO is not the log marginal likelihood; None: it is.
        order: Earlier latents that the prior reads.
        left_out: Of the steps compared, those that the prior leaves at R(z), and so scores zero.
        bank: Rows of its bank.
    """

    estimate: Bound
    lower: Bound | None = None
    upper: Bound | None = None
    unfair: str | None = None
    order: int = 1
    left_out: int = 0
    bank: int | None = None

    @property
    def fair(self) -> bool:
        """Whether the ELBO is the log marginal likelihood, so that a difference of two says nothing of encoders."""
        return self.unfair is None

    @property
    def interval(self) -> BlockInterval:
        """Interval of the estimate, over draws of the rows and of the bank; see `interval_of`."""
        return interval_of(self.estimate)

    @property
    def effective(self) -> float | None:
        """The share of the bank's rows that Z(z) rests on; None where it is not known."""
        return effective_share(self.estimate)

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        low, high = ends(self.interval)
        return {
            "kind": self.estimate.kind,
            "value_nats": float(self.estimate),
            "low_nats": low,
            "high_nats": high,
            "lower_nats": _number(self.lower),
            "lower_kind": self.lower and self.lower.kind,
            "upper_nats": _number(self.upper),
            "upper_kind": self.upper and self.upper.kind,
            "ceiling_nats": self.estimate.ceiling,
            "fair": self.fair,
            "unfair": self.unfair,
            "order": self.order,
            "steps_left_at_marginal": self.left_out,
            "bank_rows": self.bank,
            "bank_effective_share": self.effective,
            "blocks": self.interval.blocks,
        }


@dataclass(frozen=True)
class Difference:
    """The evidence of one model less that of another, on the same rows.

    Args:
        first: Name of the one.
        second: Name of the other.
        mean: Of the estimates, nats per row.
        paired: Its interval, over draws of the rows and of the bank; without ends for too few independent blocks.
        low: Lower bound of the first less upper bound of the second; None where a side is missing.
        high: Upper bound of the first less lower bound of the second; likewise.
        least: Low end of the interval of `low`; None where there is none.
        most: High end of that of `high`.
        proved: Whether these two sides are bounds, in expectation, and not estimates of them.
        better: Name of the one that is above the other; None: not decided.
        basis: What decides it: the bounds, or the estimates alone.
        hidden: Whether both are at their ceiling, so that the estimates could not differ.
        unfair: Those whose ELBO is not their evidence.
        tie: Whether they differ by no more than rounding.
        heavy: Why no interval can be trusted; None: nothing speaks against it.
    """

    first: str
    second: str
    mean: float
    paired: BlockInterval
    low: float | None
    high: float | None
    least: float | None
    most: float | None
    proved: bool
    better: str | None
    basis: Basis | None
    hidden: bool
    unfair: tuple[str, ...] = ()
    tie: bool = False
    heavy: str | None = None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.better is not None:
            other = self.second if self.better == self.first else self.first
            by = "by the bounds" if self.basis == "bounds" else "by the estimates alone"
            return f"{self.better} above {other}, {by}"
        if self.unfair:
            return f"not comparable: the ELBO of {' and '.join(self.unfair)} is not the evidence"
        if self.tie:
            return "a tie: equal up to rounding"
        if self.hidden:
            return "hidden by the ceiling"
        if self.heavy is not None:
            return f"not decided: {self.heavy}"
        if self.paired.blocks < FEWEST:
            return f"not decided: {self.paired.blocks} independent blocks of rows, of {FEWEST} that it needs"
        return "not decided"

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        low, high = ends(self.paired)
        return {
            "first": self.first,
            "second": self.second,
            "difference_nats": self.mean,
            "difference_low_nats": low,
            "difference_high_nats": high,
            "bounds_low_nats": self.low,
            "bounds_high_nats": self.high,
            "bounds_least_nats": self.least,
            "bounds_most_nats": self.most,
            "bounds_proved": self.proved,
            "better": self.better,
            "basis": self.basis,
            "blocks": self.paired.blocks,
            "hidden_by_ceiling": self.hidden,
            "tie": self.tie,
            "heavy_tails": self.heavy,
            "verdict": self.verdict,
        }


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


def difference_of(first: str, a: Evidence, second: str, b: Evidence, *, steps: int) -> Difference:
    """The evidence of a less that of b.

        lower(a) - upper(b)  <=  evidence(a) - evidence(b)  <=  upper(a) - lower(b)

    in expectation. Where the ELBO of a model is below its evidence by a gap of its own, its upper side bounds no
    evidence, and one end is missing. The bounds decide where the low end of the 99 % interval of lower(a) - upper(b) is
    above zero; the estimates where zero is outside of their 99 % interval. Rows and bank are samples in either: the
    bank moves all four sides by much more than they are apart. Nothing decides where a few rows have most of the
    error, where blocks are few, or within rounding.
    """
    estimates, banks = values_of(a.estimate) - values_of(b.estimate), ((1.0, a.estimate), (-1.0, b.estimate))
    floor, error = rounding([a.estimate, b.estimate]) if estimates.any() else 0.0, error_of(estimates, *banks)
    mean, rows = float(estimates.mean()), len(estimates)
    paired = around(mean, error, count=rows, level=LEVEL, floor=floor)
    unfair = tuple(name for name, one in ((first, a), (second, b)) if not one.fair)
    hidden = at_ceiling(a.estimate, steps=steps) and at_ceiling(b.estimate, steps=steps)
    tie = not hidden and float(np.sqrt(np.square(estimates).mean())) <= _TIE * floor
    heavy = _heavy({first: a, second: b}, error.tail)

    def of_sides(above: Bound | None, below: Bound | None) -> tuple[float | None, BlockInterval | None, bool | None]:
        """The mean of one side less another, its interval, and at 99 % whether it is above zero, or below it."""
        if above is None or below is None:
            return None, None, None
        values = values_of(above) - values_of(below)
        if not np.isfinite(values).all():
            return None, None, None
        mean, error = float(values.mean()), error_of(values, *banks)
        half = error.half_width(DECIDED)
        sure = half is not None and abs(mean) > half + floor
        return mean, around(mean, error, count=rows, level=LEVEL, floor=floor), mean > 0 if sure else None

    low, at_least, first_above = of_sides(a.lower, b.upper if b.fair else None)
    high, at_most, still_above = of_sides(a.upper if a.fair else None, b.lower)
    better: str | None = None
    basis: Basis | None = None
    half = error.half_width(DECIDED)
    if tie or heavy is not None:
        pass
    elif first_above and _is_bound(a.lower, "lower") and _is_bound(b.upper, "upper"):
        better, basis = first, "bounds"
    elif still_above is False and _is_bound(a.upper, "upper") and _is_bound(b.lower, "lower"):
        better, basis = second, "bounds"
    elif not unfair and not hidden and half is not None and abs(mean) > half + floor:
        better, basis = (first if mean > 0 else second), "estimates"
    return Difference(
        first=first,
        second=second,
        mean=mean,
        paired=paired,
        low=low,
        high=high,
        least=ends(at_least)[0],
        most=ends(at_most)[1],
        proved=all(
            _is_bound(side, kind) for one in (a, b) for side, kind in ((one.lower, "lower"), (one.upper, "upper"))
        ),
        better=better,
        basis=basis,
        hidden=hidden,
        unfair=unfair,
        tie=tie,
        heavy=heavy,
    )


def interval_of(bound: Bound) -> BlockInterval:
    """The 95 % interval of a mean over rows in order of time, over draws of the rows and of their bank.

    Without ends where there are fewer independent blocks than it needs.

    Raises:
        ValueError: Fewer than two rows, or values that are not finite.
    """
    values = values_of(bound)
    error = error_of(values, (1.0, bound))
    return around(float(values.mean()), error, count=len(values), level=LEVEL)


def ends(interval: BlockInterval | None) -> tuple[float | None, float | None]:
    """Low and high, or None where there is no interval."""
    return (None, None) if interval is None else (interval.interval.low, interval.interval.high)


def _heavy(models: Mapping[str, Evidence], tail: float) -> str | None:
    """Why the difference of two models has no interval that can be trusted."""
    shares = {name: one.effective for name, one in models.items()}
    narrow = {name: share for name, share in shares.items() if share is not None and share < EFFECTIVE}
    found = [f"{name} rests on {share:.0%} of its bank" for name, share in narrow.items()]
    if tail > HEAVY:
        found.append(f"a few rows have most of the error (tail index {tail:.1f})")
    return f"tails are too heavy, since {' and '.join(found)}" if found else None


def _is_bound(side: Bound | None, kind: str) -> bool:
    return side is not None and side.kind in (kind, "exact")


def _number(bound: Bound | None) -> float | None:
    return None if bound is None or not math.isfinite(float(bound)) else float(bound)


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
