"""The difference of the evidence of two models, and whether it is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recparam.bounds import Bound, at_ceiling
from recparam.comparison.errors import EFFECTIVE, HEAVY, error_of, rounding, values_of
from recparam.comparison.evidence import LEVEL, Evidence
from recparam.evaluation import Interval
from recparam.evaluation.series import FEWEST, BlockInterval, around

Basis = Literal["bounds", "estimates"]
DECIDED = 0.99
"""The level at which a winner is declared: above that of the intervals, since several models are compared."""
_NoInterval = tuple[None, None, None]
_TIE = 16  # times the rounding of a mean, that of a row


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
        _, low, high = self.paired.interval
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
    floor = rounding([a.estimate, b.estimate]) if estimates.any() else 0.0

    def judged(values: np.ndarray) -> tuple[BlockInterval, bool | None, float]:
        """The interval of a mean, at 99 % whether it is above zero, or below it, and the index of its error's tail."""
        mean, error = float(values.mean()), error_of(values, *banks)
        half = error.half_width(DECIDED)
        sure = half is not None and abs(mean) > half + floor
        interval = around(mean, error, count=len(values), level=LEVEL, floor=floor)
        return interval, mean > 0 if sure else None, error.tail

    paired, above, tail = judged(estimates)
    unfair = tuple(name for name, one in ((first, a), (second, b)) if not one.fair)
    hidden = at_ceiling(a.estimate, steps=steps) and at_ceiling(b.estimate, steps=steps)
    tie = not hidden and float(np.sqrt(np.square(estimates).mean())) <= _TIE * floor
    heavy = _heavy({first: a, second: b}, tail)

    def of_sides(one: Bound | None, other: Bound | None) -> tuple[Interval, bool | None] | tuple[_NoInterval, None]:
        """The interval of one side less another, and at 99 % whether it is above zero, or below it."""
        values = None if one is None or other is None else values_of(one) - values_of(other)
        if values is None or not np.isfinite(values).all():
            return (None, None, None), None
        found, above, _ = judged(values)
        return found.interval, above

    (low, least, _), first_above = of_sides(a.lower, b.upper if b.fair else None)
    (high, _, most), still_above = of_sides(a.upper if a.fair else None, b.lower)
    better: str | None = None
    basis: Basis | None = None
    if tie or heavy is not None:
        pass
    elif first_above and _is_bound(a.lower, "lower") and _is_bound(b.upper, "upper"):
        better, basis = first, "bounds"
    elif still_above is False and _is_bound(a.upper, "upper") and _is_bound(b.lower, "lower"):
        better, basis = second, "bounds"
    elif not unfair and not hidden and above is not None:
        better, basis = (first if above else second), "estimates"
    return Difference(
        first=first,
        second=second,
        mean=paired.interval.mean,
        paired=paired,
        low=low,
        high=high,
        least=least,
        most=most,
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
