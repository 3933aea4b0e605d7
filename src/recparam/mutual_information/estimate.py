"""The mutual information of paired data in one call: bounds on it that say what they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from recparam.bounds import Bound, CeilingWarning, MutualInformation, warn_at_ceiling
from recparam.couplings import Coupling
from recparam.model import RPM
from recparam.mutual_information import coordinates, critics
from recparam.mutual_information.critics import Critic, Fitting, Pairs
from recparam.ops import BlockScore, pairwise_infonce
from recparam.priors import InfoNCEPrior
from recparam.recognition import Deterministic
from recparam.utils.checks import check_count, check_finite
from recparam.utils.seeds import seeded

Data = Tensor | ArrayLike | Sequence[float] | Sequence[Sequence[float]]
LogConditional = Callable[[Tensor, Tensor], Tensor]

_VALIDATION = 0.2  # share of the training pairs that chooses between critics
_LEAST = 20  # training pairs below which nothing can be learned


@dataclass(frozen=True)
class MutualInformationEstimate(MutualInformation):
    """Bounds on the mutual information of x and x', with how they were found.

    Args:
        lower: A lower bound, of the test pairs.
        estimate: The plug-in estimate: the critic's mean log-ratio, each pair left out of its own denominator.
        upper: An upper bound, or None without a known conditional.
        model: The critic, as a recognition-parameterised model; None with a known conditional.
        critic: Its name.
        candidates: InfoNCE of every critic that was tried on the validation pairs, in nats; the best was taken.
    """

    model: RPM | None
    critic: str
    candidates: dict[str, float]

    def __str__(self) -> str:
        """Every number with its standard error, one line each."""
        lines = [f"{bound} +- {bound.standard_error:.3f}" for bound in (self.lower, self.estimate, self.upper) if bound]
        return "\n".join([*lines, f"critic: {self.critic}"])

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
    random_state: int = 0,
) -> MutualInformationEstimate:
    """Bound and estimate the mutual information of paired data, on pairs that nothing was fitted to.

    Several critics log f are fitted to the training pairs: Gaussian ones in closed form, dot products of networks, and
    conditional densities, on the data and on their normal scores. The one with the best InfoNCE on held-out training
    pairs is taken, and its lower bound and plug-in estimate are those of the test pairs. From pairs alone there is
    no upper bound. See also: Eqs. 5, 7, 25.

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
        random_state: Seed; the same gives the same numbers.

    Returns:
        The lower bound, the estimate, and the upper one or None, in nats, each with its standard error.

    Raises:
        NonFiniteError: NaN or infinity in the data.
        ValueError: Shapes that do not go together, too few pairs, test values of one side only, both a critic and
            a conditional, or counts below one.

    Example:
        >>> import torch
        >>> import recparam as rp
        >>> z = torch.randn(2, 1500, generator=torch.Generator().manual_seed(0))
        >>> mi = rp.estimate_mutual_information(z[0], 0.8 * z[0] + 0.6 * z[1], critic=rp.Bilinear(1))
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
    if log_conditional is not None:
        return _known(log_conditional, _groups(test, bank_size, random_state))
    if len(training[0]) < _LEAST:
        raise ValueError(f"Expected at least {_LEAST} pairs to fit a critic to; got {len(training[0])}.")
    held = max(2, round(_VALIDATION * len(training[0])))
    # Chosen at random, so that both parts are samples of the same pairs.
    generator = torch.Generator().manual_seed(random_state)
    order = torch.randperm(len(training[0]), generator=generator)
    pairs, validation = (_rows(training, rows) for rows in (order[held:], order[:held]))
    fitting = Fitting(pairs, validation, max_steps, batch_size, generator)
    with seeded(random_state):  # initial weights, without touching the caller's generator
        tried = list(_candidates(fitting)) if critic is None else [_given(critic, fitting)]
    with torch.no_grad():
        values = {c.name: float(c.value(*validation)) for c in tried}
    best = max(tried, key=lambda c: values[c.name])
    encoders = [Deterministic(net) for net in best.encoders]
    model = RPM(encoders, InfoNCEPrior(best.coupling)).eval()
    groups = _groups(test, bank_size, random_state)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)  # said once, of all groups
        parts = [model.mutual_information(*pairs) for pairs in groups]
    lower, estimate = _pooled([p.lower for p in parts]), _pooled([p.estimate for p in parts])
    warn_at_ceiling(lower, rows=min(len(pairs[0]) for pairs in groups), source="bank_size or test set", stacklevel=2)
    return MutualInformationEstimate(lower, estimate, None, model, best.name, values)


def _candidates(fitting: Fitting) -> Iterator[Critic]:
    """The library's critics, each fitted."""
    x, x_prime = fitting.pairs
    for name, kind in (("data as given", coordinates.Standard), ("normal scores", coordinates.NormalScores)):
        plain = (kind(x), kind(x_prime))
        left, right, rho = coordinates.canonical(plain[0](x), plain[1](x_prime))
        maps = (nn.Sequential(plain[0], left), nn.Sequential(plain[1], right))
        base = critics.gaussian_critic(name, maps, rho, fitting)
        yield base
        if not len(rho):  # a side that never varies
            continue
        yield critics.mixture_critic(name, maps, fitting)
        if kind is coordinates.NormalScores:  # what it learns in other coordinates, one far point can ruin
            yield critics.separable_critic(name, maps, base, fitting)


def _given(coupling: Coupling, fitting: Fitting) -> Critic:
    """The caller's coupling, trained."""
    critic = Critic(type(coupling).__name__, (coordinates.AsGiven(), coordinates.AsGiven()), coupling)
    x, x_prime = fitting.through(critic.encoders).pairs
    coupling.check_widths(x.shape[1], x_prime.shape[1])
    coupling.initialise(x, x_prime)
    trained = [p for p in coupling.parameters() if p.requires_grad]
    if trained:
        fitting.descend(trained, lambda x, x_prime: -critic.value(x, x_prime), rate=1e-2)
    return critic


def _known(log_conditional: LogConditional, groups: list[Pairs]) -> MutualInformationEstimate:
    """Both sides from a known conditional: the mixture over the test x with and without a pair's own."""
    score = BlockScore(lambda x_prime, x: log_conditional(x[None], x_prime[:, None]))
    parts: dict[bool, list[Bound]] = {True: [], False: []}
    for x, x_prime in groups:
        for keep, bounds in parts.items():
            with torch.no_grad():
                values = pairwise_infonce(score, x_prime, x, keep_positive=keep)
            ceiling = math.log(len(x)) if keep else None
            bounds.append(Bound(values.mean(), values, "mi", "lower" if keep else "upper", ceiling))
    lower, upper = _pooled(parts[True]), _pooled(parts[False])
    warn_at_ceiling(lower, rows=min(len(x) for x, _ in groups), source="bank_size or test set", stacklevel=3)
    middle = (lower.per_observation + upper.per_observation) / 2
    estimate = Bound(middle.mean(), middle, "mi", "estimate")
    return MutualInformationEstimate(lower, estimate, upper, None, "the conditional given", {})


def _pooled(bounds: list[Bound]) -> Bound:
    """One bound of all groups, each row of which counts the same."""
    values = torch.cat([b.per_observation for b in bounds])
    ceiling = None
    if all(b.ceiling is not None for b in bounds):
        ceiling = sum(len(b.per_observation) * (b.ceiling or 0.0) for b in bounds) / len(values)
    return Bound(values.mean(), values, bounds[0].of, bounds[0].kind, ceiling)


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
