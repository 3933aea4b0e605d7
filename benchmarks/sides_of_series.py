"""The sides of the evidence against a bank that is a stationary AR(1) series, whose truth is known.

    python benchmarks/sides_of_series.py

For each bank: the lower side with the halves as two stretches (the library's), with neighbours in turn, and the upper
side; mean over banks with its standard error, and the median bank, in nats. Scored pairs are independent of the bank.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from torch import nn

import recparam as rp
from recparam.model.sides import Against, sides_of_latents

WORLDS = ((256, 0.95, 1.0), (256, 0.95, 0.5), (64, 0.99, 1.0))
SCORED = 40


def chains(count: int, rows: int, rho: float, generator: torch.Generator) -> torch.Tensor:
    """Stationary AR(1) series of unit variance, shape (count, rows, 1)."""
    steps = [torch.randn(count, 1, generator=generator, dtype=torch.float64)]
    for _ in range(rows - 1):
        noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)
        steps.append(rho * steps[-1] + (1 - rho**2) ** 0.5 * noise)
    return torch.stack(steps, 1)


def truth(rho: float, lengthscale: float) -> float:
    """E[log f - log Z] in nats: E log f = -(1 - rho) / l^2, Z(z) a Gaussian integral."""
    t = lengthscale**2
    return -(1 - rho) / t - 0.5 * (math.log(t / (t + 1)) - 1 / (t + 1))


@torch.no_grad()
def measure(rows: int, rho: float, lengthscale: float, *, banks: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The sides of each bank, in nats, (banks,)."""
    generator = torch.Generator().manual_seed(seed)
    series = chains(banks, rows + 1, rho, generator)
    pairs = chains(banks * SCORED, 2, rho, generator).reshape(banks, SCORED, 2, 1)
    prior = rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=lengthscale)).double()
    points = [rp.Deterministic(nn.Identity()) for _ in range(2)]
    found: dict[str, list[float]] = {"lower, two stretches": [], "lower, in turn": [], "upper": []}
    for x, scored in zip(series, pairs, strict=True):
        bank, z = (x[:-1], x[1:]), (scored[:, 0], scored[:, 1])
        lower, upper = sides_of_latents(prior, z, Against(bank), labels=None, context=1, sides=("lower", "upper"))
        in_turn = rp.RPM(points, prior, marginal=rp.DatasetMarginal(*bank)).elbo(*z, side="lower")
        for name, side in zip(found, (lower, in_turn, upper), strict=True):
            found[name].append(float(side))
    return {name: np.array(values) for name, values in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--banks", type=int, default=1000)
    options = parser.parse_args()
    print("| rows, correlation, lengthscale | truth | side | mean | median bank |\n|---|---|---|---|---|")
    for world in WORLDS:
        for name, values in measure(*world, banks=options.banks).items():
            error = values.std() / len(values) ** 0.5
            print(
                f"| {', '.join(map(str, world))} | {truth(*world[1:]):.3f} | {name} "
                f"| {values.mean():.4g} ± {error:.2g} | {np.median(values):.3f} |"
            )


if __name__ == "__main__":
    main()
