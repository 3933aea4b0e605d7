"""How many latents a recording is worth: fits with several numbers of them, scored on the same held-out rows."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
from sklearn.base import clone

from recparam.comparison.compare import compare_estimators
from recparam.comparison.knee import DimScore, LatentDims, knee
from recparam.data.pairs import Pairs
from recparam.data.recording import Recording
from recparam.data.windows import Windowed, centred
from recparam.estimator import FitWarning, RPMEstimator
from recparam.estimator.core import STEPS, STEPS_OF_IMAGES
from recparam.estimator.inputs import check_settings, filled, split_off
from recparam.estimator.names import PLACES, make_prior
from recparam.estimator.predicted import Targets
from recparam.evaluation.intrinsic import intrinsic_dimension
from recparam.utils.checks import check_count

DIMS, STARTS = (1, 2, 3, 4, 6), 2


def choose_latent_dim(
    estimator: RPMEstimator,
    X: Any,
    *,
    dims: Sequence[int] = DIMS,
    restarts: int = STARTS,
    X_prime: Any = None,
    sessions: Any = None,
    times: Any = None,
    pairs: Pairs | None = None,
) -> LatentDims:
    """Choose the number of latents by held-out evidence.

    The estimator is fitted once for each number, to the same rows, and scored on the same held-out ones. Encoder,
    window, lag and dropout are chosen once, by the fit with the middle number, and then kept, so that all bounds are of
    the same pairs against the same bank. `knee` says by which rule a number is chosen, and docs/estimator.md how often
    it was right. No label is used.

    Fits are quicker than by the estimator's defaults: two starts each, and half of the steps where max_steps is None.
    The held-out rows also chose among starts and states, for all numbers alike; differences are little affected.

    Args:
        estimator: Its settings are used, but for latent_dim and restarts; it is not changed. With progress=True the
            budget and a line for each fit go to standard error.
        X: As of `RPMEstimator.fit`.
        dims: Numbers of latents, at least two, such as (1, 2, 3, 4, 6).
        restarts: Starts for each number. 1: encoder, window and lag are not chosen either.
        X_prime: As of `RPMEstimator.fit`.
        sessions: As of `RPMEstimator.fit`.
        times: As of `RPMEstimator.fit`.
        pairs: As of `RPMEstimator.fit`.

    Returns:
        A `LatentDims`: the held-out bound of each number in nats with a 95 % interval, the share of hidden columns that
        its latents predict, `chosen`, and `estimators`, fitted; `print` shows a table and `plot` a picture.

    Raises:
        ValueError: Fewer than two numbers, numbers that the prior or the encoder cannot have, or as by
            `RPMEstimator.fit`.

    Example:
        >>> import numpy as np
        >>> import recparam as rp
        >>> place = np.cumsum(np.random.default_rng(0).normal(size=(400, 1)), axis=0)
        >>> seen = np.tanh(place @ np.random.default_rng(1).normal(size=(1, 6)) / 9)
        >>> est = rp.RPMEstimator(lag=1, max_steps=20, random_state=0)
        >>> found = rp.choose_latent_dim(est, seen, dims=(1, 2), restarts=1)
        >>> found.dims, found.chosen in found.dims
        ((1, 2), True)
    """
    numbers = _checked(estimator, dims, restarts)
    data = {"X_prime": X_prime, "sessions": sessions, "times": times, "pairs": pairs}
    estimators, said, (fitted, held_out) = _fits(estimator, numbers, X, restarts=restarts, **data)
    found = compare_estimators(
        {str(dim): one for dim, one in estimators.items()}, {str(dim): held_out for dim in estimators}
    )
    squares = _squares(estimators, fitted, held_out)
    scores = [
        DimScore(dim, found[str(dim)], *(() if squares is None else squares[dim])) for dim in numbers
    ]
    widest = estimators[numbers[-1]]
    bend = knee(numbers, [score.nats for score in scores])
    chosen = bend.chosen
    for message in said[chosen]:
        warnings.warn(f"With {chosen} latents: {message}", FitWarning, stacklevel=2)
    return LatentDims(
        scores=tuple(scores),
        comparison=found,
        knee=bend,
        intrinsic=intrinsic_dimension(_expected(widest, held_out.recording, side="x")),
        setting=_setting(widest),
        estimators=estimators,
    )


def _checked(estimator: Any, dims: Any, restarts: int) -> list[int]:
    """The numbers of latents in order, once all that can be checked before work is."""
    if not isinstance(estimator, RPMEstimator):
        raise ValueError(
            f"Expected estimator as an rp.RPMEstimator; got {type(estimator).__name__}. Use "
            "rp.choose_latent_dim(rp.RPMEstimator(), X)."
        )
    if isinstance(dims, str) or not isinstance(dims, Sequence | np.ndarray | range):
        raise ValueError(f"Expected dims as several numbers of latents; got {dims!r}. Give dims=(1, 2, 3).")
    for dim in dims:
        check_count("each of dims", dim)
    numbers = sorted({int(dim) for dim in dims})
    if len(numbers) < 2 or len(numbers) < len(dims):
        raise ValueError(f"Expected dims as at least two different numbers; got {tuple(dims)}. Give dims=(1, 2, 3).")
    check_count("restarts", restarts)
    for name in ("encoder", "encoder_prime"):
        given = getattr(estimator, name)
        if not isinstance(given, str):
            raise ValueError(
                f"Expected {name} by name, as it is made for each number of latents; got {type(given).__name__}. Fit "
                "each number by itself, and compare them with rp.compare."
            )
        if given in PLACES and any(dim % 2 for dim in numbers):
            raise ValueError(
                f"Expected even dims with {name}={given!r}, whose latents are x and y of places; got "
                f"{tuple(numbers)}. Give dims=(2, 4, 6), or another encoder."
            )
    check_settings(estimator)
    for dim in numbers:
        try:
            make_prior(estimator.prior, dim)
        except ValueError as error:
            raise ValueError(f"{error} That is for {dim} of dims={tuple(numbers)}; leave it out.") from None
    return numbers


def _fits(
    estimator: RPMEstimator, numbers: Sequence[int], X: Any, *, restarts: int, **data: Any
) -> tuple[dict[int, RPMEstimator], dict[int, list[str]], tuple[Pairs, Pairs]]:
    """The fits by number of latents, their warnings, and the pairs that all fitted and held out, of single rows."""
    middle = numbers[len(numbers) // 2]
    recording = Recording.of(X, sessions=data["sessions"], times=data["times"])
    frames = len(recording.shape) > 2 and not isinstance(recording, Windowed)
    settings: dict[str, Any] = {"restarts": restarts, "progress": False}
    if estimator.max_steps is None:
        settings["max_steps"] = (STEPS_OF_IMAGES if frames else STEPS) // 2
    if frames and estimator.encoder == "auto":
        settings["encoder"] = "conv"  # places have even numbers of latents alone
    log = (lambda line: print(line, file=sys.stderr)) if estimator.progress else (lambda line: None)
    steps = settings.get("max_steps", estimator.max_steps)
    log(
        f"{len(numbers)} numbers of latents, each with {restarts} start(s) of at most {steps} steps; a fit by default "
        f"has {type(estimator)().restarts} of {STEPS_OF_IMAGES if frames else STEPS}."
    )
    fits: dict[int, RPMEstimator] = {}
    said: dict[int, list[str]] = {}
    for dim in [middle, *(dim for dim in numbers if dim != middle)]:
        one = cast(RPMEstimator, clone(estimator))
        one.set_params(latent_dim=dim, **settings)
        with _heard() as said[dim]:
            one.fit(X, **data)
        if dim == middle:
            settings |= _chosen(one, estimator, declared=data["pairs"] is not None or data["X_prime"] is not None)
            log(f"Of {dim} latents chosen, and kept for all: {_setting(one)}.")
        fits[dim] = one
        log(f"{dim} latents: held out {one.validation_nats_:.3f} nats")
    first = fits[middle]
    made = first.pairs_of(X, **data)
    rows = {"recording": recording, "recording_prime": None}
    if made.recording_prime is not None:
        rows["recording_prime"] = data["pairs"].recording_prime if data["pairs"] else Recording.of(data["X_prime"])
    fitted, held_out = (replace(part, **rows) for part in split_off(made, first.validation_fraction))
    return {dim: fits[dim] for dim in numbers}, said, (fitted, held_out)


def _chosen(fit: RPMEstimator, given: RPMEstimator, *, declared: bool) -> dict[str, Any]:
    """What a fit chose, as settings."""
    start = next(start for start in fit.restarts_ if start["chosen"])
    kept: dict[str, Any] = {"window": fit.window_, "dropout": start["dropout"]}
    if not declared:
        kept["lag"] = fit.lag_
    return {name: value for name, value in kept.items() if getattr(given, name) is None}


def _setting(fit: RPMEstimator) -> str:
    start = next(start for start in fit.restarts_ if start["chosen"])
    return f"{start['choice']}, dropout {start['dropout']:g}"


def _squares(
    fits: Mapping[int, RPMEstimator], fitted: Pairs, held_out: Pairs
) -> dict[int, tuple[np.ndarray, np.ndarray]] | None:
    """What latents leave of the squares of the same targets, and these; None where there are no such targets."""
    recording = fitted.recording
    if fitted.recording_prime is not None or recording.row_shapes is not None or isinstance(recording, Windowed):
        return None
    masks = []
    for part in (fitted, held_out):
        mask = np.zeros(len(recording), dtype=bool)
        mask[part.first] = mask[part.second] = True
        masks.append(mask)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for dim, one in fits.items():
        rows = filled(one.model_, recording)
        found[dim] = Targets(rows, *masks).squares(one.model_, centred(rows, one.window_))
    return found if all(over.any() for _, over in found.values()) else None


def _expected(fit: RPMEstimator, recording: Recording, *, side: str) -> np.ndarray:
    """E[z'|z] of the rows, which has less noise than z; z where sessions have bases of their own."""
    return fit.transform(recording, side=side) if fit.session_shapes_ is not None else fit.predict_next(recording)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Warnings of a fit, for later: those of numbers that are not chosen say nothing. Others pass."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    for warning in caught:
        if issubclass(warning.category, FitWarning):
            said.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
