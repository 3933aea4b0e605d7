"""What one model makes of the targets, with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from recparam.bounds import Bound
from recparam.bounds.influence import effective_share
from recparam.comparison.errors import error_of, values_of
from recparam.evaluation.series import BlockInterval, around

LEVEL = 0.95


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
        influence = self.estimate.influence()
        return None if influence is None else float(effective_share(influence[0].double()))

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        _, low, high = self.interval.interval
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


def interval_of(bound: Bound) -> BlockInterval:
    """The 95 % interval of a mean over rows in order of time, over draws of the rows and of their bank.

    Without ends where there are fewer independent blocks than it needs.

    Raises:
        ValueError: Fewer than two rows, or values that are not finite.
    """
    values = values_of(bound)
    error = error_of(values, (1.0, bound))
    return around(float(values.mean()), error, count=len(values), level=LEVEL)


def _number(bound: Bound | None) -> float | None:
    return None if bound is None or not math.isfinite(float(bound)) else float(bound)
