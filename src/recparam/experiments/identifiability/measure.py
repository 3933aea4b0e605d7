"""One world, one prior, one seed: an encoder trained on pairs, and how well it has found the latents."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import recparam as rp
from recparam.bounds import Bound, CeilingWarning
from recparam.evaluation import LinearDecoder, mcc, r2
from recparam.experiments.identifiability.settings import WORLDS, Settings
from recparam.experiments.identifiability.worlds import Mixing, World, unit
from recparam.training import TrainingDiverged
from recparam.utils.seeds import seeded

_WHITENED = 2048  # observations that whiten the encoder's input
_WARMING = 50  # steps
_SLOPE = 0.2  # of the encoder's leaky ReLUs


class Encoder(nn.Module):
    """Observations, whitened as a first batch says, to latents of the same width: a linear map plus an MLP.

    Args:
        dim: n.
        hidden: Widths of the MLP's hidden layers.
        on_sphere: Whether its output is put on the unit sphere.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, dim: int, *, hidden: Sequence[int], on_sphere: bool) -> None:
        super().__init__()
        self.on_sphere = on_sphere
        self.linear = nn.Linear(dim, dim)
        self.net = rp.MLP(dim, dim, hidden=hidden, activation=partial(nn.LeakyReLU, _SLOPE))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitening", torch.eye(dim))

    def whiten(self, x: Tensor) -> None:
        """From now on, subtract the mean of these rows and make their covariance the identity."""
        self.mean = x.mean(0)
        self.whitening = torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T

    def forward(self, x: Tensor) -> Tensor:
        """Latents (B, n)."""
        white = (x - self.mean) @ self.whitening
        z: Tensor = self.linear(white) + self.net(white)
        return unit(z) if self.on_sphere else z


def coupling_of(prior: str, dim: int) -> rp.couplings.Coupling:
    """log f of a prior by name, its scales learned."""
    if prior == "von-mises-fisher":
        return rp.VonMisesFisher(dim, concentration=1.0)
    if prior == "separable":
        return rp.SeparableCritic(dim)
    return {"gaussian": rp.GaussianRBF, "laplace": rp.Laplace, "student-t": rp.StudentT}[prior]()


def true_coupling(world: World) -> rp.couplings.Coupling:
    """log f of the world itself."""
    if world.conditional == "von-mises-fisher":
        return rp.VonMisesFisher(world.dim, concentration=world.scale)
    return (rp.Laplace if world.conditional == "laplace" else rp.GaussianRBF)(lengthscale=world.scale)


def make_model(world: World, prior: str, settings: Settings, x: Tensor) -> rp.RPM:
    """An encoder under a prior, onto the sphere if that is the world's space; x whitens its observations."""
    encoder = Encoder(world.dim, hidden=settings.hidden, on_sphere=world.space == "sphere")
    encoder.whiten(x)
    return rp.RPM(rp.Deterministic(encoder), rp.InfoNCEPrior(coupling_of(prior, world.dim)))


def measure_arm(settings: Settings, arm: str, seed: int) -> dict[str, Any]:
    """Train one arm, WORLD/PRIOR, and score it on pairs it was not trained on.

    Returns:
        R^2 of z decoded linearly, MCC and evidence in nats, with its ceiling; the evidence is that of the same pairs
        against the same bank for all arms of a world and a seed.

    Raises:
        TrainingDiverged: The bound is not finite.
    """
    name, prior = arm.split("/")
    world = WORLDS[name]
    mixing = Mixing(world.dim, _generator(name, seed, "mixing"))
    z, z_prime = world.pairs(settings.held_out, _generator(name, seed, "held out"))
    if prior == "chance":
        return _found(z[torch.randperm(len(z), generator=_generator(name, seed, "chance"))], z)
    if prior == "truth":
        model = rp.RPM(rp.Deterministic(nn.Identity()), rp.InfoNCEPrior(true_coupling(world)))
        information = float(world.log_ratio(z, z_prime).mean())
        return _evidence(model, z, z_prime) | {"information_nats": information}
    stream = _generator(name, seed, "training")
    with seeded(seed):
        first, _ = world.pairs(_WHITENED, stream)
        model = make_model(world, "separable" if prior == "untrained" else prior, settings, mixing(first))
    if prior != "untrained":
        draw = partial(_mixed_pairs, world, mixing, settings.batch_size, stream)
        train(model, draw, settings, steps=settings.steps_of(name), label=f"{arm} seed {seed}")
    model.eval()
    x, x_prime = mixing(z), mixing(z_prime)
    with torch.no_grad():
        numbers = _found(model.encode(x).mean, z)
    return numbers | ({} if prior == "untrained" else _evidence(model, x, x_prime))


def train(
    model: rp.RPM, draw: Callable[[], tuple[Tensor, Tensor]], settings: Settings, *, steps: int, label: str
) -> None:
    """Maximise the bound on new pairs (x, x') at each step."""
    model.train()
    with torch.no_grad():
        model.initialise(*draw())
    weights = [p for p in model.parameters() if p.ndim]
    scales = [p for p in model.parameters() if not p.ndim]
    groups = [{"params": weights, "lr": settings.lr}, {"params": scales, "lr": settings.scale_lr}]
    optimiser = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_share_of_rate, steps=steps))
    for step in range(steps):
        bound = model.elbo(*draw())
        if not math.isfinite(float(bound)):
            raise TrainingDiverged("the bound", label=label, step=step + 1, epoch=1, lr=settings.lr)
        optimiser.zero_grad()
        (-bound.value).backward()
        optimiser.step()
        schedule.step()


def _mixed_pairs(world: World, mixing: Mixing, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    z, z_prime = world.pairs(count, generator)
    return mixing(z), mixing(z_prime)


def _share_of_rate(step: int, *, steps: int) -> float:
    """Up from zero over the first steps, and down to it along a cosine."""
    return min(1.0, (step + 1) / _WARMING) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))


def _found(latents: Tensor, z: Tensor) -> dict[str, float]:
    half, true, found = len(z) // 2, z.numpy().astype(np.float64), latents.numpy().astype(np.float64)
    decoder = LinearDecoder().fit(found[:half], true[:half])
    return {"r2": r2(decoder.predict(found[half:]), true[half:]), "mcc": mcc(found, true)}


def _evidence(model: rp.RPM, x: Tensor, x_prime: Tensor) -> dict[str, float]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)  # the ceiling is in the results
        bound: Bound = model.elbo(x, x_prime)
    assert bound.ceiling is not None
    return {"evidence_nats": float(bound), "ceiling_nats": bound.ceiling}


def _generator(*what: object) -> torch.Generator:
    """A stream of its own for each purpose."""
    return torch.Generator().manual_seed(zlib.crc32(repr(what).encode()))
