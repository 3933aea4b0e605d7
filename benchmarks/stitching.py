"""Stitching together (docs/base-marginals.md): a joint from generators of the two marginals and an RPM between them.

x' = 0.4 x + sin(2 x) + 0.3 e, with x from two overlapping Gaussians. An RPM is trained on pairs; a Gaussian mixture is
fitted to x alone and another to x' alone, and pairs are sampled by resampling. Each seed draws its own data, starts
and samples. Prints each quantity beside its truth, and the mean error over seeds with its 95 % interval.

Run: python benchmarks/stitching.py --seeds 8 --figure docs/images/stitching.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

import recparam as rp

NOISE = 0.3
COMPONENTS = 8


def expected(x: Tensor) -> Tensor:
    """E[x'|x]."""
    return 0.4 * x + torch.sin(2 * x)


def draw_pairs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n pairs (x, x') of the truth, each (n, 1)."""
    side = 2.0 * torch.randint(0, 2, (n, 1), generator=generator) - 1
    x = 1.2 * side + 0.7 * torch.randn(n, 1, generator=generator)
    return x, expected(x) + NOISE * torch.randn(n, 1, generator=generator)


def true_log_prob(x: Tensor, x_prime: Tensor) -> Tensor:
    """log P(x, x') of the truth, shape (n,), in nats."""

    def normal(value: Tensor, scale: float) -> Tensor:
        return -0.5 * (value / scale).square() - math.log(scale * math.sqrt(2 * math.pi))

    log_x = torch.logaddexp(normal(x - 1.2, 0.7), normal(x + 1.2, 0.7)) - math.log(2)
    return (log_x + normal(x_prime - expected(x), NOISE))[:, 0]


def train(x: Tensor, x_prime: Tensor, *, steps: int, batch: int = 256, seed: int = 0) -> rp.RPM:
    """An RPM of the pairs under the InfoNCE prior, its base marginals fitted to x and to x' alone."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    recognition = [rp.Deterministic(rp.MLP(1, 8, hidden=(64, 64))) for _ in range(2)]
    model = rp.RPM(recognition, rp.InfoNCEPrior(rp.GaussianRBF(lengthscale=1.0)))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        rows = torch.randint(len(x), (batch,), generator=generator)
        optimiser.zero_grad()
        (-model.elbo(x[rows], x_prime[rows]).value).backward()
        optimiser.step()
    bases = [rp.GaussianMixtureBase.fit(each, components=COMPONENTS, seed=seed) for each in (x, x_prime)]
    model.marginal = rp.EstimatedMarginal(*bases, num_samples=4096, generator=generator, hold=True)
    return model.eval()


def statistics(x: Tensor, x_prime: Tensor) -> dict[str, float]:
    """Correlations of pairs: of x and x', and of E[x'|x] and x'."""
    pearson = [torch.corrcoef(torch.cat([each, x_prime], 1).T)[0, 1] for each in (x, expected(x))]
    return {"correlation of x and x'": float(pearson[0]), "correlation of E[x'|x] and x'": float(pearson[1])}


@torch.no_grad()
def compare(model: rp.RPM, *, num: int, num_candidates: int, seed: int) -> tuple[rp.Generated, dict[str, list[float]]]:
    """Draws of the model, and each quantity as [truth, model, independent draws of the bases]."""
    generator = torch.Generator().manual_seed(1000 + seed)
    drawn = model.sample(num, num_candidates=num_candidates, generator=generator)
    apart = model.marginal.sample_bases(num, generator)
    truth = draw_pairs(1_000_000, generator)
    columns = [statistics(*pairs) for pairs in (truth, drawn.observations, apart)]
    table = {name: [column[name] for column in columns] for name in columns[0]}
    test = draw_pairs(4000, generator)
    log_base = model.marginal.log_base(test)
    log_p = model.log_prob(*test, side="upper")
    table["log P(x, x') of new pairs"] = [float(true_log_prob(*test).mean()), float(log_p), float(log_base.mean())]
    return drawn, table


def figure(path: Path, model: rp.RPM, drawn: rp.Generated) -> None:
    """The truth, independent draws of the bases, and the resampled pairs."""
    import matplotlib.pyplot as plt

    generator = torch.Generator().manual_seed(1)
    count = len(drawn.observations[0])
    panels = {
        "the truth": draw_pairs(count, generator),
        "the two generators, apart": model.marginal.sample_bases(count, generator),
        "stitched together": drawn.observations,
    }
    line = torch.linspace(-3.5, 3.5, 200)
    fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained")
    for axis, (title, (x, x_prime)) in zip(axes, panels.items(), strict=True):
        axis.plot(line, expected(line), color="0.6", linewidth=1)
        axis.scatter(x, x_prime, s=3, alpha=0.5, linewidths=0)
        axis.set(title=title, xlabel="x", xlim=(-3.5, 3.5), ylim=(-3.2, 3.2))
    axes[0].set_ylabel("x'")
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the seeds, print the table, and draw the first seed's figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--candidates", type=int, default=20_000)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    tables: list[dict[str, list[float]]] = []
    for seed in range(options.seeds):
        x, x_prime = draw_pairs(options.pairs, torch.Generator().manual_seed(seed))
        model = train(x, x_prime, steps=options.steps, seed=seed)
        drawn, table = compare(model, num=options.draws, num_candidates=options.candidates, seed=seed)
        tables.append(table)
        print(f"seed {seed}: {drawn}", {name: [round(v, 3) for v in row] for name, row in table.items()}, flush=True)
        if options.figure is not None and seed == 0:
            figure(options.figure, model, drawn)
    for name in tables[0]:
        truth, fitted, apart = torch.tensor([table[name] for table in tables], dtype=torch.float64).unbind(1)
        error = fitted - truth
        spread = float(error.std()) / len(error) ** 0.5 * float(stats.t.ppf(0.975, len(error) - 1))
        print(
            f"{name}: truth {float(truth.mean()):.3f}, stitched {float(fitted.mean()):.3f}, apart "
            f"{float(apart.mean()):.3f}; stitched - truth {float(error.mean()):+.3f} +- {spread:.3f}"
        )


if __name__ == "__main__":
    main()
