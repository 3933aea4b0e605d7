"""Why a value is an estimate, whatever the table of directions says: its encoder or scales are not as taken there.

A direction holds for an encoder that is one fixed function of each row, and for parameters that do not depend on the
scored rows. What is not so is said here, in words that a `Bound` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.couplings import Coupling
from recparam.ops.collectives import Share

FITTED = "its scales were set by this call, from the rows it scores"
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORM = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_ROWS = 4  # encoded again, which shows what is random or reads other rows
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 3e-2  # of the largest latent: what rounding may do, in single and half precision


def doubt_of_mode(*models: nn.Module) -> str | None:
    """Which parts are in training mode and may compute something else in evaluation mode; None where none is.

    Modules of torch and of this library are known. Others are taken to depend on their mode.

    Example:
        >>> doubt_of_mode(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
        'Dropout is in training mode; call eval()'
        >>> doubt_of_mode(nn.Linear(2, 2), nn.Dropout(0.5).eval())
    """
    names = {type(part).__name__: None for model in models for part in model.modules() if _of_mode(part)}
    if not names:
        return None
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} in training mode; call eval()"


def prepared(coupling: Coupling, z: Tensor, z_prime: Tensor, share: Share | None = None) -> str | None:
    """Set what a training step sets, and say why no direction holds of its value, where that is so.

    With a share it is set from the rows of all processes, so that their copies of the coupling start equal.

    Raises:
        UninitialisedError: The coupling waits for data, and this is no training.
    """
    if share is not None and not coupling.initialised:
        z, z_prime = share.gathered(z.detach()), share.gathered(z_prime.detach())
    return FITTED if coupling.prepare(z, z_prime) else doubt_of_mode(coupling)


def doubt_of_encoder(
    encode: Callable[..., Sequence[Distribution]],
    observations: Sequence[Tensor],
    encoded: Sequence[Distribution],
    *,
    half: bool,
) -> str | None:
    """`doubt_of_encoding` of distributions.

    Args:
        encode: Maps observations to their distributions.
        observations: The rows, one (B, ...) per observation.
        encoded: What `encode` made of them.
        half: Whether a part of the encoder has half precision.
    """
    return doubt_of_encoding(
        lambda rows: list(_numbers(encode(*(x[rows.to(x.device)] for x in observations)))),
        list(_numbers(encoded)),
        half=half,
    )


@torch.no_grad()
def doubt_of_encoding(
    encode: Callable[[Tensor], Sequence[Tensor]], encoded: Sequence[Tensor], *, half: bool = False
) -> str | None:
    """Whether a few rows, encoded again, are what they were among all; None where they are.

    It finds dropout that is always on, noise, and normalisation over the batch in evaluation mode.

    Args:
        encode: Encodes the rows of these numbers.
        encoded: What all B rows were encoded to, tensors (B, ...).
        half: Whether that was done in half precision, as it is under autocast.
    """
    size = len(encoded[0])
    rows = torch.linspace(0, size - 1, max(1, min(_ROWS, size // 2))).long()
    before = [value[rows.to(value.device)] for value in encoded]
    try:
        first, second = (encode(rows) for _ in range(2))
    except (RuntimeError, ValueError):  # as batch norm of one row
        return "its encoder reads several rows at once"
    half = half or torch.is_autocast_enabled(encoded[0].device.type)
    allowed = _HALF_TOLERANCE if half else _TOLERANCE
    if not _equal(first, second, allowed):
        return "its encoder is random: the same rows were encoded to other latents"
    return None if _equal(before, first, allowed) else "its encoder makes other latents of a row in other company"


def _of_mode(part: nn.Module) -> bool:
    """Whether a module is in training mode and may compute something else, by itself, in evaluation mode."""
    if not part.training:
        return False
    if isinstance(part, _DROPOUT):
        return part.p > 0
    if isinstance(part, (*_BATCH_NORM, nn.RReLU)):
        return True
    if isinstance(part, _INSTANCE_NORM):
        return bool(part.track_running_stats)
    if isinstance(part, nn.RNNBase | nn.MultiheadAttention):
        return part.dropout > 0
    return not type(part).__module__.startswith(("torch.nn.modules.", "recparam."))


def _numbers(distributions: Sequence[Distribution]) -> Iterator[Tensor]:
    """Mean and deviation of each, where it has them."""
    for distribution in distributions:
        for name in ("mean", "stddev"):
            try:
                yield getattr(distribution, name)
            except NotImplementedError:
                continue


def _equal(some: Sequence[Tensor], others: Sequence[Tensor], allowed: float) -> bool:
    """Whether tensors are equal to a part of their largest value."""
    return all(
        bool(((a - b).abs() <= allowed * a.abs().amax().clamp_min(torch.finfo(a.dtype).tiny)).all())
        for a, b in zip(some, others, strict=True)
    )
