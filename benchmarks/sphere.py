"""Pairs on the sphere: z uniform, z'|z von Mises-Fisher. The mutual information, and the latents of mixed observations.

    python benchmarks/sphere.py [--seeds 3] [--pairs 40000]

From z itself the bound of a cosine coupling with a learned temperature should reach the truth, as it is the family of
the density ratio; from observations that mix z, an encoder trained by that bound should find z up to a rotation.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

import recparam as rp
from recparam.evaluation import LinearDecoder, r2


def uniform(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Directions, uniform on the sphere, shape (count, dim)."""
    return nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def near(z: Tensor, kappa: float, generator: torch.Generator) -> Tensor:
    """z' ~ vMF(z, kappa) in three dimensions, where the cosine to z has an inverse distribution function."""
    share = torch.rand(len(z), 1, generator=generator, dtype=torch.float64)
    cosine = 1 + torch.log(share + (1 - share) * math.exp(-2 * kappa)) / kappa
    side = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    side = nn.functional.normalize(side - (side * z).sum(1, keepdim=True) * z, dim=1)
    return cosine * z + (1 - cosine.square()).clamp_min(0).sqrt() * side


def truth(kappa: float) -> float:
    """MI in nats in three dimensions: log(kappa / sinh kappa) + kappa (coth kappa - 1 / kappa)."""
    log_sinh = kappa + math.log1p(-math.exp(-2 * kappa)) - math.log(2)
    return math.log(kappa) - log_sinh + kappa / math.tanh(kappa) - 1


def mixer(width: int, generator: torch.Generator) -> nn.Module:
    """A fixed random network that mixes z into observations of that width."""
    layers = [nn.Linear(3, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            rows = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.data = rows / layer.in_features**0.5
            layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=generator)
    return nn.Sequential(*layers).requires_grad_(False)


def decoded(model: rp.RPM, x: Tensor, z: Tensor) -> float:
    """R2 of z from unit latents by a linear map, fitted on one half and scored on the other, mean over coordinates."""
    with torch.no_grad():
        latents = nn.functional.normalize(model.encode(x).mean, dim=1).double().numpy()
    half = len(x) // 2
    decoder = LinearDecoder().fit(latents[:half], z[:half].numpy())
    return r2(decoder.predict(latents[half:]), z[half:].numpy())


class Found(NamedTuple):
    """What one seed gave; values in nats."""

    lower: rp.Bound
    kappa: float
    decoded: float
    untrained: float
    bound_of_encoder: float


def run(seed: int, *, kappa: float, pairs: int, steps: int, batch_size: int) -> Found:
    """The bound from z itself, and an encoder of mixed observations, on as many new pairs as were fitted."""
    generator = torch.Generator().manual_seed(seed)
    z = uniform(2 * pairs, 3, generator)
    z_prime = near(z, kappa, generator)
    fit, test = slice(0, pairs), slice(pairs, None)
    coupling = rp.Cosine(temperature=0.5)
    mi = rp.estimate_mutual_information(
        z[fit],
        z_prime[fit],
        x_test=z[test],
        x_prime_test=z_prime[test],
        critic=coupling,
        bank_size=4096,
        random_state=seed,
    )
    torch.manual_seed(seed)
    mix = mixer(20, generator)
    x, x_prime = mix(z.float()), mix(z_prime.float())
    model = rp.RPM(rp.Deterministic(rp.MLP(20, 3, hidden=(128, 128))), rp.InfoNCEPrior(rp.Cosine(temperature=0.5)))
    untrained = decoded(model, x[test], z[test])
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(pairs, (batch_size,), generator=generator)
        optimiser.zero_grad()
        (-model.elbo(x[rows], x_prime[rows]).value).backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        bound = model.mutual_information(x[test][:4096], x_prime[test][:4096]).lower
    learned = 1 / float(coupling.temperature.detach())
    return Found(mi.lower, learned, decoded(model, x[test], z[test]), untrained, float(bound))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kappa", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=40000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"truth {truth(given.kappa):.4f} nats")
    print("| seed | lower bound from z | kappa learned | R2 of the encoder | untrained | bound from observations |")
    print("|---|---|---|---|---|---|")
    for seed in range(given.seeds):
        found = run(seed, kappa=given.kappa, pairs=given.pairs, steps=given.steps, batch_size=given.batch_size)
        print(
            f"| {seed} | {float(found.lower):.4f} ± {found.lower.standard_error:.4f} | {found.kappa:.2f} "
            f"| {found.decoded:.4f} | {found.untrained:.3f} | {found.bound_of_encoder:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
