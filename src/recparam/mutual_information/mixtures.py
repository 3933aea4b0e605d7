"""Couplings of several parts: conditional densities that are mixtures of Gaussians, and the mean of several log f."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.couplings import Coupling
from recparam.networks import MLP
from recparam.ops import BlockScore, Score, pairwise_logmeanexp

_WHOLE = 1 << 18  # numbers below which all components of a mixture are formed at once, which is quicker


class MixtureParameters(nn.Module):
    """x to a mixture of K diagonal Gaussians over v: means, log-scales and log-weights, in one row.

    Args:
        width: D of x.
        width_prime: E of v.
        components: K.
        hidden: Width of the two hidden layers.
    """

    def __init__(self, width: int, width_prime: int, *, components: int = 8, hidden: int = 64) -> None:
        super().__init__()
        self.components, self.width_prime = components, width_prime
        self.net = MLP(width, components * (2 * width_prime + 1), hidden=(hidden, hidden), activation=nn.SiLU)
        self.linear = nn.Linear(width, width_prime)
        last = self.net.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight *= 0.3
            bias = last.bias.view(components, 2 * width_prime + 1)
            bias[:, :width_prime] = 0.5 * torch.randn(components, width_prime)
            bias[:, width_prime : 2 * width_prime] = 0

    def forward(self, u: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        """Parameters, shape (B, K (2 E + 1))."""
        width = self.width_prime
        means, log_scales, logits = self.net(u).unflatten(1, (self.components, -1)).split([width, width, 1], -1)
        # No scale far below the data's own: single precision, and a sample's ties, allow no more.
        parts = (means + self.linear(u)[:, None], log_scales.clamp(-6, 3), logits.log_softmax(1))
        return torch.cat(parts, -1).flatten(1)


class MixtureSide(nn.Module):
    """v, and the offset -log P(v) for the mixture over a sample of x: the side of x' of `MixtureCoupling`."""

    parameters_of_sample: Tensor

    def __init__(self, coupling: MixtureCoupling, parameters_of_sample: Float[Tensor, "N P"]) -> None:
        super().__init__()
        self.coupling = coupling
        self.register_buffer("parameters_of_sample", parameters_of_sample)

    def forward(self, v: Float[Tensor, "B E"]) -> Float[Tensor, "B E1"]:
        """Coordinates and offset."""
        zero = nn.functional.pad(v, (0, 1))
        transposed = BlockScore(lambda columns, rows: self.coupling.score()(rows, columns).T)
        offset = -pairwise_logmeanexp(transposed, zero, self.parameters_of_sample)
        return torch.cat([v, offset[:, None]], 1)


class MixtureCoupling(Coupling):
    """log f = log of a mixture of K diagonal Gaussians at v, whose parameters are z, plus an offset of z'.

        log f(z, z') = log sum_k exp(w_k) N(v; m_k, diag exp(2 s_k)) + b,   z = (m, s, w),   z' = (v, b)

    Args:
        width_prime: E of v.
        components: K.
    """

    def __init__(self, width_prime: int, *, components: int = 8) -> None:
        super().__init__()
        self.width_prime, self.components = width_prime, components

    def _check_widths(self, width: int, width_prime: int) -> None:
        wanted = (self.components * (2 * self.width_prime + 1), self.width_prime + 1)
        if (width, width_prime) != wanted:
            raise ValueError(f"Expected z and z_prime of widths {wanted}; got {width} and {width_prime}.")

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        width, v, offset = self.width_prime, z_prime[..., :-1], z_prime[..., -1]
        constant = offset - 0.5 * width * math.log(2 * math.pi)
        parameters = z.unflatten(-1, (self.components, -1))
        pairs = torch.broadcast_shapes(z.shape[:-1], z_prime.shape[:-1])
        if math.prod(pairs) * self.components * width <= _WHOLE:
            return constant + self._terms(parameters, v[..., None, :]).logsumexp(-1)
        total = v.new_full(pairs, -torch.inf)
        for k in range(self.components):
            total = torch.logaddexp(total, self._terms(parameters[..., k, :], v))
        return constant + total

    def _terms(self, parameters: Tensor, v: Tensor) -> Tensor:
        """Log-weight plus log-density of components, by coordinates: on blocks of pairs nothing larger is held."""
        width = self.width_prime
        means, log_scales, log_weights = parameters.split([width, width, 1], -1)
        terms, precisions = (log_weights[..., 0] - log_scales.sum(-1)), (-log_scales).exp()
        for e in range(width):
            terms = terms - 0.5 * ((v[..., e] - means[..., e]) * precisions[..., e]).square()
        return terms

    def score(self) -> Score:
        """The same on blocks."""
        return BlockScore(lambda z, bank: self(z[:, None], bank[None]))


class SideBySide(nn.Module):
    """What several encoders make of the same x, side by side.

    Args:
        encoders: At least one.
    """

    def __init__(self, encoders: Iterable[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        """Their latents, in the widest precision of them."""
        return torch.cat([encoder(x) for encoder in self.encoders], 1)


class MeanCoupling(Coupling):
    """The mean of several log f, each of latents of its own that lie side by side.

    Args:
        parts: The couplings.
        widths: Widths of z and z' of each, and the precision that it takes.
    """

    def __init__(self, parts: Sequence[Coupling], widths: Sequence[tuple[int, int, torch.dtype]]) -> None:
        super().__init__()
        self.parts, self.widths = nn.ModuleList(parts), list(widths)

    def _check_widths(self, width: int, width_prime: int) -> None:
        wanted = (sum(w for w, _, _ in self.widths), sum(w for _, w, _ in self.widths))
        if (width, width_prime) != wanted:
            raise ValueError(f"Expected z and z_prime of widths {wanted}; got {width} and {width_prime}.")

    def _log_f(self, z: Tensor, z_prime: Tensor) -> Tensor:
        return self._mean(z, z_prime, lambda part, own, own_prime: part(own, own_prime))

    def score(self) -> Score:
        """The same on blocks."""
        return BlockScore(lambda z, bank: self._mean(z, bank, lambda part, own, columns: part.score()(own, columns)))

    def _mean(self, z: Tensor, z_prime: Tensor, log_f: Callable[[Coupling, Tensor, Tensor], Tensor]) -> Tensor:
        total, start, start_prime = None, 0, 0
        for part, (width, width_prime, dtype) in zip(self.parts, self.widths, strict=True):
            assert isinstance(part, Coupling)
            stop, stop_prime = start + width, start_prime + width_prime
            value = log_f(part, z[..., start:stop].to(dtype), z_prime[..., start_prime:stop_prime].to(dtype))
            total = value.to(z.dtype) if total is None else total + value
            start, start_prime = stop, stop_prime
        assert total is not None
        return total / len(self.parts)
