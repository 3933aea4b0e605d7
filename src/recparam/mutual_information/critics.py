"""Flexible critics: encoders and couplings that follow log R(x, x') / (R(x) R(x')) closely, to bound the MI by.

A critic is a recognition-parameterised model like any other: deterministic encoders g, g' and a coupling, so that
log f(g(x), g'(x')) bounds the mutual information from below under an InfoNCE prior (Eq. 25), whatever it learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.bounds import infonce
from recparam.couplings import Bilinear, Coupling
from recparam.networks import MLP
from recparam.ops import BlockScore, Score, pairwise_logmeanexp

_WHOLE = 1 << 18  # numbers below which all components of a mixture are formed at once, which is quicker
_SAMPLE = 2048  # rows whose mixture stands for the marginal of a conditional density
_EVERY, _PATIENCE, _DROPS = 25, 8, 2
"""Steps between two looks at the validation pairs, looks without progress before the rate drops, and drops."""


class GaussianSide(nn.Module):
    """One side of the log-ratio of a Gaussian with canonical correlations rho, as a dot product.

        log f = sum_k (rho_k u_k v_k - rho_k^2 v_k^2 / 2) / (1 - rho_k^2)

    which is log R(x, x') / (R(x) R(x')) but for a function of x, and that takes no part in Eq. 24.

    Args:
        correlations: rho, shape (K,).
        prime: Whether this is the side of x'.
    """

    rho: Tensor

    def __init__(self, correlations: Float[Tensor, " K"], *, prime: bool) -> None:
        super().__init__()
        self.register_buffer("rho", correlations.clamp(0, 0.9999))
        self.prime = prime

    def forward(self, u: Float[Tensor, "B D"]) -> Float[Tensor, "B K1"]:
        """Features of canonical coordinates: K factors and an offset."""
        rho, u = self.rho, u[:, : len(self.rho)]
        precision = 1 / (1 - rho.square())
        if not self.prime:
            return torch.cat([u * rho * precision, torch.ones_like(u[:, :1].sum(1, keepdim=True))], 1)
        return torch.cat([u, -0.5 * (u.square() * (rho.square() * precision)).sum(1, keepdim=True)], 1)


class SeparableSide(nn.Module):
    """One side of a learned log f = phi(x) . psi(x') + b(x'), beside a fixed one."""

    def __init__(self, width: int, fixed: nn.Module, *, prime: bool, hidden: int = 64, features: int = 32) -> None:
        super().__init__()
        self.net = MLP(width, features + prime, hidden=(hidden, hidden), activation=nn.SiLU)
        self.fixed, self.prime = fixed, prime
        last = self.net.layers[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight *= 0.5  # the fixed part leads at first

    def forward(self, u: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """The learned factors, then an offset, then the fixed side's."""
        out = self.net(u)
        parts = [out, self.fixed(u)] if self.prime else [out, torch.ones_like(out[:, :1]), self.fixed(u)]
        return torch.cat(parts, 1)


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


@dataclass(frozen=True)
class Critic:
    """Two deterministic encoders and a coupling.

    Args:
        name: What it is, for people.
        encoders: g of x and g' of x'.
        coupling: log f of what they return.
    """

    name: str
    encoders: tuple[nn.Module, nn.Module]
    coupling: Coupling

    def value(self, x: Tensor, x_prime: Tensor) -> Tensor:
        """InfoNCE on a batch (Eq. 6), in nats, differentiable."""
        g, g_prime = self.encoders
        return infonce(self.coupling, g(x), g_prime(x_prime), across_processes=False).value


Pairs = tuple[Tensor, Tensor]
Maps = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Fitting:
    """What critics are fitted to, and how long.

    Args:
        pairs: x (N, D) and x' (N, E) to learn from.
        validation: Pairs to choose by.
        steps: Training steps at most.
        batch_size: Pairs in a step.
        generator: Chooses the pairs of each step.
    """

    pairs: Pairs
    validation: Pairs
    steps: int
    batch_size: int
    generator: torch.Generator

    def through(self, maps: Maps) -> Fitting:
        """The same in other coordinates."""
        pairs, validation = ((maps[0](x), maps[1](x_prime)) for x, x_prime in (self.pairs, self.validation))
        return replace(self, pairs=pairs, validation=validation)

    def descend(
        self, parameters: Iterable[nn.Parameter], loss: Callable[[Tensor, Tensor], Tensor], *, rate: float
    ) -> None:
        """Adam on random pairs until those of the validation stop to improve; the best parameters are kept.

        Args:
            parameters: What to train.
            loss: Maps x and x' to a scalar.
            rate: Learning rate at the start.
        """
        trained = list(parameters)
        optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-3, fused=True)
        best, kept = math.inf, [p.detach().clone() for p in trained]
        waited = drops = 0
        x, x_prime = self.pairs
        for step in range(self.steps + 1):
            if step % _EVERY == 0 or step == self.steps:
                with torch.no_grad():
                    value = float(loss(*self.validation))
                waited += 1
                if value < best - 1e-4:
                    best, kept, waited = value, [p.detach().clone() for p in trained], 0
                if waited >= _PATIENCE:
                    if drops == _DROPS:
                        break
                    drops, waited = drops + 1, 0
                    _restore(trained, kept)
                    for group in optimiser.param_groups:
                        group["lr"] *= 0.3
            if step < self.steps:
                rows = torch.randperm(len(x), generator=self.generator)[: self.batch_size]
                optimiser.zero_grad()
                loss(x[rows], x_prime[rows]).backward()
                optimiser.step()
        _restore(trained, kept)


def gaussian_critic(name: str, maps: Maps, rho: Tensor, fitting: Fitting) -> Critic:
    """Jointly Gaussian in canonical coordinates, in closed form; validation pairs say how many of them.

    Args:
        name: What to call it.
        maps: x and x' to canonical coordinates.
        rho: The canonical correlations.
        fitting: Its validation pairs are used.
    """
    best, found = -math.inf, None
    for count in range(len(rho) + 1):
        sides = (GaussianSide(rho[:count], prime=False), GaussianSide(rho[:count], prime=True))
        encoders = (nn.Sequential(maps[0], sides[0]), nn.Sequential(maps[1], sides[1]))
        critic = Critic(f"Gaussian, {count} canonical pairs, {name}", encoders, dot_product(count + 1))
        with torch.no_grad():
            value = float(critic.value(*fitting.validation))
        if value > best + 1e-3:
            best, found = value, critic
    assert found is not None
    return found


def separable_critic(name: str, maps: Maps, base: Critic, fitting: Fitting) -> Critic:
    """A learned dot product beside a Gaussian critic's, trained by InfoNCE.

    Args:
        name: What to call it.
        maps: x and x' to the coordinates of the Gaussian critic.
        base: That critic.
        fitting: Pairs and training.
    """
    inside = fitting.through(maps)
    fixed = [encoder[-1] for encoder in base.encoders if isinstance(encoder, nn.Sequential)]
    g = SeparableSide(inside.pairs[0].shape[1], fixed[0], prime=False)
    g_prime = SeparableSide(inside.pairs[1].shape[1], fixed[1], prime=True)
    coupling = dot_product(g(inside.pairs[0][:1]).shape[1])
    critic = Critic("", (g, g_prime), coupling)
    inside.descend([*g.parameters(), *g_prime.parameters()], lambda u, v: -critic.value(u, v), rate=2e-3)
    encoders = (nn.Sequential(maps[0], g), nn.Sequential(maps[1], g_prime))
    return Critic(f"separable networks, {name}", encoders, coupling)


def mixture_critic(name: str, maps: Maps, fitting: Fitting) -> Critic:
    """A conditional density P(x'|x) over its own marginal, trained by maximum likelihood: it needs no negatives.

    Args:
        name: What to call it.
        maps: x and x' to coordinates of moderate size.
        fitting: Pairs and training.
    """
    inside = fitting.through(maps)
    width, width_prime = (u.shape[1] for u in inside.pairs)
    net, coupling = MixtureParameters(width, width_prime), MixtureCoupling(width_prime)

    def loss(u: Tensor, v: Tensor) -> Tensor:
        return -coupling(net(u), nn.functional.pad(v, (0, 1))).mean()

    inside.descend(net.parameters(), loss, rate=5e-3)
    with torch.no_grad():
        sample = net(inside.pairs[0][:_SAMPLE])
    encoders = (nn.Sequential(maps[0], net), nn.Sequential(maps[1], MixtureSide(coupling, sample)))
    return Critic(f"mixture density, {name}", encoders, coupling)


def dot_product(width: int) -> Bilinear:
    """log f = z . z', with nothing to learn."""
    coupling = Bilinear(width)
    coupling.theta.requires_grad_(False)
    return coupling


@torch.no_grad()
def _restore(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
