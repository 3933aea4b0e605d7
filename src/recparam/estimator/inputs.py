"""What the estimator is given, checked before any work: settings, and data as recordings and pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, cast

import numpy as np
from torch import Tensor

from recparam.data.channels import in_session
from recparam.data.checks import listed
from recparam.data.contexts import with_contexts
from recparam.data.pairs import Pairs, aligned, consecutive
from recparam.data.recording import Recording
from recparam.data.windows import Windowed
from recparam.estimator.alarms import warn
from recparam.estimator.device import fabric_of
from recparam.estimator.encoding import network
from recparam.estimator.names import lags, some
from recparam.model import RPM
from recparam.networks import Standardised
from recparam.networks.per_session import PerSession
from recparam.utils.checks import check_count, check_positive, is_finite_number


def check_settings(settings: Any) -> None:
    """The numbers an estimator was made with.

    Raises:
        ValueError: One that cannot be meant.
    """
    for name in ("latent_dim", "restarts", "bank_size"):
        check_count(name, getattr(settings, name))
    for name, least in (("max_steps", 1), ("batch_size", 2)):
        if getattr(settings, name) is not None:
            check_count(name, getattr(settings, name), least=least)
    check_positive("learning_rate", settings.learning_rate)
    given = 0.0 if settings.dropout is None else settings.dropout
    shares = given if isinstance(given, tuple | list | np.ndarray) else [given]
    for name, value in (("validation_fraction", settings.validation_fraction), *(("dropout", v) for v in shares)):
        if not is_finite_number(value) or not 0 <= value < 1:
            raise ValueError(f"Expected {name} between 0 and 1; got {value!r}.")
    if not len(shares):
        raise ValueError("Expected dropout between 0 and 1, or several such shares; got none.")
    if isinstance(settings.lag, str) or not isinstance(
        settings.lag, Integral | Sequence | np.ndarray | None
    ):
        raise ValueError(f"Expected lag as a whole number of rows, or several; got {settings.lag!r}.")
    fabric_of(settings.accelerator, settings.devices, settings.precision)


def check_varies(recording: Recording, name: str = "X") -> None:
    """That no column of vectors is constant."""
    constant = recording.constant_columns()
    if constant:
        raise ValueError(f"Expected columns of {name} that change; got constant ones: {listed(constant)}. Drop them.")


def declared(
    X: Any, X_prime: Any, *, sessions: Any, times: Any, pairs: Pairs | None, lag: Any, order: int
) -> tuple[Recording, Pairs]:
    """The recording of X, and the pairs that were declared: by `pairs`, by X_prime, or by a lag.

    For a prior of an order above one, those with as many earlier rows.

    Raises:
        ValueError: Data that are no recording, pairs of another recording, both pairs and X_prime, or pairs that cannot
            have the earlier rows.
    """
    if pairs is not None and not isinstance(pairs, Pairs):
        raise ValueError(f"Expected pairs of recparam.data.pairs, such as consecutive(...); got {pairs!r}.")
    if pairs is not None and X_prime is not None:
        raise ValueError("Expected X_prime= or pairs=; got both. Pairs of aligned(...) hold both sides.")
    recording = Recording.of(X, sessions=sessions, times=times)
    if pairs is not None:
        if pairs.recording.shape != recording.shape:
            raise ValueError(
                f"Expected X to be the recording of pairs, of shape {pairs.recording.shape}; got {recording.shape}."
            )
        return recording, with_contexts(pairs, order)
    if X_prime is None:
        return recording, with_contexts(consecutive(recording, lag=lags(lag, recording.shape[1:], order)), order)
    labelled = isinstance(X_prime, Recording) or sessions is None or len(X_prime) != len(recording)
    both = aligned(recording, Recording.of(X_prime, sessions=None if labelled else sessions))
    return recording, with_contexts(both, order)


@dataclass(frozen=True)
class Source:
    """What one encoder is given.

    Args:
        name: For messages.
        shape: Of a row.
        encoder: Its setting.
        rows: Gives some fitted rows.
    """

    name: str
    shape: tuple[int, ...]
    encoder: Any
    rows: Callable[[], Tensor]


def sources(settings: Any, fitted: Pairs) -> list[Source]:
    """What there is to encode: x, or x and x' where they differ, or each session where rows have shapes of their own.

    Raises:
        ValueError: Sessions with channels of their own that no pair joins, or an encoder that cannot be one of several.
    """
    recording = fitted.recording
    if recording.row_shapes is None:
        given = zip(fitted.sides, ("X", "X_prime"), (settings.encoder, settings.encoder_prime), strict=True)
        found = [
            Source(name, r.shape[1:], _of_windows(encoder, r), partial(some, r, rows))
            for (r, rows), name, encoder in given
        ]
        return found if fitted.recording_prime is not None else found[:1]
    if settings.encoder not in ("auto", "mlp", "conv"):
        raise ValueError(
            f"Expected encoder='auto', 'mlp' or 'conv' for sessions with channels of their own, which need an encoder "
            f"each; got {settings.encoder!r}."
        )
    _check_joined(fitted)
    rows = np.unique(np.concatenate([fitted.first, fitted.second]))
    return [
        Source(
            f"session {session}",
            shape,
            settings.encoder,
            partial(_some_of_session, recording, rows[recording.sessions[rows] == session], shape),
        )
        for session, shape in enumerate(recording.row_shapes)
    ]


def _of_windows(encoder: Any, recording: Recording) -> Any:
    """The encoder of a recording, whose windows would look like grey frames to "auto"."""
    return "temporal" if isinstance(recording, Windowed) and isinstance(encoder, str) and encoder == "auto" else encoder


def _some_of_session(recording: Recording, rows: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return some(recording, rows)[:, 1 : 1 + math.prod(shape)].reshape(-1, *shape)


def _check_joined(pairs: Pairs) -> None:
    """That pairs lead from each session to every other: nothing else makes latents of two sessions comparable."""
    sessions = pairs.recording.sessions
    joins = set(zip(sessions[pairs.first].tolist(), sessions[pairs.second].tolist(), strict=True))
    joined = {0}
    while more := {s for join in joins if joined & set(join) for s in join} - joined:
        joined |= more
    apart = sorted(set(sessions.tolist()) - joined)
    if apart:
        raise ValueError(
            f"Expected pairs that join all sessions, without which their latents are not comparable; got none that "
            f"joins session 0 to session {apart[0]}. Declare pairs across sessions: "
            "recparam.data.conditioned.nearest(recording, variable). Or fit each session by itself."
        )


def known(model: RPM, pairs: Pairs) -> Pairs:
    """Pairs whose missing values are read as `filled` has them."""
    if pairs.recording.known is None and (pairs.recording_prime is None or pairs.recording_prime.known is None):
        return pairs
    prime = pairs.recording_prime
    return replace(
        pairs,
        recording=filled(model, pairs.recording),
        recording_prime=None if prime is None else filled(model, prime, index=1),
    )


def filled(model: RPM, recording: Recording, *, index: int = 0) -> Recording:
    """A recording whose missing values are read as the means that the encoder standardises by: as nothing known.

    Raises:
        ValueError: The encoder has no such means.
    """
    if recording.known is None:
        return recording
    net = network(model, index)
    if isinstance(net, PerSession):
        means = [cast(Standardised, part).mean.cpu().numpy()[None] for part in net.nets]
        width = recording.shape[1]
        return recording.filled(np.concatenate([in_session(m, k, width=width) for k, m in enumerate(means)]))
    if not isinstance(net, Standardised):
        raise ValueError(
            f"Expected data without missing values for {type(net).__name__}, which does not say what a missing value "
            "is to it; got a mask of single values. Impute them, or wrap the module: "
            "recparam.networks.Standardised(net, mean=..., scale=...)."
        )
    return recording.filled(net.mean.cpu().numpy())


def warn_of_labels(y: Any) -> None:
    """Warn of a y, which is not used."""
    if y is not None:
        message = (
            "y is not used: nothing is guessed from labels. To condition pairs on a variable, declare it: "
            "fit(X, pairs=recparam.data.conditioned.nearest(recording, variable))."
        )
        warn([message], stacklevel=3)
