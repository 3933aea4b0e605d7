"""The held-out pairs that a fit is evaluated on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recparam.bounds import Bound
from recparam.data.pairs import Pairs
from recparam.estimator.encoding import encoded_pairs
from recparam.estimator.head import Head
from recparam.model import RPM


def spread_out(count: int, most: int) -> np.ndarray:
    """At most so many indices of `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def spread_pairs(pairs: Pairs, most: int) -> np.ndarray:
    """At most so many of some pairs, evenly spaced; of each stratum as many."""
    if pairs.strata is None:
        return spread_out(len(pairs), most)
    names = np.unique(pairs.strata)
    each = [np.flatnonzero(pairs.strata == name) for name in names]
    return np.concatenate([members[spread_out(len(members), max(1, most // len(names)))] for members in each])


def strata_of(pairs: Pairs, chosen: np.ndarray | None = None) -> Tensor | None:
    """`Pairs.strata` of some pairs, or of all."""
    strata = pairs.strata
    return None if strata is None else torch.from_numpy(strata if chosen is None else strata[chosen])


def validation(
    fitted: Pairs, held_out: Pairs, *, bank_rows: np.ndarray, device: torch.device, most: int = 1024
) -> Callable[[RPM], Bound]:
    """A function that gives the held-out bound of a model.

    Args:
        fitted: Pairs that the bank is taken from.
        held_out: Pairs to score.
        bank_rows: Which of the fitted pairs are the bank.
        device: Where the model is.
        most: Held-out pairs, and pairs of the bank, that are used.
    """
    among = fitted.where(bank_rows)
    bank = bank_rows[spread_pairs(among, most)]
    scored = spread_pairs(held_out, most)
    strata, own = strata_of(fitted, bank), strata_of(held_out, scored)
    if strata is not None and own is not None:  # pairs of two sessions may be in one of the parts alone
        keep = torch.isin(own, strata)
        scored, own, strata = scored[keep.numpy()], own[keep].to(device), strata.to(device)

    def evaluate(model: RPM) -> Bound:
        head = Head(model, encoded_pairs(model, fitted, bank), strata=strata)
        return head.elbo(*encoded_pairs(model, held_out, scored), strata=own)

    return evaluate
