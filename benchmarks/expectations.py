"""Noise of the ELBO's gradient against the number of draws, with sampled and with closed-form expectations.

    python benchmarks/expectations.py --out docs/images/gradient-variance.png

x and x' are standard normal with correlation 0.9 in every dimension, z = x and z' = x' plus noise of the recognition
model's variance. The number drawn is the trace of the covariance of the gradient in all parameters (encoder and
coupling) over repeated draws for fixed data; each seed draws other data. A third line takes E[log f] over z as well,
which the library does not: see docs/theory.md.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from torch import Tensor, nn

import recparam as rp
from recparam.couplings import Coupling
from recparam.plots.style import INK, style
from recparam.priors.closed_forms import Moments, expected_log_f

RHO = 0.9
SETTINGS = ((64, 2), (16, 5))  # rows of a batch, dimensions
COUPLINGS: dict[str, Callable[[int], Coupling]] = {
    "RBF, lengthscale 0.46": lambda dim: rp.GaussianRBF(lengthscale=0.46),
    "bilinear, theta = 0.5 I": lambda dim: rp.Bilinear(dim, theta=0.5 * torch.eye(dim)),
}
WAYS = {"sampled": "#D55E00", "analytic": "#0072B2", "analytic, E[log f] over z too": "#8C8C8C"}


def model_of(coupling: Coupling, dim: int, noise: float) -> rp.RPM:
    net = nn.Linear(dim, 2 * dim)
    with torch.no_grad():
        net.weight.copy_(torch.cat([torch.eye(dim), torch.zeros(dim, dim)]))
        net.bias.copy_(torch.cat([torch.zeros(dim), torch.full((dim,), math.log(noise))]))
    return rp.RPM(rp.Gaussian(net), rp.InfoNCEPrior(coupling)).double()


def objective(model: rp.RPM, coupling: Coupling, pair: list[Tensor], way: str, count: int) -> Tensor:
    bound = model.elbo(*pair, expectation="sampled" if way == "sampled" else "analytic", num_samples=count)
    if way in ("sampled", "analytic"):
        return bound.value
    z, z_prime = (Moments.of(model.encode(x)) for x in pair)
    return bound.terms["minus_log_Z"] + expected_log_f(coupling, z, z_prime).mean()


def variance(
    name: str, rows: int, dim: int, way: str, count: int, *, noise: float, seed: int, repeats: int
) -> float:
    torch.manual_seed(seed)
    x = torch.randn(rows, dim, dtype=torch.float64)
    pair = [x, RHO * x + (1 - RHO**2) ** 0.5 * torch.randn_like(x)]
    coupling = COUPLINGS[name](dim)
    model = model_of(coupling, dim, noise)
    parameters = list(model.parameters())
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(objective(model, coupling, pair, way, count), parameters)])
        for _ in range(repeats)
    ]
    return float(torch.stack(gradients).var(0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.1, help="variance of the recognition model")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8], help="draws of z per row")
    parser.add_argument("--out", type=Path, default=Path("gradient-variance.png"))
    options = parser.parse_args()
    settings = {"noise": options.noise, "repeats": options.repeats}
    with style():
        fig = Figure(figsize=(7.2, 5.2), layout="constrained")
        FigureCanvasAgg(fig)
        axes = fig.subplots(len(SETTINGS), len(COUPLINGS), sharex=True)
        for row, (rows, dim) in enumerate(SETTINGS):
            for column, name in enumerate(COUPLINGS):
                ax, first = axes[row][column], {}
                for way, colour in WAYS.items():
                    table = torch.tensor(
                        [
                            [
                                variance(name, rows, dim, way, count, seed=seed, **settings)
                                for count in options.counts
                            ]
                            for seed in range(options.seeds)
                        ]
                    )
                    first[way] = table[:, 0]
                    for line in table:
                        ax.plot(options.counts, line, color=colour, lw=0.7, alpha=0.45)
                    middle = table.log().mean(0).exp()
                    ax.plot(options.counts, middle, color=colour, lw=2.0, marker="o", ms=4, label=way)
                for way in list(WAYS)[1:]:
                    ratio = first["sampled"] / first[way]
                    mean, least, most = (float(v) for v in (ratio.log().mean().exp(), ratio.min(), ratio.max()))
                    print(f"{name}, {rows} rows, D = {dim}, one draw: sampled / {way}", end=" ")
                    print(f"= {mean:.2f} ({least:.2f} to {most:.2f} over seeds)", flush=True)
                ax.set_xscale("log", base=2)
                ax.set_yscale("log")
                ax.xaxis.set_major_locator(FixedLocator(options.counts))
                ax.xaxis.set_minor_locator(NullLocator())
                ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                ax.set_title(f"{name}\n{rows} rows, {dim} dimensions", color=INK)
                ax.spines[["top", "right"]].set_visible(False)
                if row == len(SETTINGS) - 1:
                    ax.set_xlabel("draws of z per row")
                if column == 0:
                    ax.set_ylabel("variance of the gradient (trace)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=len(WAYS))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(options.out, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
