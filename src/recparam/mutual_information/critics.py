"""Flexible critics: encoders and couplings that follow log R(x, x') / (R(x) R(x')) closely, to bound the MI by.

A critic is a recognition-parameterised model like any other: deterministic encoders g, g' and a coupling, so that
log f(g(x), g'(x')) bounds the mutual information from below under an InfoNCE prior (Eq. 25), whatever it learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recparam.bounds import infonce
from recparam.couplings import Bilinear, Coupling
from recparam.mutual_information.coordinates import AsGiven
from recparam.mutual_information.mixtures import (
    MeanCoupling,
    MixtureCoupling,
    MixtureParameters,
    MixtureSide,
    SideBySide,
)
from recparam.networks import MLP

_SAMPLE = 2048  # rows whose mixture stands for the marginal of a conditional density
_EVERY, _PATIENCE, _DROPS = 25, 8, 2
"""Steps between two evaluations, evaluations without progress before the rate drops, and drops."""
_SHARPEST = 2e-4  # least 1 - rho^2 of canonical pairs, beside networks too, which are trained in single precision
_EXACT = 1e-10  # that of pairs which hold exactly on validation pairs: a Gaussian critic then says up to 11.5 nats


class GaussianSide(nn.Module):
    """One side of the log-ratio of a Gaussian with canonical correlations rho, as a dot product.

        log f = sum_k (rho_k u_k v_k - rho_k^2 v_k^2 / 2) / (1 - rho_k^2)

    which is log R(x, x') / (R(x) R(x')) but for a function of x, and that takes no part in Eq. 24.

    Args:
        correlations: rho, shape (K,).
        prime: Whether this is the side of x'.
        sharpest: Least value of 1 - rho^2, for all pairs or for each, shape (K,).
    """

    rho: Tensor

    def __init__(self, correlations: Float[Tensor, " K"], *, prime: bool, sharpest: float | Tensor = _SHARPEST) -> None:
        super().__init__()
        largest = (1 - torch.as_tensor(sharpest, dtype=correlations.dtype)).sqrt()
        self.register_buffer("rho", correlations.clamp_min(0).minimum(largest))
        self.prime = prime

    def forward(self, u: Float[Tensor, "B D"]) -> Float[Tensor, "B K1"]:
        """Features of canonical coordinates, in the precision of rho: K factors and an offset."""
        rho, u = self.rho, u[:, : len(self.rho)].to(self.rho.dtype)
        precision = 1 / (1 - rho.square())
        if not self.prime:
            return torch.cat([u * rho * precision, torch.ones_like(u[:, :1].sum(1, keepdim=True))], 1)
        return torch.cat([u, -0.5 * (u.square() * (rho.square() * precision)).sum(1, keepdim=True)], 1)


class SeparableSide(nn.Module):
    """One side of a learned log f = phi(x) . psi(x') + b(x'), beside a fixed one."""

    def __init__(self, width: int, fixed: nn.Module, *, prime: bool, hidden: int = 128, features: int = 64) -> None:
        super().__init__()
        # Three hidden layers: with two, coordinates that are wound around each other stay wound.
        self.net = MLP(width, features + prime, hidden=(hidden, hidden, hidden), activation=nn.SiLU)
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

    def values(self, x: Tensor, x_prime: Tensor) -> Tensor:
        """InfoNCE of each pair of a batch (Eq. 6), in nats, differentiable."""
        g, g_prime = self.encoders
        return infonce(self.coupling, g(x), g_prime(x_prime), across_processes=False).per_observation

    def value(self, x: Tensor, x_prime: Tensor) -> Tensor:
        """Its mean."""
        return self.values(x, x_prime).mean()


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

    def train(
        self, modules: Sequence[nn.Module], loss: Callable[[Tensor, Tensor], Tensor], *, rate: float
    ) -> None:
        """Adam on random pairs until the validation loss stops improving; the best parameters are kept.

        Args:
            modules: What to train; left in evaluation mode.
            loss: Maps x and x' to a scalar.
            rate: Learning rate at the start.
        """
        whole = nn.ModuleList(modules)
        trained = [p for p in whole.parameters() if p.requires_grad]
        if not trained:
            whole.eval()
            return
        optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-3, fused=True)
        best, kept = math.inf, [p.detach().clone() for p in trained]
        waited = drops = 0
        x, x_prime = self.pairs
        for step in range(self.steps + 1):
            if step % _EVERY == 0 or step == self.steps:
                whole.eval()
                with torch.no_grad():
                    value = float(loss(*self.validation))
                whole.train()
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
        whole.eval()


def mean_critic(critics: Sequence[Critic], x: Tensor, x_prime: Tensor) -> Critic:
    """The mean log f of several critics, as one.

    Args:
        critics: At least one.
        x: A row of data, shape (1, D), from which the widths of their latents are found.
        x_prime: The same of x'.
    """
    if len(critics) == 1:
        return critics[0]
    widths: list[tuple[int, int, torch.dtype]] = []
    with torch.no_grad():
        for critic in critics:
            z, z_prime = critic.encoders[0](x), critic.encoders[1](x_prime)
            widths.append((z.shape[1], z_prime.shape[1], z.dtype))
    encoders = (SideBySide(c.encoders[0] for c in critics), SideBySide(c.encoders[1] for c in critics))
    return Critic(critics[0].name, encoders, MeanCoupling([c.coupling for c in critics], widths))


def gaussian_critic(name: str, maps: Maps, rho: Tensor, fitting: Fitting) -> Critic:
    """Jointly Gaussian in canonical coordinates, in closed form; validation pairs say how many of them, and how sharp.

    Args:
        name: What to call it.
        maps: x and x' to canonical coordinates.
        rho: The canonical correlations.
        fitting: Its validation pairs are used.
    """
    best, found = -math.inf, None
    with torch.no_grad():
        u, v = (side(x)[:, : len(rho)] for side, x in zip(maps, fitting.validation, strict=True))
    # The largest residual of a validation pair, not the mean one of training pairs: one far test pair ruins a sharp f.
    least = (v - rho * u).square().amax(0).clamp(_EXACT, _SHARPEST)
    sharp = [least] if bool((least < _SHARPEST).any()) else []
    for sharpest, count in product([torch.full_like(least, _SHARPEST), *sharp], range(len(rho) + 1)):
        sides = [GaussianSide(rho[:count], prime=prime, sharpest=sharpest[:count]) for prime in (False, True)]
        encoders = (nn.Sequential(maps[0], sides[0]), nn.Sequential(maps[1], sides[1]))
        critic = Critic(f"Gaussian, {count} canonical pairs, {name}", encoders, dot_product(count + 1).double())
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
    maps = single(maps)
    inside = fitting.through(maps)
    side = base.encoders[0][-1] if isinstance(base.encoders[0], nn.Sequential) else None
    assert isinstance(side, GaussianSide)
    rho = side.rho.to(torch.get_default_dtype())
    widths = [u.shape[1] for u in inside.pairs]
    g, g_prime = (
        SeparableSide(width, GaussianSide(rho, prime=prime), prime=prime)
        for width, prime in zip(widths, (False, True), strict=True)
    )
    coupling = dot_product(g(inside.pairs[0][:1]).shape[1])
    critic = Critic("", (g, g_prime), coupling)
    inside.train((g, g_prime), lambda u, v: -critic.value(u, v), rate=2e-3)
    encoders = (nn.Sequential(maps[0], g), nn.Sequential(maps[1], g_prime))
    return Critic(f"separable networks, {name}", encoders, coupling)


def mixture_critic(name: str, maps: Maps, fitting: Fitting) -> Critic:
    """A conditional density P(x'|x) over its own marginal, trained by maximum likelihood: it needs no negatives.

    Args:
        name: What to call it.
        maps: x and x' to coordinates of moderate size.
        fitting: Pairs and training.
    """
    maps = single(maps)
    inside = fitting.through(maps)
    width, width_prime = (u.shape[1] for u in inside.pairs)
    net, coupling = MixtureParameters(width, width_prime), MixtureCoupling(width_prime)

    def loss(u: Tensor, v: Tensor) -> Tensor:
        return -coupling(net(u), nn.functional.pad(v, (0, 1))).mean()

    inside.train((net,), loss, rate=5e-3)
    with torch.no_grad():
        sample = net(inside.pairs[0][:_SAMPLE])
    encoders = (nn.Sequential(maps[0], net), nn.Sequential(maps[1], MixtureSide(coupling, sample)))
    return Critic(f"mixture density, {name}", encoders, coupling)


def single(maps: Maps) -> Maps:
    """The same maps, into the precision that networks are trained in."""
    return nn.Sequential(maps[0], AsGiven()), nn.Sequential(maps[1], AsGiven())


def dot_product(width: int) -> Bilinear:
    """log f = z . z', with nothing to learn."""
    coupling = Bilinear(width)
    coupling.theta.requires_grad_(False)
    return coupling


@torch.no_grad()
def _restore(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
