"""Calibration of predictions, and retrieval of partners: their own probabilities against what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import beta
from torch import Tensor

from recparam.evaluation.arrays import as_array
from recparam.evaluation.intervals import Interval
from recparam.model.prediction import Prediction
from recparam.ops import Places
from recparam.utils.checks import is_whole


class Calibration(NamedTuple):
    """Coverage of credible sets, per level.

    Args:
        levels: Nominal probabilities.
        coverage: Share of the targets in their sets, with its binomial interval; ideally the level.
        gap: Mean over levels of |coverage - level|; ideally zero.
        expected_gap: What the gap would be on average by chance alone, from as many independent targets of a
            prediction that is calibrated (normal approximation).
        shares: Mean R(z') of the sets, their size; the level for a prediction that ignores z, which is calibrated too
            if R is. Smaller is sharper.
        count: Number of targets.
    """

    levels: tuple[float, ...]
    coverage: tuple[Interval, ...]
    gap: float
    expected_gap: float
    shares: tuple[float, ...]
    count: int


def calibration(
    prediction: Prediction,
    targets: Int[Tensor, " _A"] | Float[Tensor, "_A _E"],
    *,
    levels: Sequence[float] = (0.5, 0.8, 0.95),
    confidence: float = 0.95,
) -> Calibration:
    """How often what followed was in the credible set, against the set's probability.

    Candidates as dense as the target are counted in the proportion that the level takes of them, so that coverage
    has the level as its mean for few candidates too. Intervals (Clopper-Pearson) take the rows to be independent;
    those of neighbours in a series are too narrow.

    Args:
        prediction: P(z'|z) for A rows, of a model not fitted to the targets.
        targets: What followed each row: latents z', shape (A, D'), or indices of candidates, shape (A,). Candidates
            should not hold the targets where those are scored as latents not seen before.
        levels: Nominal probabilities between 0 and 1.
        confidence: Probability that an interval covers the true coverage.

    Returns:
        Coverage per level, the mean absolute gap, and what each would be ideally and by chance.

    Raises:
        ValueError: No levels, a level or confidence outside (0, 1), or targets that do not fit the prediction.
    """
    if not isinstance(prediction, Prediction):
        raise ValueError(f"Expected a Prediction, as of model.predictive(x, x_prime); got {prediction!r}.")
    wanted = as_array("levels", levels)
    if wanted.ndim != 1 or not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"Expected levels between 0 and 1, such as (0.5, 0.8, 0.95); got {levels!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"Expected confidence between 0 and 1, such as 0.95; got {confidence!r}.")
    above, tied = (part.double().cpu().numpy() for part in prediction.ranks(targets))
    count, tail = len(above), (1 - confidence) / 2
    coverage: list[Interval] = []
    for level in wanted:
        within = np.where(tied > 0, (level - above) / np.where(tied > 0, tied, 1), above < level)
        hits = float(np.clip(within, 0, 1).sum())
        low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, count - hits + 1))
        high = 1.0 if hits >= count else float(beta.ppf(1 - tail, hits + 1, count - hits))
        coverage.append(Interval(hits / count, low, high))
    gaps = [abs(c.mean - level) for c, level in zip(coverage, wanted, strict=True)]
    return Calibration(
        levels=tuple(float(level) for level in wanted),
        coverage=tuple(coverage),
        gap=float(np.mean(gaps)),
        expected_gap=float(np.sqrt(2 / math.pi * wanted * (1 - wanted) / count).mean()),
        shares=tuple(float(prediction.credible_set(float(level)).share.double().mean()) for level in wanted),
        count=count,
    )


class Retrieval(NamedTuple):
    """How often a row's partner is among the best candidates, beside what a blind guess would reach.

    Args:
        at: Numbers k of candidates.
        recall: Share of the rows whose partner is among the k best.
        chance: The same for candidates in random order, k / size.
        median_rank: Median place of the partner, 1 for the best; half the size and a half by chance.
        chance_rank: (size + 1) / 2.
        mean_reciprocal_rank: Mean of one over the partner's place.
        size: Number of candidates.
        count: Number of rows.
    """

    at: tuple[int, ...]
    recall: tuple[float, ...]
    chance: tuple[float, ...]
    median_rank: float
    chance_rank: float
    mean_reciprocal_rank: float
    size: int
    count: int


def retrieval(places: Places, *, at: Sequence[int] = (1, 5, 10)) -> Retrieval:
    """Recall among the best candidates, and the partner's place, with chance beside them.

    Candidates that tie with the partner are taken in random order, and each metric is the expectation over it: an
    encoder that gives all rows one latent comes out at chance, neither perfect nor hopeless. The median is that of
    expected places.

    Args:
        places: Of partners, as of `model.match(x, x_prime).places()`.
        at: Numbers k of candidates; a k above their number gives a recall of one.

    Returns:
        Recall, median place and mean reciprocal place, with the chance level of the first two.

    Raises:
        ValueError: places of another type, or `at` that is not whole numbers of at least one.

    Example:
        >>> import torch
        >>> from recparam.ops import Places
        >>> retrieval(Places(torch.tensor([0, 3]), torch.tensor([1, 1]), 100), at=(1, 5)).recall
        (0.5, 1.0)
    """
    if not isinstance(places, Places):
        raise ValueError(f"Expected places as of model.match(x, x_prime).places(); got {places!r}.")
    ks = torch.as_tensor(at)
    if ks.ndim != 1 or not len(ks) or not is_whole(ks) or int(ks.min()) < 1:
        raise ValueError(f"Expected at as whole numbers of at least 1, such as (1, 5, 10); got {at!r}.")
    above, tied = (part.double().cpu().numpy() for part in places[:2])
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int((above + tied).max()) + 1))])
    reciprocal = (harmonic[(above + tied).astype(int)] - harmonic[above.astype(int)]) / tied
    return Retrieval(
        at=tuple(int(k) for k in at),
        recall=tuple(float(np.clip((k - above) / tied, 0, 1).mean()) for k in at),
        chance=tuple(min(k / places.size, 1.0) for k in at),
        median_rank=float(np.median(above + (tied + 1) / 2)),
        chance_rank=(places.size + 1) / 2,
        mean_reciprocal_rank=float(reciprocal.mean()),
        size=places.size,
        count=len(above),
    )
