"""The mutual information of paired data in one call: bounds on it that say what they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from recparam.bounds import Bound, CeilingWarning, MutualInformation
from recparam.bounds.influence import OfBank, joined, on_bank, summed
from recparam.couplings import Coupling
from recparam.model import RPM
from recparam.mutual_information import coordinates, critics
from recparam.mutual_information.critics import Critic, Fitting, Pairs, mean_critic
from recparam.mutual_information.permuted import permutation_p_value
from recparam.ops import BlockScore, pairwise_infonce
from recparam.priors import InfoNCEPrior, Kind
from recparam.recognition import Deterministic
from recparam.utils.checks import check_count, check_finite, check_unmasked
from recparam.utils.seeds import seeded

Data = Tensor | ArrayLike | Sequence[float] | Sequence[Sequence[float]]
LogConditional = Callable[[Tensor, Tensor], Tensor]

_VALIDATION = 0.2  # share of the training pairs that chooses between critics
_FOLDS = 3  # splits into training and validation pairs that the best critic is fitted to
_CLOSE = 0.05  # nats below the best, on validation pairs, within which a critic may be averaged with it
_LEAST = 20  # training pairs below which nothing can be learned


@dataclass(frozen=True, repr=False)
class HeldOutBound(Bound):
    """A bound of held-out pairs whose critic was learned from others.

    Args:
        spread: Standard deviation of the value between critics, in nats: those of other splits into training and
            validation pairs, and those that validation pairs do not tell from the best.
    """

    spread: float = 0.0

    @property
    def standard_error(self) -> float:
        """That of the mean over the pairs, and the spread between critics: the root of the sum of their squares."""
        return math.hypot(super().standard_error, self.spread)


@dataclass(frozen=True)
class MutualInformationEstimate(MutualInformation):
    """Bounds on the mutual information of x and x', with how they were found.

    Args:
        lower: A lower bound, of the test pairs.
        estimate: The plug-in estimate: the critic's mean log-ratio, each pair left out of its own denominator, and
            no pair's above twice the logarithm of the bank's size.
        upper: An upper bound, or None without a known conditional.
        model: The critic, as a recognition-parameterised model; None with a known conditional.
        critic: The name of the critic with the best InfoNCE on the validation pairs.
        candidates: InfoNCE of every critic that was tried on the validation pairs, in nats.
        averaged: How many critics its log f is the mean of: the best of several splits, and its equals.
        p_value: Of the test that x and x' are independent, with `permutations=`; None without.
    """

    model: RPM | None
    critic: str
    candidates: dict[str, float]
    averaged: int = 1
    p_value: float | None = None

    def __str__(self) -> str:
        """Every number with its standard error, one line each."""
        lines = [f"{bound} +- {bound.standard_error:.3f}" for bound in (self.lower, self.estimate, self.upper) if bound]
        tested = [] if self.p_value is None else [f"p = {self.p_value:.3g} if x and x' were independent"]
        several = f", mean of {self.averaged}" if self.averaged > 1 else ""
        return "\n".join([*lines, *tested, f"critic: {self.critic}{several}"])

    __repr__ = __str__


def estimate_mutual_information(
    x: Data,
    x_prime: Data,
    *,
    x_test: Data | None = None,
    x_prime_test: Data | None = None,
    critic: Coupling | None = None,
    log_conditional: LogConditional | None = None,
    max_steps: int = 4000,
    batch_size: int = 256,
    bank_size: int = 4096,
    permutations: int | None = None,
    series: bool = False,
    random_state: int = 0,
) -> MutualInformationEstimate:
    """Bound and estimate the mutual information of paired data, on pairs that nothing was fitted to.

    Several critics log f are fitted to the training pairs: Gaussian ones in closed form, dot products of networks, and
    conditional densities, on the data and on their normal scores. The one with the best InfoNCE on held-out training
    pairs is fitted to three splits of the training pairs; the mean log f, and that of critics which held-out pairs do
    not tell from the best, gives the lower bound and the plug-in estimate of the test pairs. Standard errors include
    the spread between the critics that were averaged. From pairs alone there is no upper bound. A `CeilingWarning`
    says that the pairs may share more than the bank can show. See also: Eqs. 5, 7, 25.

    Args:
        x: Observations, shape (N,) or (N, D).
        x_prime: What each goes with, shape (N,) or (N, E).
        x_test: Pairs to score, independent of the others; None scores the last third of the pairs given, in their
            order, and fits on the rest.
        x_prime_test: The same of x'.
        critic: A coupling to train in place of the library's critics, such as `rp.Cosine()`.
        log_conditional: The log-density log R(x'|x) in nats, where it is known: maps x (1, M, D) and x' (A, 1, E) to
            (A, M). Nothing is then fitted, and there is an upper bound.
        max_steps: Training steps of a critic at most; it stops when held-out training pairs say so.
        batch_size: Pairs in a step.
        bank_size: Test pairs scored against each other at most, which limits the values to its logarithm.
        permutations: How many times the x' of test pairs are permuted to test that x and x' are independent:
            p = (1 + permutations that reach the mean log f of the pairs) / (1 + permutations), which is exact for
            independent pairs. None leaves the test out. With `series=True` x' is shifted in time, and at most one
            shift fewer than there are test pairs is possible.
        series: Whether pairs are consecutive in time. Validation pairs are then neighbours, not random ones, x' is
            shifted and not permuted, and since neighbours are no independent negatives the lower value is an
            "estimate". Its standard error is that of independent pairs, too small for slow series.
        random_state: Seed; the same gives the same numbers.

    Returns:
        The lower bound, the estimate, and the upper one or None, in nats, each with its standard error.

    Raises:
        NonFiniteError: NaN or infinity in the data.
        ValueError: Shapes that do not go together, too few pairs, test values of one side only, both a critic and
            a conditional, counts below one, or more shifts of a series than there are.

    Warns:
        CeilingWarning: The lower bound is within log 2 of its ceiling: an own pair has most of its denominator.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> z = torch.randn(2, 1500, generator=torch.Generator().manual_seed(0))
        >>> mi = rp.estimate_mutual_information(z[0], 0.8 * z[0] + 0.6 * z[1], critic=rp.Bilinear(1), max_steps=100)
        >>> 0.3 < float(mi.lower) < 0.6  # the truth is 0.511; a bilinear critic can reach less
        True
        >>> mi.upper is None
        True
    """
    for name, value, least in (("max_steps", max_steps, 1), ("batch_size", batch_size, 2), ("bank_size", bank_size, 2)):
        check_count(name, value, least=least)
    check_count("random_state", random_state, least=0)
    if critic is not None and log_conditional is not None:
        raise ValueError("Expected a critic or a log_conditional; got both. The conditional needs no critic.")
    if critic is not None and not isinstance(critic, Coupling):
        raise ValueError(f"Expected critic as a recparam Coupling, such as rp.Cosine(); got {critic!r}.")
    training, test = _split(x, x_prime, x_test, x_prime_test)
    if permutations is not None:
        check_count("permutations", permutations)
        if series and permutations >= len(test[0]):
            raise ValueError(
                f"Expected permutations < {len(test[0])}, the number of test pairs, of a series; got {permutations}."
            )
    groups = _groups(test, bank_size, random_state)
    if log_conditional is not None:
        found = _known(log_conditional, groups, series=series)
        score: LogConditional = lambda x, x_prime: log_conditional(x[:, None], x_prime[:, None])[:, 0]  # noqa: E731
    else:
        options = Options(critic, max_steps, batch_size, series, random_state)
        found = _learned(training, groups, options)
        assert found.model is not None
        score = partial(_log_f, found.model)
    _warn_near_ceiling(found.lower, min(len(x) for x, _ in groups))
    if permutations is None:
        return found
    return replace(found, p_value=permutation_p_value(score, *test, permutations, shifts=series, seed=random_state))


@dataclass(frozen=True)
class Options:
    """How critics are learned: arguments of `estimate_mutual_information`."""

    critic: Coupling | None
    max_steps: int
    batch_size: int
    series: bool
    seed: int


def _learned(training: Pairs, groups: list[Pairs], options: Options) -> MutualInformationEstimate:
    """Bounds by critics fitted to the training pairs."""
    critic, series, seed, count = options.critic, options.series, options.seed, len(training[0])
    if count < _LEAST:
        raise ValueError(f"Expected at least {_LEAST} pairs to fit a critic to; got {count}.")
    held = max(2, round(_VALIDATION * count))
    generator = torch.Generator().manual_seed(seed)
    # At random, both parts are samples of the same pairs; in a series, neighbours of training pairs would tell nothing.
    order = torch.arange(count) if series else torch.randperm(count, generator=generator)
    folds = []
    for start in range(0, _FOLDS * held, held):
        kept = torch.cat([order[:start], order[start + held :]])
        pairs, validation = (_rows(training, rows) for rows in (kept, order[start : start + held]))
        folds.append(Fitting(pairs, validation, options.max_steps, options.batch_size, generator))
    with seeded(seed):  # initial weights, without touching the caller's generator
        tried, chosen = _own(folds) if critic is None else _given(critic, folds)
        with torch.no_grad():
            values = {c.name: float(c.value(*folds[0].validation)) for c in tried}
            each = torch.tensor([float(c.value(*groups[0])) for c in chosen])
            averaged = chosen if critic is None else chosen[:1]
            best = mean_critic(averaged, *_rows(training, torch.arange(1)))
    spread = float(each.std()) if len(each) > 1 else 0.0
    model = RPM([Deterministic(net) for net in best.encoders], InfoNCEPrior(best.coupling)).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)  # said once, of all groups
        parts = [model.mutual_information(*pairs) for pairs in groups]
    lower = _pooled([p.lower for p in parts], "estimate" if series else parts[0].lower.kind, spread)
    estimate = _pooled([_limited(p.estimate) for p in parts], "estimate", spread)
    return MutualInformationEstimate(lower, estimate, None, model, chosen[0].name, values, len(averaged))


def _log_f(model: RPM, x: Tensor, x_prime: Tensor) -> Tensor:
    """log f of each pair by a critic."""
    sides = [side.net for side in model.recognition if isinstance(side, Deterministic)]
    assert isinstance(model.prior, InfoNCEPrior)
    return model.prior.coupling(sides[0](x), sides[-1](x_prime))


def _own(folds: list[Fitting]) -> tuple[list[Critic], list[Critic]]:
    """The library's critics on the first fold, and those to average: the best of each fold, and its equals."""
    tried = list(_candidates(folds[0]))
    with torch.no_grad():
        values = [c.values(*folds[0].validation).double() for c in tried]
    best = max(range(len(tried)), key=lambda k: float(values[k].mean()))
    chosen = [tried[best]]
    for k, critic in enumerate(tried):
        less = values[best] - values[k]
        if k != best and float(less.mean()) < min(_CLOSE, float(less.std()) / math.sqrt(len(less))):
            chosen.append(critic)
    return tried, [*chosen, *(list(_candidates(fold, only=best))[0] for fold in folds[1:])]


def _candidates(fitting: Fitting, *, only: int | None = None) -> Iterator[Critic]:
    """The library's critics, each fitted; or one of them, by its place."""
    x, x_prime = fitting.pairs
    place = 0
    for name, kind in (("data as given", coordinates.Standard), ("normal scores", coordinates.NormalScores)):
        plain = (kind(x), kind(x_prime))
        left, right, rho = coordinates.canonical(plain[0](x), plain[1](x_prime))
        maps = (nn.Sequential(plain[0], left), nn.Sequential(plain[1], right))
        base = critics.gaussian_critic(name, maps, rho, fitting)
        makers: list[Callable[[], Critic]] = [partial(_same, base)]
        if len(rho):  # else a side never varies
            makers.append(partial(critics.mixture_critic, name, maps, fitting))
            if kind is coordinates.NormalScores:  # what it learns in other coordinates, one far point can ruin
                makers.append(partial(critics.separable_critic, name, maps, base, fitting))
        for make in makers:
            if only in (None, place):
                yield make()
            place += 1


def _same(critic: Critic) -> Critic:
    return critic


def _given(coupling: Coupling, folds: list[Fitting]) -> tuple[list[Critic], list[Critic]]:
    """The caller's coupling, trained on the first fold; and copies of it on the others, which tell its error."""
    encoders = (coordinates.AsGiven(), coordinates.AsGiven())
    found = [Critic(type(coupling).__name__, encoders, c) for c in (coupling, *(deepcopy(coupling) for _ in folds[1:]))]
    for critic, fold in zip(found, folds, strict=True):
        x, x_prime = fold.through(encoders).pairs
        critic.coupling.check_widths(x.shape[1], x_prime.shape[1])
        critic.coupling.initialise(x, x_prime)
        fold.train((critic.coupling,), partial(_loss, critic), rate=1e-2)
    return found[:1], found


def _loss(critic: Critic, x: Tensor, x_prime: Tensor) -> Tensor:
    return -critic.value(x, x_prime)


def _known(log_conditional: LogConditional, groups: list[Pairs], *, series: bool) -> MutualInformationEstimate:
    """Both sides from a known conditional: the mixture over the test x with and without a pair's own."""
    score = BlockScore(lambda x_prime, x: log_conditional(x[None], x_prime[:, None]))
    parts: dict[bool, list[Bound]] = {True: [], False: []}
    for x, x_prime in groups:
        for keep, bounds in parts.items():
            with torch.no_grad():
                values = pairwise_infonce(score, x_prime, x, keep_positive=keep)
            ceiling = math.log(len(x)) if keep else None
            of_bank = partial(_influence, score, x, x_prime, keep)
            bounds.append(Bound(values.mean(), values, "mi", "lower" if keep else "upper", ceiling, of_bank=of_bank))
    lower = _pooled(parts[True], "estimate" if series else "lower")
    upper = _pooled(parts[False], "estimate" if series else "upper")
    middle = (lower.per_observation + upper.per_observation) / 2
    of_bank = summed([(0.5, lower), (0.5, upper)])
    estimate = Bound(middle.mean(), middle, "mi", "estimate", of_bank=of_bank)
    return MutualInformationEstimate(lower, estimate, upper, None, "the conditional given", {})


def _warn_near_ceiling(lower: Bound, rows: int) -> None:
    """Warn where an own pair has more than half of its denominator, in the mean of logarithms."""
    if lower.ceiling is not None and float(lower) > lower.ceiling - math.log(2):
        warnings.warn(
            f"The MI is near its ceiling of {lower.ceiling:.3f} nats, the logarithm of the {rows} pairs in a bank, and "
            f"may be any larger number. Use a larger bank_size or test set.",
            CeilingWarning,
            stacklevel=3,
        )


def _pooled(bounds: list[Bound], kind: Kind, spread: float = 0.0) -> Bound:
    """One bound of all groups, each row of which counts the same."""
    values = torch.cat([b.per_observation for b in bounds])
    ceiling = None
    if all(b.ceiling is not None for b in bounds):
        ceiling = sum(len(b.per_observation) * (b.ceiling or 0.0) for b in bounds) / len(values)
    places = torch.arange(len(values)).split([len(b.per_observation) for b in bounds])
    of_bank = joined(list(zip(places, bounds, strict=True)))
    return HeldOutBound(values.mean(), values, bounds[0].of, kind, ceiling, of_bank=of_bank, spread=spread)


def _limited(bound: Bound) -> Bound:
    """Each row at most twice the logarithm of the bank: a ratio beyond that is the critic's word alone."""
    values = bound.per_observation.clamp(max=2 * math.log(len(bound.per_observation)))
    return replace(bound, value=values.mean(), per_observation=values)


def _influence(score: BlockScore, x: Tensor, x_prime: Tensor, keep: bool) -> OfBank:
    """What the mean over pairs owes to each x as a member of the others' mixtures."""

    def value(factors: Tensor) -> Tensor:
        return pairwise_infonce(score, x_prime, x, keep_positive=keep, log_weights=factors.log()).mean()

    return on_bank(value, x.new_ones(len(x))), torch.arange(len(x))


def _groups(pairs: Pairs, bank_size: int, seed: int) -> list[Pairs]:
    """The pairs in groups of about equal size, at most bank_size and at least two, each a sample of them all."""
    count = min(math.ceil(len(pairs[0]) / bank_size), len(pairs[0]) // 2)
    if count > 1:  # in the order given, a group of sorted pairs would have marginals of its own
        pairs = _rows(pairs, torch.randperm(len(pairs[0]), generator=torch.Generator().manual_seed(seed)))
    return list(zip(pairs[0].tensor_split(count), pairs[1].tensor_split(count), strict=True))


def _rows(pairs: Pairs, rows: Tensor) -> Pairs:
    return pairs[0][rows], pairs[1][rows]


def _split(
    x: Data, x_prime: Data, x_test: Data | None,
    x_prime_test: Data | None,
) -> tuple[Pairs, Pairs]:
    """Training and test pairs as float32 matrices."""
    given = _matrix("x", x), _matrix("x_prime", x_prime)
    if len(given[0]) != len(given[1]):
        raise ValueError(f"Expected x and x_prime with one row per pair; got {len(given[0])} and {len(given[1])} rows.")
    if x_test is None and x_prime_test is None:
        test = len(given[0]) // 3
        if test < 2:
            raise ValueError(f"Expected at least 6 pairs to hold a third out; got {len(given[0])}.")
        return (given[0][:-test], given[1][:-test]), (given[0][-test:], given[1][-test:])
    if x_test is None or x_prime_test is None:
        raise ValueError("Expected x_test and x_prime_test together; got one of them.")
    tested = _matrix("x_test", x_test), _matrix("x_prime_test", x_prime_test)
    if len(tested[0]) != len(tested[1]) or len(tested[0]) < 2:
        raise ValueError(
            f"Expected x_test and x_prime_test with one row per pair, at least 2; got {len(tested[0])} and "
            f"{len(tested[1])} rows."
        )
    for name, a, b in (("x_test", given[0], tested[0]), ("x_prime_test", given[1], tested[1])):
        if a.shape[1] != b.shape[1]:
            raise ValueError(f"Expected {name} of width {a.shape[1]}, as in training; got {b.shape[1]}.")
    return given, tested


def _matrix(name: str, value: Data) -> Float[Tensor, "N D"]:
    """Float64 of shape (N, D); vectors are one column."""
    check_unmasked(name, value)
    try:
        matrix = torch.as_tensor(value).detach().cpu()
        matrix = matrix.to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Expected {name} as numbers of shape (N,) or (N, D); got {type(value).__name__}.") from error
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ValueError(
            f"Expected {name} of shape (N,) or (N, D); got {tuple(matrix.shape)}. Encode images and the like first."
        )
    check_finite(name, matrix)
    return matrix
