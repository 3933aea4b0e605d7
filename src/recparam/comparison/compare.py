"""Held-out evidence of several models: the same targets against the same bank, and the difference of each two."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from recparam.bounds import Bound, CeilingWarning
from recparam.bounds.doubts import doubt_of_encoding
from recparam.comparison.evidence import Evidence
from recparam.comparison.result import Comparison, comparison
from recparam.comparison.targets import Targets, targets_of
from recparam.data.contexts import with_contexts
from recparam.data.labels import Labels
from recparam.data.pairs import Pairs
from recparam.estimator import RPMEstimator
from recparam.estimator.fitted import Fitted
from recparam.estimator.inputs import recording_and_pairs
from recparam.model import RPM
from recparam.model.sides import Against, sides_of_draws, sides_of_latents, steps_from
from recparam.priors import InfoNCEPrior, OptimalPrior, ParametricPrior, Prior
from recparam.recognition import Dirac
from recparam.utils.evaluating import evaluating

Model = RPM | RPMEstimator

_ALIKE = 1.01  # banks that differ by less change an estimate by less than a hundredth of a nat
_OF_OTHER_ORDERS = 2
_DRAWS = 16
_STOCHASTIC = "its encoder is stochastic, so that its ELBO is below the evidence by a gap that depends on the prior"


def compare(
    models: Mapping[str, Model] | Sequence[Model],
    data: Any,
    *,
    bank: Any = None,
    window: int | None = None,
    lag: int = 1,
    context: int | None = None,
    labels: Labels | None = None,
    exclude_within: float | None = None,
    X_prime: Any = None,
    sessions: Any = None,
    times: Any = None,
    pairs: Pairs | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare models by their evidence on data that none of them was fitted to, in nats per row.

    With a deterministic encoder the ELBO is the log marginal likelihood, less log R_base(x) R_base(x'), which neither
    prior nor encoder touches (App. C of the paper). So the same rows, against the same bank, rank any encoders and
    InfoNCE priors. docs/comparing.md says what that means, and when it is unfair.

    Of windows x_1, ..., x_J the steps are scored that come after `context` observations,
    log P(x_{context+1}, ..., x_J|x_1, ..., x_context): by default as many as the prior of the highest order reads, so
    that every model has what it reads.

    Rows are taken to be independent or exchangeable, or else a stationary series, with a bank that is another recording
    or far from the scored rows in time. Of a series no side is proved; its lower side rests on the earlier and the
    later half of the bank being nearly independent (`recparam.marginals.bank.halves_in_turn`; docs/comparing.md).

    Args:
        models: Fitted models by name, or a list of them; at least two. `rp.RPM`, or `rp.RPMEstimator`.
        data: A tuple (x_1, ..., x_J) of aligned observations, each (B, ...), rows in order of time; or a recording (as
            of `RPMEstimator.fit`) with `window=`, with `pairs=` or, where all models are estimators, alone, which
            makes pairs of it at their lag.
        bank: Other data of the same form, which R(z) is estimated from for all models, whatever they were trained
            with. None: the data themselves; of estimators on a recording, the bank of fitted pairs that each keeps,
            of which the larger ones are thinned to the size of the smallest.
        window: J, the observations of a window, where the data are a recording; windows never cross a session's end.
        lag: Rows between neighbours of such a window.
        context: Observations before the first that is scored. Where it is fewer than a prior reads, its first steps are
            scored by its factors of lower order or its `first=`, and left at R(z) where it has neither.
        labels: Who the rows of a tuple are, which says whether they are independent.
        exclude_within: As of `rp.BatchMarginal`, where the bank is the data: neighbours in time left out of R(z).
        X_prime: As of `RPMEstimator.fit`.
        sessions: As of `RPMEstimator.fit`.
        times: As of `RPMEstimator.fit`.
        pairs: Pairs of a recording, of `recparam.data.pairs`.
        seed: Of the draws of latents that are no points.

    Returns:
        A `Comparison`: for each model an estimate (own latents kept in the bank, at most the log of its size), a lower
        and an upper side; for each two models the difference with a paired interval, and a verdict.

    Raises:
        NonFiniteError: An observation holds NaN or infinity.
        ValueError: Fewer than two models, models that pair rows otherwise or keep banks of other sizes, an optimal
            prior, a coupling that waits for data, windows longer than a session or shorter than a prior reads, or
            values that are not finite.

    A `CeilingWarning` says where two models are both at their ceiling, below which their difference cannot be seen.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
        >>> x_prime = x + 0.3 * torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
        >>> right, wide = (
        ...     rp.RPM(rp.Deterministic(torch.nn.Identity()), rp.InfoNCEPrior(rp.GaussianRBF(s))) for s in (0.3, 3.0)
        ... )
        >>> rp.compare({"right": right, "wide": wide}, (x, x_prime)).difference("right", "wide").verdict
        'right above wide, by the bounds'
    """
    named = _named(models)
    estimators = {name: model for name, model in named.items() if isinstance(model, RPMEstimator)}
    own_banks = len(estimators) == len(named) and bank is None and window is None and not isinstance(data, tuple)
    if own_banks:
        if labels is not None or exclude_within is not None or context is not None:
            raise ValueError(
                "Expected labels=, exclude_within= and context= with a tuple or window=; got them with pairs of "
                "estimators, which keep a bank of their own."
            )
        if pairs is None and X_prime is None:
            _check_alike("lag", {name: e.lag_ for name, e in estimators.items()}, "Fit them alike, or give pairs=.")
        first = next(iter(estimators.values()))
        given = cast(
            Pairs,
            recording_and_pairs(data, X_prime, sessions=sessions, times=times, pairs=pairs, lag=first.lag_, order=1)[1],
        )
        banks = {name: e.bank_size_ for name, e in estimators.items()}
        # A prior that reads several rows has fewer pairs in short trials, and so may have a smaller bank.
        alike = _ALIKE if len({e.order_ for e in estimators.values()}) == 1 else _OF_OTHER_ORDERS
        if max(banks.values()) > alike * min(banks.values()):
            remedy = f"Fit them with bank_size={min(banks.values())}, or give window= and lag=."
            _check_alike("bank_size", banks, remedy)
        return compare_estimators(estimators, dict.fromkeys(estimators, given))
    if X_prime is not None:
        raise ValueError("Expected X_prime= with estimators alone; got other models or a bank. Give a tuple (x, x').")
    targets = targets_of(
        "data", data, window=window, lag=lag, pairs=pairs, labels=labels, sessions=sessions, times=times
    )
    others = None
    if bank is not None:
        if exclude_within is not None:
            raise ValueError("Expected exclude_within= where the bank is the data; got bank= too. Leave one out.")
        given = bank if isinstance(bank, Pairs) else None
        others = targets_of("bank", None if given else bank, window=window, lag=lag, pairs=given)
        others = others.apart_from(targets)
        if others.length != targets.length:
            raise ValueError(
                f"Expected a bank of {targets.length} observations, as the data; got {others.length}."
            )
    rpms = {name: model.model_ if isinstance(model, RPMEstimator) else model for name, model in named.items()}
    return _compare_models(rpms, targets, others, context=context, exclude_within=exclude_within, seed=seed)


def compare_estimators(estimators: Mapping[str, RPMEstimator], pairs: Mapping[str, Pairs]) -> Comparison:
    """Compare fitted estimators on pairs, each against the bank of fitted pairs that it keeps.

    Args:
        estimators: Fitted, by name. Each takes as many pairs of its bank as the smallest bank has, evenly spaced.
        pairs: The same pairs as each of them reads them; those count that have as many earlier rows as any prior reads.

    Returns:
        A comparison whose sides are estimates: a bank of a series, and its two halves, are not independent draws. What
        they assume is that the series is stationary, see `compare`.
    """
    order = max(estimator.order_ for estimator in estimators.values())
    banks = {name: estimator.bank_size_ for name, estimator in estimators.items()}
    size = min(banks.values())
    scored = {name: _evidence_of(e.thinned(size), with_contexts(pairs[name], order)) for name, e in estimators.items()}
    larger = [f"{count} of {name}" for name, count in banks.items() if count > size]
    found = comparison(
        scored,
        targets="log P(x'|x) - const" if order == 1 else f"log P(x'|x and {order - 1} before it) - const",
        bank=f"{size} fitted pairs of each" + (f", evenly spaced among {', '.join(larger)}" if larger else ""),
    )
    return _warned(found)


def _evidence_of(estimator: Fitted, pairs: Pairs) -> Evidence:
    recording, pairs = pairs.recording, pairs.where(np.argsort(pairs.first, kind="stable"))
    with _quiet():
        estimate, upper = (estimator.elbo(recording, pairs=pairs, side=side) for side in (None, "upper"))
        if isinstance(estimator.prior_, ParametricPrior):
            lower = estimate  # with the own component in the mixtures it is one
        else:
            lower = estimator.elbo(recording, pairs=pairs, side="lower")
    # The bank is a series, whose rows are no independent draws: no side is proved.
    lower, upper = (replace(side, kind="estimate") for side in (lower, upper))
    unfair = _STOCHASTIC if estimator.prior_.needs_density else None
    return Evidence(estimate.settled(), lower, upper, unfair=unfair, bank=estimator.bank_size_)


def _compare_models(
    models: Mapping[str, RPM],
    targets: Targets,
    bank: Targets | None,
    *,
    context: int | None,
    exclude_within: float | None,
    seed: int,
) -> Comparison:
    length = targets.length
    orders = {name: model.prior.coupling.order for name, model in models.items() if _is_chain(model.prior)}
    if context is None:
        context = max(orders.values(), default=1)
        if context >= length:
            raise ValueError(
                f"Expected windows of at least {context + 1} observations, since a prior reads {context} earlier "
                f"latents; got {length}. Give longer windows; or context=, and then its first steps are those of "
                "factors of lower order, of first=, or left at R(z)."
            )
    elif not isinstance(context, int) or isinstance(context, bool) or not 1 <= context < length:
        raise ValueError(f"Expected context from 1 to {length - 1}, for windows of {length}; got {context!r}.")
    scored = {
        name: _of_model(name, model, targets, bank, context=context, exclude_within=exclude_within, seed=seed)
        for name, model in models.items()
    }
    size = len(targets if bank is None else bank)
    found = comparison(
        scored,
        targets=_notation(length, context),
        steps=length - context,
        context=context,
        bank=f"the {size} rows themselves" if bank is None else f"{size} other rows",
    )
    return _warned(found)


def _of_model(
    name: str,
    model: RPM,
    targets: Targets,
    bank: Targets | None,
    *,
    context: int,
    exclude_within: float | None,
    seed: int,
) -> Evidence:
    """Its three sides."""
    prior, size = model.prior, len(targets if bank is None else bank)
    if isinstance(prior, OptimalPrior):
        raise ValueError(
            f"Expected priors that were fitted before; got the optimal prior in {name}, which is R(z, z') of the bank "
            "itself. Its value is a mutual information: model.mutual_information."
        )
    with evaluating(model), torch.no_grad(), _quiet():
        latents = targets.latents(model)
        if latents is None:
            drawn, *others = _of_draws(name, model, targets, bank, exclude_within=exclude_within, seed=seed)
            return Evidence(drawn.settled(), *others, unfair=_STOCHASTIC, bank=size)
        prior.check_densities([Dirac(z) for z in latents])
        doubt = doubt_of_encoding(lambda rows: targets.some(rows.numpy()).latents(model) or [], latents)
        against = Against(exclude_within=exclude_within)
        if bank is not None:
            against = Against(bank.latents(model), bank.labels)
        estimate, lower, upper = (
            side.doubted(doubt)
            for side in sides_of_latents(prior, latents, against, labels=targets.labels, context=context)
        )
        estimate = estimate.settled()
    scored = steps_from(prior, length=targets.length, context=context) if _is_chain(prior) else [None]
    order = prior.coupling.order if _is_chain(prior) else 1
    return Evidence(estimate, lower, upper, order=order, left_out=targets.length - context - len(scored), bank=size)


def _of_draws(
    name: str, model: RPM, targets: Targets, bank: Targets | None, *, exclude_within: float | None, seed: int
) -> tuple[Bound, Bound | None, Bound | None]:
    if targets.length > 2:
        raise ValueError(
            f"Expected deterministic encoders (rp.Deterministic) for windows of {targets.length}; got a stochastic one "
            f"in {name}. Compare pairs, or encode by its mean."
        )
    if model.posterior.takes_rows:
        raise ValueError(f"Expected models without free parameters for each pair; got a PairPosterior in {name}.")
    against = Against(exclude_within=exclude_within)
    if bank is not None:
        against = Against(bank.observations(), bank.labels)
    estimate, lower, upper = sides_of_draws(
        model, targets.observations(), against, labels=targets.labels, num_samples=_DRAWS, seed=seed
    )
    assert estimate is not None
    return estimate, lower, upper


def _named(models: Mapping[str, Model] | Sequence[Model]) -> dict[str, Model]:
    """Models by name, checked."""
    if isinstance(models, Mapping):
        named = dict(models)
    elif isinstance(models, list | tuple):
        named = {f"model {number}": model for number, model in enumerate(models, 1)}
    else:
        raise ValueError(
            f"Expected models as a dictionary by name, or a list; got {type(models).__name__}. Use "
            "rp.compare({'one': model, 'other': another}, data)."
        )
    for name, model in named.items():
        if not isinstance(name, str) or not isinstance(model, Model):
            raise ValueError(
                f"Expected models as rp.RPM or rp.RPMEstimator, by name; got {type(model).__name__} as {name!r}."
            )
        if isinstance(model, RPMEstimator):
            check_is_fitted(model)
    if len(named) < 2:
        raise ValueError(f"Expected at least two models to compare; got {len(named)}. For one, use model.elbo.")
    return named


def _check_alike(what: str, values: Mapping[str, Any], remedy: str) -> None:
    if len(set(values.values())) > 1:
        raise ValueError(
            f"Expected estimators of one {what}, which score the same targets against as large a bank; got {values}. "
            + remedy
        )


def _is_chain(prior: Prior) -> TypeGuard[InfoNCEPrior]:
    return type(prior) is InfoNCEPrior


def _notation(length: int, context: int) -> str:
    if length == 2:
        return "log P(x'|x) - const"
    scored = ", ".join(f"x_{t}" for t in range(context + 1, length + 1))
    return f"log P({scored}|{', '.join(f'x_{t}' for t in range(1, context + 1))}) - const"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of single values: the comparison says itself what is at its ceiling or -inf."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)
        warnings.filterwarnings("ignore", message="The lower bound is -inf")
        yield


def _warned(found: Comparison) -> Comparison:
    """The comparison; a warning where two models are at their ceiling."""
    for difference in found.differences:
        if difference.hidden:
            ceiling = found.models[difference.first].estimate.ceiling
            warnings.warn(
                f"{difference.first} and {difference.second} are both at their ceiling of {ceiling:.3f} nats, where "
                "their estimates cannot differ. Use a larger bank, or look at the bounds.",
                CeilingWarning,
                stacklevel=3,
            )
    return found
