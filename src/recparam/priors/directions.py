"""The table of directions: how each side treats the own row in the bank, and what that proves about the ELBO.

| prior | bank | side=None | "upper" | "lower" |
|---|---|---|---|---|
| InfoNCE | whole data set | exact | exact | exact |
| | whole data set, latents drawn | upper | upper, fresh draws | lower, fresh draws |
| | holds the scored rows | estimate, at most its ceiling | upper, own row left out | lower, own row left out |
| | other rows | estimate | upper | lower |
| density of its own | whole data set, also drawn | exact | exact | exact |
| | holds the scored rows | lower | upper, own row left out | lower |
| | other rows | estimate | upper | refused |
| optimal | whole data set, also drawn | exact | exact | exact |
| | holds the scored rows | estimate | upper, own row left out of R(z) | lower, own row left out of R(z, z') |
| | other rows | estimate | refused | refused |

In a queue every value is an estimate, and InfoNCE's sides are refused. InfoNCE's "lower" is 1 - log a - Zhat / a, with
a and Zhat from two disjoint halves of the bank, or from two draws of it. Directions hold in expectation, for Q = R,
independent rows and parameters that do not depend on the scored data; `recparam.bounds.directions` takes back what the
rows at hand do not allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from recparam.marginals.joint import Situation

Side = Literal["upper", "lower"] | None
Kind = Literal["lower", "upper", "exact", "estimate"]
Family = Literal["infonce", "density", "optimal"]
Own = Literal["kept", "left out", "fresh", "out of the marginals", "out of the joint"]


@dataclass(frozen=True)
class Direction:
    """One entry of the table.

    Args:
        kind: What the mean log-ratio is to the ELBO - const.
        own: What becomes of a row's own latents in the bank; "fresh": the bank's are drawn anew, its own included.
        limited: Whether the mean cannot exceed the entropy of the bank's weights, times the steps that are scored.
    """

    kind: Kind
    own: Own = "kept"
    limited: bool = False


_Sides = tuple[Direction, Direction | str, Direction | str]
"""side=None, "upper", "lower"; a text is why there is no such side, and the remedy."""

_EXACT = Direction("exact", limited=True)
_ESTIMATE = Direction("estimate")
_UPPER, _LOWER = Direction("upper", "left out"), Direction("lower", "left out")
_OLD = (
    "Expected side=None with a queue, whose old latents bound nothing; got {side!r}. "
    "Score with marginal=rp.BatchMarginal() or rp.DatasetMarginal(...)."
)
_NO_OWN = (
    "Expected side=None for the optimal prior with a bank without the scored rows; got {side!r}. "
    "Use marginal=rp.BatchMarginal() for a bound."
)
_NO_LOWER = (
    "Expected side='upper' or None with a bank that does not hold the scored rows; got {side!r}. "
    "Use marginal=rp.BatchMarginal(), whose self-included mixtures bound from below."
)
_TABLE: Mapping[Family, Mapping[Situation, _Sides]] = {
    "infonce": {
        Situation.EXACT: (_EXACT, _EXACT, _EXACT),
        Situation.EXACT_SAMPLED: (Direction("upper"), Direction("upper", "fresh"), Direction("lower", "fresh")),
        Situation.BATCH: (Direction("estimate", limited=True), _UPPER, _LOWER),
        Situation.INDEPENDENT: (_ESTIMATE, _UPPER, _LOWER),
        Situation.QUEUE: (Direction("estimate", limited=True), _OLD, _OLD),
    },
    "density": {
        Situation.EXACT: (_EXACT, _EXACT, _EXACT),
        Situation.EXACT_SAMPLED: (_EXACT, _EXACT, _EXACT),
        Situation.BATCH: (Direction("lower", limited=True), _UPPER, Direction("lower", limited=True)),
        Situation.INDEPENDENT: (_ESTIMATE, _UPPER, _NO_LOWER),
        Situation.QUEUE: (_ESTIMATE, _ESTIMATE, _ESTIMATE),
    },
    "optimal": {
        Situation.EXACT: (_EXACT, _EXACT, _EXACT),
        Situation.EXACT_SAMPLED: (_EXACT, _EXACT, _EXACT),
        Situation.BATCH: (
            Direction("estimate", limited=True),
            Direction("upper", "out of the marginals"),
            Direction("lower", "out of the joint"),
        ),
        Situation.INDEPENDENT: (_ESTIMATE, _NO_OWN, _NO_OWN),
        Situation.QUEUE: (_ESTIMATE, _ESTIMATE, _ESTIMATE),
    },
}


def direction(family: Family, situation: Situation, side: Side) -> Direction:
    """The entry of the table.

    Raises:
        ValueError: An unknown side, or one that does not exist with that bank.
    """
    if side not in (None, "upper", "lower"):
        raise ValueError(f"Expected side=None, 'upper' or 'lower'; got {side!r}.")
    entry = _TABLE[family][situation][(None, "upper", "lower").index(side)]
    if isinstance(entry, str):
        raise ValueError(entry.format(side=side))
    return entry
