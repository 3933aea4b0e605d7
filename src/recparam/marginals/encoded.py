"""The observations behind a bank, encoded at each call or once and held."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from recparam.marginals.gathered import joined
from recparam.utils.checks import check_count
from recparam.utils.evaluating import evaluating

Encode = Callable[..., list[Distribution]]


@dataclass(frozen=True)
class Encoded:
    """What the encoder made of the observations.

    Args:
        distributions: R_phi(z_j|x_j) of each, batch shape (N,).
        age: Training steps since they were encoded, at least, shape (N,); None where they are what encoding
            now would give, gradients included as far as they were asked for.
    """

    distributions: list[Distribution]
    age: Tensor | None


class EncodedData:
    """N observations that a bank is made of, and what they were last encoded to.

    Args:
        observations: One tensor (N, ...) per observation.
        hold: False encodes at each call, in one pass and with gradients. True encodes at the first call, in chunks,
            without gradients and in evaluation mode, and keeps that until `refresh`.
        chunk: Rows per pass of the encoder where the result is held; memory does not grow with N by more than this.
        name: What the warning calls the owner.

    Raises:
        ValueError: chunk is not a whole number of at least one.
    """

    def __init__(self, observations: Sequence[Tensor], *, hold: bool, chunk: int, name: str) -> None:
        check_count("chunk", chunk)
        self.observations, self.hold, self.chunk, self.name = tuple(observations), hold, chunk, name
        self.steps = 0
        self._held: list[Distribution] | None = None
        self._state: list[Tensor] = []
        self._settings: list[object] = []

    def moved(self, move: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Move the observations as a module's `to` moves its tensors, and forget what is held of another dtype.

        Where the bank is held they are encoded in chunks and stay on their device, which may be the larger one.

        Returns:
            No rows of each, on the device and of the dtype they were to move to.
        """
        to = [move(x[:0]) for x in self.observations]
        if any(x.dtype != like.dtype for x, like in zip(self.observations, to, strict=True)):
            self.refresh()
        pairs = zip(self.observations, to, strict=True)
        self.observations = tuple(x.to(like.dtype) if self.hold else x.to(like) for x, like in pairs)
        return to

    def refresh(self) -> None:
        """Forget what is held; the next call encodes anew."""
        self._held, self._state, self._settings, self.steps = None, [], [], 0

    def __call__(
        self, encode: Encode, *, recognition: Sequence[nn.Module], device: torch.device, gradients: bool
    ) -> Encoded:
        """The encoded observations.

        Args:
            encode: Maps observations to their distributions.
            recognition: The modules that `encode` runs, by whose parameters and buffers an old bank is known.
            device: Where to encode.
            gradients: Whether the caller differentiates through the encoder, which what is held does not offer.
        """
        if not self.hold:
            return Encoded(encode(*(x.to(device) for x in self.observations)), None)
        state = [value for module in recognition for value in (*module.parameters(), *module.buffers())]
        settings = [part for module in recognition for part in _settings(module)]
        kinds = [[(value.shape, value.dtype, value.device) for value in side] for side in (state, self._state)]
        # Of no use to another network, dtype or device, nor to the same network with other settings.
        if self._held is None or kinds[0] != kinds[1] or settings != self._settings:
            self.refresh()
            self._held = self._encode(encode, recognition, device)
            self._state = [value.detach().clone() for value in state]
            self._settings = settings
        old = not all(torch.equal(now, then) for now, then in zip(state, self._state, strict=True))
        if old:
            warnings.warn(
                f"The bank of the {self.name} is older than the encoder, whose parameters or buffers have changed: its "
                f"values are estimates. Call marginal.refresh() to encode the observations again.",
                stacklevel=5,
            )
        if not old and not gradients:
            return Encoded(self._held, None)
        age = max(self.steps, 1) if old else 0
        return Encoded(self._held, torch.full((len(self.observations[0]),), age, device=device))

    @torch.no_grad()
    def _encode(self, encode: Encode, recognition: Sequence[nn.Module], device: torch.device) -> list[Distribution]:
        # In evaluation mode: batch norm would make a row's encoding depend on its chunk.
        with evaluating(*recognition):
            chunks = zip(*(x.split(self.chunk) for x in self.observations), strict=True)
            return joined([encode(*(x.to(device) for x in chunk)) for chunk in chunks])


def _settings(model: nn.Module) -> list[object]:
    """What tells encoders of equal tensors apart: the module itself, and plain numbers and words in it."""
    parts: list[object] = [id(model)]
    for module in model.modules():
        parts.append(type(module))
        parts += [
            (name, value)
            for name, value in sorted(vars(module).items())
            if name != "training" and isinstance(value, bool | int | float | str)
        ]
    return parts
