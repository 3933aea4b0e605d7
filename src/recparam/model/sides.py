"""The estimate, the lower and the upper side of a model's evidence, step by step of a chain, against one bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from recparam import bounds
from recparam.bounds import Bound
from recparam.bounds.influence import OfBank, summed
from recparam.couplings import ChainStep, Coupling, chain_steps
from recparam.couplings.chains import FirstOrder
from recparam.data.labels import Labels
from recparam.marginals import BatchMarginal, DatasetMarginal, Marginal
from recparam.marginals.bank import halves_in_turn
from recparam.marginals.points import of_points
from recparam.model.rpm import RPM
from recparam.priors import InfoNCEPrior, Prior, Side

SIDES: tuple[Side, ...] = (None, "lower", "upper")  # the estimate first


@dataclass(frozen=True)
class Against:
    """A bank: the scored rows themselves, or other ones.

    Args:
        observations: Of the other rows, one (K, ...) per observation; None: the scored rows are the bank.
        labels: Who they are.
        exclude_within: As of `rp.BatchMarginal`, where the scored rows are the bank.
    """

    observations: Sequence[Tensor] | None = None
    labels: Labels | None = None
    exclude_within: float | None = None


def steps_from(prior: Prior, *, length: int, context: int) -> list[ChainStep]:
    """The steps of a chain of J latents that come after `context` of them, and that the prior has a coupling for.

    Raises:
        ValueError: A coupling that waits for data, windows of more than two under a prior that is no chain, or no step.
    """
    if type(prior) is not InfoNCEPrior:
        raise ValueError(
            f"Expected rp.InfoNCEPrior for windows of {length}, whose steps can be told apart; got "
            f"{type(prior).__name__}. Compare pairs."
        )
    steps = [step for step in chain_steps(prior.coupling, prior.first, length) if step.index >= context]
    if not steps:
        raise ValueError(f"Expected a prior that scores a step after {context} latents of {length}; got none.")
    for step in steps:
        step.coupling.check_initialised()
    return steps


def sides_of_latents(
    prior: Prior,
    latents: Sequence[Tensor],
    against: Against,
    *,
    labels: Labels | None,
    context: int,
    sides: Sequence[Side] = SIDES,
) -> list[Bound]:
    """Estimate, lower and upper side of the steps of windows of latents that are points, summed over steps.

    The lower side of an InfoNCE prior is the mean of two, with either half of the bank (`banks.halves_in_turn`) as that
    which a comes from. With a and b the means of f over halves of equal size, the upper side is, row by row, at least

        log f - log (a + b) / 2  >=  log f + 1 - (log a + log b) / 2 - (a / b + b / a) / 2

    since log cosh t <= 2 sinh^2 t, t = log(a / b) / 2: a bank whose halves differ, as where a series drifts, gives wide
    sides, and never sides in the wrong order.

    Args:
        prior: One without densities.
        latents: z_1 to z_J, each (B, D).
        against: Its observations are latents too.
        labels: Who the rows are.
        context: Latents before the first step that is scored.
        sides: Those to take.
    """
    if len(latents) == 2 and not (type(prior) is InfoNCEPrior and prior.coupling.order > 1):
        if isinstance(prior, InfoNCEPrior):
            prior.coupling.check_initialised()
        return [_side(prior, latents, against, labels, side) for side in sides]
    steps = steps_from(prior, length=len(latents), context=context)
    totals: list[Bound] = []
    for side in sides:
        parts: list[Bound] = []
        for step in steps:
            at_step, other = against, against.observations
            if other is not None:
                at_step = replace(against, observations=(step.context(other), other[step.index]))
            pair = (step.context(latents), latents[step.index])
            parts.append(_side(InfoNCEPrior(FirstOrder(step.coupling)), pair, at_step, labels, side))
        totals.append(_total(parts))
    return totals


def sides_of_draws(
    model: RPM,
    observations: Sequence[Tensor],
    against: Against,
    *,
    labels: Labels | None,
    num_samples: int,
    seed: int,
) -> list[Bound | None]:
    """The same of pairs whose latents are drawn from a model's Q; a side is None where there is no such."""
    found: list[Bound | None] = []
    recognition: Any = model.recognition[0] if model.shared else list(model.recognition)
    among = RPM(recognition, model.prior, posterior=model.posterior, marginal=_marginal(against))
    for side in SIDES:
        if side == "lower" and against.observations is not None and not isinstance(
            model.prior, InfoNCEPrior
        ):
            found.append(None)  # self-included mixtures need the scored rows in the bank
            continue
        generator = torch.Generator(observations[0].device).manual_seed(seed)
        found.append(
            among.elbo(*observations, side=side, labels=labels, num_samples=num_samples, generator=generator)
        )
    return found


def beside_bank(coupling: Coupling, z: Tensor, z_prime: Tensor, bank: Tensor) -> Bound:
    """The estimate against a bank of K other z', with a row's own beside them: at most log(K + 1), as in a batch."""
    bound = bounds.infonce(coupling, z, z_prime, negatives=bank, across_processes=False)
    return replace(bound, of="elbo", kind="estimate")


def _side(prior: Prior, pair: Sequence[Tensor], against: Against, labels: Labels | None, side: Side) -> Bound:
    other = against.observations
    if other is not None and side is None and isinstance(prior, InfoNCEPrior) and len(pair) == 2:
        return beside_bank(prior.coupling, pair[0], pair[1], other[1])
    if side != "lower" or not isinstance(prior, InfoNCEPrior):
        return bounds.elbo(prior, of_points(*pair, bank=_marginal(against), labels=labels), side=side)
    order = halves_in_turn(len((other or pair)[0]))
    return _mean_of([_lower(prior, pair, against, labels, turn) for turn in (order, len(order) - 1 - order)])


def _lower(prior: Prior, pair: Sequence[Tensor], against: Against, labels: Labels | None, order: Tensor) -> Bound:
    """The lower side with the rows of the bank in that order."""
    other = against.observations
    order = order.to(pair[0].device)
    back = order.argsort()

    def of_bank() -> OfBank:
        columns = cast(OfBank, found.influence())[0][back]
        return columns, torch.arange(len(columns), device=columns.device) if other is None else None

    if other is not None:
        mixed = replace(against, observations=[z[order] for z in other], labels=_moved(against.labels, order))
        found = bounds.elbo(prior, of_points(*pair, bank=_marginal(mixed), labels=labels), side="lower")
        return replace(found, of_bank=of_bank)
    turned = of_points(*(z[order] for z in pair), bank=_marginal(against), labels=_moved(labels, order))
    found = bounds.elbo(prior, turned, side="lower")
    return replace(found, per_observation=found.per_observation[back], of_bank=of_bank)


def _moved(labels: Labels | None, order: Tensor) -> Labels | None:
    return None if labels is None else labels.map(lambda part: part[order.to(part.device)])


def _marginal(against: Against) -> Marginal:
    if against.observations is None:
        return BatchMarginal(exclude_within=against.exclude_within, across_processes=False)
    return DatasetMarginal(*against.observations, labels=against.labels)


def _mean_of(parts: Sequence[Bound]) -> Bound:
    """The mean of bounds of one kind."""
    return replace(
        parts[0],
        value=torch.stack([part.value for part in parts]).mean(),
        per_observation=torch.stack([part.per_observation for part in parts]).mean(0),
        terms={name: torch.stack([part.terms[name] for part in parts]).mean() for name in parts[0].terms},
        of_bank=summed([(1 / len(parts), part) for part in parts]),
    )


def _total(parts: Sequence[Bound]) -> Bound:
    """The sum over steps of bounds of one kind."""
    ceilings = [part.ceiling for part in parts]
    return Bound(
        torch.stack([part.value for part in parts]).sum(),
        torch.stack([part.per_observation for part in parts]).sum(0),
        parts[0].of,
        parts[0].kind,
        None if any(c is None for c in ceilings) else sum(c or 0.0 for c in ceilings),
        terms={name: torch.stack([part.terms[name] for part in parts]).sum() for name in parts[0].terms},
        doubt=parts[0].doubt,
        of_bank=summed([(1.0, part) for part in parts]),
    )
