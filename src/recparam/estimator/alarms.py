"""Warnings of a fit: collapse, saturated bounds and overfitting, each with a remedy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recparam.bounds import Bound
from recparam.training.optimise import Step

_NEAR_CEILING = 0.1  # nats, as `bounds.CeilingWarning`
_FLAT = 1e-4  # smallest over largest variance, below which a dimension holds nothing
_BEHIND = 0.08  # of the bound: a start that ended elsewhere
_TINY = 1e-6  # spread over size: rounding


class FitWarning(UserWarning):
    """A fit is suspect; the text says why, and what to try."""


def alarms(
    z: Tensor, *, held_out: Bound, step: int, history: Sequence[Step], starts: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """What is wrong with a fit: a sentence and a remedy for each fault; empty if there is none.

    Args:
        z: Held-out latents, shape (B, D).
        held_out: The held-out bound of the weights that are kept.
        step: The step of these weights.
        history: One dictionary per evaluation on the held-out rows.
        starts: One dictionary per start, as `restarts_`.
    """
    found: list[str] = []
    z = z.double()
    variances = torch.linalg.eigvalsh(torch.cov(z.T).reshape(z.shape[1], -1))
    nats, ceiling, last = float(held_out), held_out.ceiling, float(history[-1]["validation_nats"] or 0.0)
    if float(variances[-1]) ** 0.5 <= _TINY * max(1.0, float(z.abs().max())):
        found.append(
            "The latents have collapsed: all held-out rows have the same latents. Try more restarts, a smaller "
            "learning_rate, or a longer lag, at which x and x' differ."
        )
    elif float(variances[0]) < _FLAT * float(variances[-1]):
        rank = int((variances >= _FLAT * variances[-1]).sum())
        found.append(
            f"The latents span {rank} of {z.shape[1]} dimensions; the rest hold nothing. Use latent_dim={rank}, or "
            "try restarts= if the data should have more."
        )
    dropout = next((start["dropout"] for start in starts if start["chosen"]), None)
    alike = [start for start in starts if start["behind_nats"] is not None and start["dropout"] == dropout]
    behind = [start["behind_nats"] for start in alike if start["behind_nats"] > _BEHIND * max(1.0, nats)]
    if len(alike) >= 3 and len(behind) * 2 > len(alike):
        found.append(
            f"{len(behind)} of {len(alike)} starts ended in folds or in part of the data, up to {max(behind):.2f} nats "
            "behind the best, which may be folded, too. Use more restarts, and compare seeds with "
            "recparam.evaluation.consistency."
        )
    if ceiling is not None and nats > ceiling - _NEAR_CEILING:
        found.append(
            f"The held-out bound, {nats:.2f} nats, is at its ceiling of {ceiling:.2f}, the most that a bank of this "
            "size can show, so that fits cannot be told apart. Use a larger bank_size, or a longer lag."
        )
    elif not nats > 2 * held_out.standard_error:
        found.append(
            f"The held-out bound is {nats:.2f} nats, not above zero beyond its error: the model has found nothing "
            "that x says of x'. Check that the rows are in the order of observation, or try another lag or encoder."
        )
    elif last < nats - max(0.2, 0.1 * nats):
        found.append(
            f"The model overfits: the held-out bound fell from {nats:.2f} nats at step {step}, whose weights "
            f"are kept, to {last:.2f} at step {history[-1]['step']}. Try more data, more dropout or a smaller encoder."
        )
    return found


def warn(messages: Sequence[str], *, stacklevel: int) -> None:
    """Warn of each; `stacklevel` as in `warnings.warn`."""
    for message in messages:
        warnings.warn(message, FitWarning, stacklevel=stacklevel + 1)
