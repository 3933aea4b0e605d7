"""Settings and data of the estimator, checked before any work; data as recordings and pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from recparam.data.channels import in_session, of_session
from recparam.data.checks import listed
from recparam.data.contexts import with_contexts
from recparam.data.pairs import Pairs, aligned, consecutive
from recparam.data.recording import Recording
from recparam.data.windows import Windowed, centred
from recparam.estimator.alarms import warn
from recparam.estimator.device import device_of
from recparam.estimator.encoding import network
from recparam.estimator.names import sample_rows
from recparam.model import RPM
from recparam.networks import Pooled, Standardised
from recparam.networks.per_session import PerSession
from recparam.utils.checks import check_count, check_positive, is_finite_number


def check_settings(settings: Any) -> None:
    """Check the parameters of an estimator, but for prior and encoders.

    Raises:
        ValueError: One that has no meaning.
    """
    for name in ("latent_dim", "restarts", "bank_size"):
        check_count(name, getattr(settings, name))
    for name, least in (("max_steps", 1), ("batch_size", 2), ("window", 1)):
        if getattr(settings, name) is not None:
            check_count(name, getattr(settings, name), least=least)
    if settings.learning_rate is not None:
        check_positive("learning_rate", settings.learning_rate)
    shares = 0.0 if settings.dropout is None else settings.dropout
    shares = shares if isinstance(shares, tuple | list | np.ndarray) else [shares]
    for name, value in (("validation_fraction", settings.validation_fraction), *(("dropout", v) for v in shares)):
        if not is_finite_number(value) or not 0 <= value < 1:
            raise ValueError(f"Expected {name} between 0 and 1; got {value!r}.")
    if not len(shares):
        raise ValueError("Expected dropout between 0 and 1, or several such shares; got none.")
    if isinstance(settings.lag, str) or not isinstance(
        settings.lag, Integral | Sequence | np.ndarray | None
    ):
        raise ValueError(f"Expected lag as a whole number of rows, or several; got {settings.lag!r}.")
    device_of(settings.accelerator, settings.devices, settings.precision)


def check_varies(recording: Recording, name: str = "X") -> None:
    """Raise `ValueError` if a column of vectors is constant, or a clock or a counter of rows."""
    constant = recording.constant_columns()
    if constant:
        raise ValueError(f"Expected columns of {name} that change; got constant ones: {listed(constant)}. Drop them.")
    clocks = recording.clock_columns()
    if clocks:  # it tells any two rows apart: of noise, too, the bound would reach its ceiling
        raise ValueError(
            f"Expected columns of {name} that are data; got some that are clocks or count rows: {listed(clocks)}. Drop "
            "them, or name the others with key=. When rows were observed is given as times=."
        )


def recording_and_pairs(
    X: Any,
    X_prime: Any,
    *,
    sessions: Any,
    times: Any,
    pairs: Pairs | None,
    lag: Any = None,
    window: int = 1,
    order: int,
    parted: bool = False,
) -> tuple[Recording, Pairs | None]:
    """The recording of X, and the pairs that were declared: by `pairs`, by X_prime, or by a lag.

    For a prior of an order above one, those with as many earlier rows.

    Args:
        X: As for `fit`.
        X_prime: Likewise.
        sessions: Likewise.
        times: Likewise.
        pairs: Likewise.
        lag: Of pairs that nothing else declares; None: they are not made.
        window: Rows around each row that the pairs hold.
        order: Of the prior.
        parted: Whether pairs of one recording read halves of their windows (`Windowed`).

    Raises:
        ValueError: Data that are no recording, pairs of another recording, both pairs and X_prime, or pairs that cannot
            have the earlier rows.
    """
    if pairs is not None and not isinstance(pairs, Pairs):
        raise ValueError(f"Expected pairs of recparam.data.pairs, such as consecutive(...); got {pairs!r}.")
    if pairs is not None and X_prime is not None:
        raise ValueError("Expected X_prime= or pairs=; got both. Pairs of aligned(...) hold both sides.")
    recording = Recording.of(X, sessions=sessions, times=times)
    if recording.parted and order > 1:
        raise ValueError(
            "Expected whole windows for a prior that reads several earlier rows; got windows in halves. Leave "
            "parted=True out, and use a lag of at least the window."
        )
    if pairs is not None:
        if pairs.recording.shape != recording.shape:
            raise ValueError(
                f"Expected X to be the recording of pairs, of shape {pairs.recording.shape}; got {recording.shape}."
            )
        return recording, in_windows(with_contexts(pairs, order), window, parted=parted)
    if X_prime is None:
        return recording, None if lag is None else paired(recording, lag, window=window, order=order, parted=parted)
    labelled = isinstance(X_prime, Recording) or sessions is None or len(X_prime) != len(recording)
    both = aligned(recording, Recording.of(X_prime, sessions=None if labelled else sessions))
    return recording, in_windows(with_contexts(both, order), window)


def paired(recording: Recording, lag: Any, *, window: int, order: int, parted: bool = False) -> Pairs:
    """Pairs of rows a lag apart, each in a window, with the earlier rows that a prior of an order reads.

    Raises:
        ValueError: No such pair.
    """
    return with_contexts(consecutive(centred(recording, window, parted=parted), lag=lag), order)


def in_windows(pairs: Pairs, window: int, *, parted: bool = False) -> Pairs:
    """Pairs whose rows are in the middle of windows; those that are windows already stay.

    Raises:
        ValueError: Rows that cannot be widened.
    """
    if window == 1:
        return pairs
    parted &= pairs.recording_prime is None
    wide = [r if isinstance(r, Windowed) else centred(r, window, parted=parted) for r, _ in pairs.sides]
    return replace(pairs, recording=wide[0], recording_prime=None if pairs.recording_prime is None else wide[1])


def split_off(pairs: Pairs, fraction: float) -> tuple[Pairs, Pairs]:
    """The pairs to fit and those held out, see `Pairs.split`; of a very short recording enough for two."""
    before = (pairs.order - 1) * int(pairs.lag.max(initial=0))
    needed = (pairs.reach + before + 2) / len(pairs.recording)
    return pairs.split(max(fraction, min(needed, 0.5)))


@dataclass(frozen=True)
class Source:
    """The data that one encoder reads.

    Args:
        name: For messages.
        shape: Of a row.
        encoder: The setting of the encoder.
        rows: Returns some of the training rows.
    """

    name: str
    shape: tuple[int, ...]
    encoder: Any
    rows: Callable[[], Tensor]


def sources(encoder: Any, encoder_prime: Any, fitted: Pairs) -> list[Source]:
    """The data to encode: x; x and x' where they differ; or each session where rows have shapes of their own.

    Args:
        encoder: Of x, as the estimator's.
        encoder_prime: Of x'.
        fitted: Pairs to fit.

    Raises:
        ValueError: Sessions with channels of their own that no pair joins, or an encoder that cannot be one of several.
    """
    recording = fitted.recording
    if recording.row_shapes is None:
        sides = zip(fitted.sides, ("X", "X_prime"), (encoder, encoder_prime), strict=True)
        found = [
            Source(name, r.shape[1:], _of_windows(setting, r), partial(sample_rows, r, rows))
            for (r, rows), name, setting in sides
        ]
        return found if fitted.recording_prime is not None else found[:1]
    if encoder not in ("auto", "mlp", "conv"):
        raise ValueError(
            f"Expected encoder='auto', 'mlp' or 'conv' for sessions with channels of their own, which need an encoder "
            f"each; got {encoder!r}."
        )
    _check_joined(fitted)
    rows = np.unique(np.concatenate([fitted.first, fitted.second]))
    return [
        Source(
            f"session {session}",
            shape,
            encoder,
            partial(_sample_of_session, recording, rows[recording.sessions[rows] == session], shape),
        )
        for session, shape in enumerate(recording.row_shapes)
    ]


def _of_windows(encoder: Any, recording: Recording) -> Any:
    """The encoder of a recording; "auto" would take windows for grey frames."""
    windows = isinstance(recording, Windowed) and isinstance(encoder, str)
    return "smoothed" if windows and encoder in ("auto", "mlp") else encoder


def _sample_of_session(recording: Recording, rows: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    return sample_rows(recording, rows)[:, 1 : 1 + math.prod(shape)].reshape(-1, *shape)


def _check_joined(pairs: Pairs) -> None:
    """Raise `ValueError` unless pairs join all sessions: nothing else makes latents of two sessions comparable."""
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


def rows_of_session(
    recording: Recording, session: int, *, shapes: Sequence[tuple[int, ...]] | None
) -> Recording:
    """Rows of one of the fitted sessions, as rows of a recording of `own_channels`.

    Raises:
        ValueError: Sessions that share an encoder, or no such session.
    """
    if shapes is None:
        raise ValueError(f"Expected session=None, since all sessions share an encoder; got {session!r}.")
    check_count("session", session, least=0)
    if session >= len(shapes) or recording.shape[1:] != shapes[session]:
        raise ValueError(
            f"Expected rows and session= of one of the fitted sessions, with rows of shapes "
            f"{', '.join(map(str, shapes))}; got rows of shape {recording.shape[1:]} and session={session}."
        )
    return of_session(recording, session, row_shapes=shapes)


def filled_pairs(model: RPM, pairs: Pairs) -> Pairs:
    """Pairs of recordings that are `filled`."""
    prime = pairs.recording_prime
    return replace(
        pairs,
        recording=filled(model, pairs.recording),
        recording_prime=None if prime is None else filled(model, prime, index=1),
    )


def filled(model: RPM, recording: Recording, *, index: int = 0) -> Recording:
    """A recording as the encoder reads it: its missing values imputed by the means that the encoder subtracts.

    Where these are in double precision, so are the rows.

    Raises:
        ValueError: The encoder has no such means.
    """
    net, factor = network(model, index), 1
    if isinstance(net, Pooled):
        net, factor = net.net, net.factor
    nets = net.nets if isinstance(net, PerSession) else [net]
    if any(isinstance(part, Standardised) and part.mean.dtype == torch.float64 for part in nets):
        recording = recording.in_double()
    if recording.known is None:
        return recording
    if isinstance(net, PerSession):
        means = [cast(Standardised, part).mean.cpu().numpy()[None] for part in net.nets]
        options = {"width": recording.shape[1], "double": recording.double}
        return recording.filled(np.concatenate([in_session(m, k, **options) for k, m in enumerate(means)]))
    if not isinstance(net, Standardised):
        raise ValueError(
            f"Expected data without missing values for {type(net).__name__}, which has no means to impute them by; got "
            "a mask of single values. Impute them, or wrap the module: "
            "recparam.networks.Standardised(net, mean=..., scale=...)."
        )
    mean = net.mean.cpu().numpy()
    if factor > 1:
        height, width = recording.shape[1:3]
        mean = mean.repeat(factor, 0)[:height].repeat(factor, 1)[:, :width]
    return recording.filled(mean)


def warn_of_labels(y: Any) -> None:
    """Warn that y is not used, if there is one."""
    if y is not None:
        message = (
            "y is not used. To condition pairs on a variable, declare it: "
            "fit(X, pairs=recparam.data.conditioned.nearest(recording, variable))."
        )
        warn([message], stacklevel=3)
