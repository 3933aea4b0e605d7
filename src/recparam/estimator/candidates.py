"""The candidates of a fit: each choice with the pairs that it makes and the networks that read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recparam.couplings.scaled import ScaledCoupling
from recparam.data.pairs import Pairs, as_tensor, rows_at_once
from recparam.data.recording import Recording
from recparam.data.windows import Windowed
from recparam.estimator.choices import Choice, choices, dropouts
from recparam.estimator.encoding import encoded_pairs
from recparam.estimator.held_out import spread_pairs
from recparam.estimator.inputs import filled_pairs, paired, sources, split_off
from recparam.estimator.names import EncoderSpec, choose_encoder, make_model, make_network
from recparam.estimator.spheres import spheres_of
from recparam.model import RPM
from recparam.networks import Pooled
from recparam.priors import InfoNCEPrior, Prior
from recparam.utils.seeds import mixed, seeded

_WIDTH_PAIRS = 1000  # from which a lengthscale starts
_ALIKE = 1e-3  # pixels
_RATE, _RATES = 3e-3, {"CentreOfMassCNN": 2e-2}


@dataclass(frozen=True)
class Candidate:
    """A choice, and the data as it reads them.

    Args:
        choice: The choice.
        fitted: Pairs to fit.
        held_out: Pairs to validate on.
        bank_rows: Which of the fitted pairs are the bank.
        specs: The encoders, one list for each dropout that starts take in turn.
        shapes: Of the rows that they read, as the data have them.
        make: Gives the model of a start, by the number of the start and that among those of the choice.
    """

    choice: Choice
    fitted: Pairs
    held_out: Pairs
    bank_rows: np.ndarray
    specs: Sequence[Sequence[EncoderSpec]]
    shapes: Sequence[tuple[int, ...]]
    make: Callable[[int, int], RPM]

    @property
    def learning_rate(self) -> float:
        """That of its encoder, where none is set."""
        return _RATES.get(self.specs[0][0].network, _RATE)

    def encoders(self, nth: int) -> Sequence[EncoderSpec]:
        """The encoders of its nth start."""
        return self.specs[nth % len(self.specs)]


def candidates(
    settings: Any, recording: Recording, declared: Pairs | None, *, prior: Prior, seed: int
) -> list[Candidate]:
    """The candidates of a fit, but for those that have fewer than half the pairs that others have for a lag.

    Args:
        settings: Of the estimator.
        recording: The rows of x.
        declared: Pairs, where not a lag makes them.
        prior: Is copied.
        seed: Decides the weights of a start, with its number.

    The foreground CNN is left out where most frames have no foreground.

    Raises:
        ValueError: Data or settings that no choice can be fitted with.
    """
    chosen = choices(settings, recording, prior=prior, declared=declared is not None)
    if settings.lag is None and declared is None:  # a recording may be too short for all others
        chosen.append(replace(chosen[0], window=settings.window or 1, lag=(1,)))
    parts: list[tuple[Choice, Pairs, Pairs]] = []
    problem: ValueError | None = None
    for choice in chosen:
        if parts and choice is chosen[-1] and choice.lag == (1,):
            break
        try:
            how: dict[str, Any] = {"window": choice.window, "order": prior.order, "parted": choice.parted}
            pairs = declared or paired(recording, choice.lag, **how)
            parts.append((choice, *split_off(pairs, settings.validation_fraction)))
        except ValueError as error:  # such as sessions that are shorter than the lag
            problem = error
    if not parts and problem is not None:
        raise problem
    shares = [len(fitted) / len(choice.lag) for choice, fitted, _ in parts]
    options: dict[str, Any] = {"prior": prior, "seed": seed, "small": {}, "compared": len(parts) > 1}
    options["given_windows"] = isinstance(recording, Windowed)
    made = [
        _candidate(settings, choice, fitted, held_out, **options)
        for (choice, fitted, held_out), share in zip(parts, shares, strict=True)
        if share >= max(shares) / 2
    ]
    found = [one for one in made if one.specs[0][0].network != "ForegroundCNN" or _moves(one)]
    if not found:
        raise ValueError(
            "Expected something that differs from a still background in at least half of the frames for "
            "encoder='foreground'; got frames in which nothing does. Use encoder='auto'."
        )
    return found


def _candidate(
    settings: Any,
    choice: Choice,
    fitted: Pairs,
    held_out: Pairs,
    *,
    prior: Prior,
    seed: int,
    given_windows: bool,
    compared: bool,
    small: dict[Any, Recording],
) -> Candidate:
    widened = choice.window > 1 and not given_windows  # a window is then no row of the data
    whole = sources(choice.encoder, settings.encoder_prime, fitted)
    shapes = [source.shape[1:] if widened else source.shape for source in whole]
    shares = [dropouts(settings.dropout, source.encoder, source.shape, compared=compared) for source in whole]
    specs = [
        [
            replace(
                choose_encoder(
                    source.encoder,
                    shape=source.shape,
                    latent_dim=settings.latent_dim,
                    density=prior.needs_density,
                    dropout=each[nth % len(each)],
                    of=source.name,
                ),
                spheres=spheres_of(prior),
            )
            for source, each in zip(whole, shares, strict=True)
        ]
        for nth in range(max(map(len, shares)))
    ]
    fitted, held_out = (_pooled(part, specs[0], small) for part in (fitted, held_out))
    read = sources(choice.encoder, settings.encoder_prime, fitted)

    def make(number: int, nth: int) -> RPM:
        with seeded(mixed(seed, number)):
            nets = [
                make_network(spec, source.encoder, rows=source.rows, restart=nth)
                for spec, source in zip(specs[nth % len(specs)], read, strict=True)
            ]
            model = make_model(nets, prior, row_shapes=fitted.recording.row_shapes)
        if specs[0][0].network == "ForegroundCNN":
            _start_at_pairs(model, fitted)
        return model

    model = make(0, 0)
    fitted, held_out = (filled_pairs(model, part) for part in (fitted, held_out))
    _check_outputs(model, fitted, settings.latent_dim)
    return Candidate(choice, fitted, held_out, spread_pairs(fitted, settings.bank_size), specs, shapes, make)


def _sampled(model: RPM, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Latents of some pairs, evenly spaced."""
    return encoded_pairs(model, pairs, np.arange(len(pairs))[:: -(-len(pairs) // _WIDTH_PAIRS)])


@torch.no_grad()
def _moves(candidate: Candidate) -> bool:
    """Whether more than half of the latents are not all alike, as those of frames without foreground are."""
    z, _ = _sampled(candidate.make(0, 0), candidate.fitted)
    return bool((z - z.median(0).values).abs().amax(1).median() > _ALIKE)


@torch.no_grad()
def _start_at_pairs(model: RPM, pairs: Pairs) -> None:
    """Let a lengthscale start at the median distance of pairs: places are right from the start, and move slowly."""
    coupling = model.prior.coupling if isinstance(model.prior, InfoNCEPrior) else None
    if not isinstance(coupling, ScaledCoupling) or coupling.initialised or coupling.log_lengthscale.ndim:
        return
    z, z_prime = _sampled(model, pairs)
    distance = (z - z_prime).norm(dim=-1).median()
    if distance > 0:
        coupling.log_lengthscale.fill_(float(distance.log()))
        coupling.initialised_flag.fill_(True)


def _pooled(pairs: Pairs, specs: Sequence[EncoderSpec], small: dict[Any, Recording]) -> Pairs:
    """Pairs of frames as encoders read them, averaged over patches once and not in every step."""
    if pairs.recording.known is not None or pairs.recording.row_shapes is not None:
        return pairs

    def of(recording: Recording, spec: EncoderSpec) -> Recording:
        if spec.pool is None:
            return recording
        key = (id(recording), spec.pool)
        if key not in small:
            small[key] = _means(recording, *spec.pool)
        return small[key]

    prime = pairs.recording_prime
    return replace(
        pairs,
        recording=of(pairs.recording, specs[0]),
        recording_prime=None if prime is None else of(prime, specs[1]),
    )


def _means(recording: Recording, factor: int, shape: tuple[int, int]) -> Recording:
    pool = Pooled(nn.Identity(), factor=factor, shape=shape).pool
    size = rows_at_once(recording.shape[1:])
    parts = [pool(as_tensor(recording[start : start + size])).numpy() for start in range(0, len(recording), size)]
    return Recording(
        [np.concatenate(parts)], sessions=recording.sessions, times=recording.times, observed=recording.observed
    )


def _check_outputs(model: RPM, fitted: Pairs, latent_dim: int) -> None:
    outputs = latent_dim * (2 if model.prior.needs_density else 1)
    x, x_prime = encoded_pairs(model, fitted, np.arange(2))  # x may be several rows, of the encoder of x'
    sides = {"": x, "_prime": x_prime} if model.prior.order == 1 else {"": x_prime}
    for name, parameters in sides.items():
        if tuple(parameters.shape) != (2, outputs):
            raise ValueError(
                f"Expected an encoder{name} with {outputs} outputs for latent_dim={latent_dim}"
                f"{' (means and log-variances)' if model.prior.needs_density else ''}; got outputs of shape "
                f"{tuple(parameters.shape)} for 2 rows."
            )
