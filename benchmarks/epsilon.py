"""What epsilon does to the ELBO of an epsilon-Gaussian under a parametric prior, by the bank that R(z) comes from.

    python benchmarks/epsilon.py --out docs/images/epsilon.png

x and x' are N points: standard normal in D dimensions, with correlation 0.9 in each, and read by the identity. Over the
data set as the empirical base the value is computed exactly in expectation; with the true marginal of x, which the
world knows, R(z) is a Gaussian and the ELBO a formula. Printed are slopes per nat of log epsilon, between neighbouring
values of epsilon.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import recparam as rp
from recparam.plots.style import INK, style

RHO = 0.9
COLOURS = {1: "#0072B2", 2: "#D55E00", 4: "#009E73"}
DASHES = {16: "-", 256: "--"}


def empirical(rows: int, dim: int, epsilon: float, *, seed: int, draws: int) -> tuple[float, float]:
    """The ELBO over the data set as its own base, and the smallest distance between two encoded points."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(rows, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    pair = [x, RHO * x + (1 - RHO**2) ** 0.5 * noise]
    model = rp.RPM(
        rp.EpsilonGaussian(nn.Identity(), epsilon=epsilon),
        rp.JointGaussianPrior(dim, correlation=RHO),
        marginal=rp.DatasetMarginal(*pair),
    ).double()
    with torch.no_grad():
        bound = model.elbo(*pair, num_samples=draws, generator=generator)
    return float(bound), min(float(torch.pdist(x).min()), float(torch.pdist(pair[1]).min()))


def true_marginal(dim: int, epsilon: float) -> float:
    """E[log P(z, z')] - 2 E[log R(z)] with R(z) = N(0, (1 + epsilon) I), from second moments."""
    spread = 1 + epsilon
    # Under the prior, z and (z' - RHO z) / sqrt(1 - RHO^2) are standard normal.
    log_prior = -0.5 * (spread + (spread * (1 + RHO**2) - 2 * RHO**2) / (1 - RHO**2) + math.log(1 - RHO**2))
    log_marginal = -0.5 * (1 + math.log(spread))
    return dim * (log_prior - 2 * log_marginal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("epsilon.png"))
    options = parser.parse_args()
    exponents = list(range(0, -13, -1))
    logs = torch.tensor([exponent * math.log(10) for exponent in exponents], dtype=torch.float64)
    with style():
        fig = Figure(figsize=(7.2, 3.4), layout="constrained")
        FigureCanvasAgg(fig)
        ax, slopes_ax = fig.subplots(1, 2)
        for dim, colour in COLOURS.items():
            truth = [true_marginal(dim, 10.0**exponent) for exponent in exponents]
            ax.plot(exponents, truth, color=colour, lw=1.2, ls=":")
            slopes_ax.axhline(dim, color="#BBBBBB", lw=0.8, zorder=0)
            for rows, dash in DASHES.items():
                runs = [
                    [
                        empirical(rows, dim, 10.0**exponent, seed=seed, draws=options.draws)
                        for exponent in exponents
                    ]
                    for seed in range(options.seeds)
                ]
                values = torch.tensor([[value for value, _ in run] for run in runs], dtype=torch.float64)
                slopes = values.diff() / logs.diff()
                ax.plot(exponents, values.mean(0), color=colour, lw=1.6, ls=dash, label=f"D = {dim}, N = {rows}")
                slopes_ax.plot(exponents[1:], slopes.mean(0), color=colour, lw=1.6, ls=dash)
                closest = min(run[0][1] for run in runs)
                print(
                    f"D = {dim}, N = {rows}: slope {float(slopes[:, -1].mean()):.3f} "
                    f"({float(slopes[:, -1].min()):.3f} to {float(slopes[:, -1].max()):.3f}) from 1e{exponents[-2]} to "
                    f"1e{exponents[-1]}, {float(slopes[:, 0].mean()):.3f} from 1 to 0.1; closest points {closest:.1e}",
                    flush=True,
                )
        ax.plot([], [], color=INK, lw=1.2, ls=":", label="true marginal")
        slopes_ax.set_ylim(-1, 4.5)
        ax.set_ylabel("ELBO - const (nats)")
        slopes_ax.set_ylabel("slope per nat of log epsilon")
        for each in (ax, slopes_ax):
            each.set_xlabel("log10 epsilon")
            each.invert_xaxis()
            each.spines[["top", "right"]].set_visible(False)
        ax.legend(loc="lower left", fontsize=7.5)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(options.out, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
