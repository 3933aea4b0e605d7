"""Evidence is no measure of entanglement: a flexible critic beside simple priors, where the truth is known.

    python benchmarks/flexible_critic.py [--seeds 5] [--out figure.png]

Two independent coordinates in the unit square, uniform, each with reflected Laplace steps, seen through ten nonlinear
channels. One encoder per prior and start; of the starts of a prior the bound on validation pairs chooses, and labels
choose nothing. Evidence is of new pairs against other new pairs as the bank, so that both sides are bounds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor

import recparam as rp
from recparam.couplings import Coupling
from recparam.evaluation import LinearDecoder, mcc, mean_interval, r2

DIM, CHANNELS, SCALE = 2, 10, 0.08
PRIORS: dict[str, Callable[[], Coupling]] = {
    "Laplace (matching)": lambda: rp.Laplace(dim=DIM),
    "Gaussian": lambda: rp.GaussianRBF(),
    "joint critic": lambda: rp.JointCritic(DIM),
}
SIMPLE, FLEXIBLE = list(PRIORS)[:2], list(PRIORS)[2:]
UNTRAINED, CHANCE = "untrained encoder", "chance"
SCORES = {"mcc": "MCC", "linear": "R2, linear", "neighbours": "R2, 10 nearest"}
Pair = tuple[Tensor, Tensor]


def truth_of(z: Tensor, z_prime: Tensor, scale: float) -> float:
    """Mean log P(z'|z) / P(z') in nats: a Laplace density with its reflections, P(z') uniform."""
    images = torch.cat([sign * z[..., None] + 2 * k for sign in (1, -1) for k in range(-3, 4)], -1)
    density = (-(z_prime[..., None] - images).abs() / scale).exp().sum(-1) / (2 * scale)
    return float(density.log().sum(1).mean())


class World:
    """The box and its channels, the same for all priors of a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        shapes = ((DIM, CHANNELS), (CHANNELS, CHANNELS))
        self.weights = [torch.randn(shape, generator=self.generator) / shape[0] ** 0.5 for shape in shapes]

    def draw(self, count: int) -> tuple[Pair, Pair]:
        """Coordinates (z, z') and observations (x, x') of so many independent pairs."""
        z = torch.rand(count, DIM, generator=self.generator)
        share = torch.rand(count, DIM, generator=self.generator) - 0.5
        step = -SCALE * share.sign() * (1 - 2 * share.abs()).clamp_min(1e-12).log()
        z_prime = 1 - (1 - (z + step).remainder(2)).abs()
        return (z, z_prime), (self.mixed(z), self.mixed(z_prime))

    def mixed(self, z: Tensor) -> Tensor:
        """What is seen of coordinates."""
        first, second = self.weights
        return torch.tanh(1.5 * torch.tanh((4 * z - 2) @ first) @ second)


@dataclass(frozen=True)
class Settings:
    """How much is drawn and trained."""

    pairs: int = 20_000
    held_out: int = 1024
    steps: int = 1500
    batch_size: int = 128
    starts: int = 2
    lr: float = 3e-3


def new_model(coupling: Coupling, seed: int) -> rp.RPM:
    """An encoder with its prior, the same initial encoder for all priors of a seed."""
    torch.manual_seed(seed)
    encoder = rp.MLP(CHANNELS, DIM, hidden=(64, 64))
    return rp.RPM(rp.Deterministic(encoder), rp.InfoNCEPrior(coupling))


def fitted(make: Callable[[], Coupling], fit: Pair, validation: Pair, settings: Settings, seed: int) -> rp.RPM:
    """The start that is best by the bound on validation pairs."""
    best, model = -math.inf, None
    for start in range(settings.starts):
        candidate = new_model(make(), 100 * seed + start)
        order = torch.Generator().manual_seed(seed)
        candidate.elbo(*(side[: settings.batch_size] for side in fit))  # lengthscales start from the data
        optimiser = torch.optim.Adam(candidate.parameters(), lr=settings.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
        for _ in range(settings.steps):
            rows = torch.randint(settings.pairs, (settings.batch_size,), generator=order)
            optimiser.zero_grad()
            (-candidate.elbo(*(side[rows] for side in fit)).value).backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            bound = float(candidate.eval().elbo(*validation))
        if bound > best:
            best, model = bound, candidate
    assert model is not None
    return model


def decoded(z_fit: Tensor, y_fit: Tensor, z: Tensor, y: Tensor) -> dict[str, float]:
    """How the coordinates can be read from latents, on rows that no decoder was fitted to."""
    arrays = [part.double().numpy() for part in (z_fit, y_fit, z, y)]
    z_fit_, y_fit_, z_, y_ = arrays
    near = KNeighborsRegressor(10).fit(z_fit_, y_fit_)
    return {
        "mcc": mcc(z_, y_),
        "linear": r2(LinearDecoder().fit(z_fit_, y_fit_).predict(z_), y_),
        "neighbours": r2(near.predict(z_), y_),
    }


@dataclass(frozen=True)
class Found:
    """What one seed gave: evidence in nats, and scores of the latents, by prior."""

    truth: float
    compared: rp.Comparison
    scores: dict[str, dict[str, float]]
    grids: dict[str, np.ndarray]


def run(seed: int, settings: Settings) -> Found:
    """One world, all priors."""
    world = World(seed)
    (y_fit, _), fit = world.draw(settings.pairs)
    _, validation = world.draw(settings.held_out)
    (y, y_prime), test = world.draw(settings.held_out)
    _, bank = world.draw(settings.held_out)
    models = {name: fitted(make, fit, validation, settings, seed) for name, make in PRIORS.items()}
    encoders = {**models, UNTRAINED: new_model(rp.GaussianRBF(1.0), 100 * seed).eval()}
    line = torch.linspace(0.02, 0.98, 25)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    scores, grids, some = {}, {}, slice(0, 4000)
    with torch.no_grad():
        for name, model in encoders.items():
            z_fit, z, at = (model.encode(x).mean for x in (fit[0][some], test[0], world.mixed(grid.reshape(-1, DIM))))
            scores[name] = decoded(z_fit, y_fit[some], z, y)
            grids[name] = at.reshape(*grid.shape).numpy()
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        scores[CHANCE] = decoded(y_fit[some], y_fit[some].flip(0), y[order], y)
        compared = rp.compare(models, test, bank=bank)
    return Found(truth_of(y, y_prime, SCALE), compared, scores, grids)


def shown(values: Sequence[float]) -> str:
    """Mean over seeds with Student's t interval."""
    mean, low, high = mean_interval(list(values)) if len(values) > 1 else (values[0], math.nan, math.nan)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def tables(found: Sequence[Found]) -> str:
    """All arms, and each flexible critic less each simple prior."""
    lines = [
        f"truth {shown([f.truth for f in found])} nats; mean over {len(found)} seeds (95 %)\n",
        f"| prior | evidence, nats | lower | upper | {' | '.join(SCORES.values())} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (*PRIORS, UNTRAINED, CHANCE):
        cells = ["-", "-", "-"]
        if name in PRIORS:
            evidence = [f.compared[name] for f in found]
            sides = [[float(getattr(e, side)) for e in evidence] for side in ("estimate", "lower", "upper")]
            cells = [shown(sides[0]), *(f"{np.mean(side):.3f}" for side in sides[1:])]
        lines.append(
            f"| {name} | {' | '.join([*cells, *(shown([f.scores[name][s] for f in found]) for s in SCORES)])} |"
        )
    lines += ["\n| difference | evidence, nats | by the bounds | MCC | R2, linear | verdicts |"]
    lines += ["|---|---|---|---|---|---|"]
    for critic in FLEXIBLE:
        for simple in SIMPLE:
            pairs = [f.compared.difference(critic, simple) for f in found]
            ends = [np.mean([getattr(d, end) for d in pairs]) for end in ("low", "high")]
            less = [shown([f.scores[critic][s] - f.scores[simple][s] for f in found]) for s in ("mcc", "linear")]
            counts = {v: [d.verdict for d in pairs].count(v) for v in dict.fromkeys(d.verdict for d in pairs)}
            lines.append(
                f"| {critic} - {simple} | {shown([d.mean for d in pairs])} | {ends[0]:.3f} to {ends[1]:.3f} "
                f"| {' | '.join(less)} | {'; '.join(f'{v}: {n}' for v, n in counts.items())} |"
            )
    return "\n".join(lines)


def draw(found: Sequence[Found], path: Path) -> None:
    """Evidence beside MCC of each seed, and the box as the encoders of the first seed see it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from recparam.plots.style import style

    colours = dict(zip((*PRIORS, UNTRAINED), ("#0072B2", "#56B4E9", "#D55E00", "#8C8C8C"), strict=True))
    with style():
        fig = Figure(figsize=(11.0, 5.4), layout="constrained")
        FigureCanvasAgg(fig)
        top, bottom = fig.subfigures(2, 1, height_ratios=(1.25, 1.0))
        for ax, score in zip(top.subplots(1, 3), SCORES, strict=True):
            for name in PRIORS:
                x = [float(f.compared[name].estimate) - f.truth for f in found]
                y = [f.scores[name][score] for f in found]
                ax.plot(x, y, "o", ms=4.5, color=colours[name], label=name, alpha=0.85)
            for name, dash in ((UNTRAINED, (0, (4, 2))), (CHANCE, (0, (1, 2)))):
                ax.axhline(np.mean([f.scores[name][score] for f in found]), ls=dash, lw=1, color="#8C8C8C", label=name)
            ax.set_xlabel("evidence less the truth (nats per pair)")
            ax.set_title(SCORES[score], loc="left")
        top.axes[-1].legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for ax, name in zip(bottom.subplots(1, len(PRIORS) + 1), (*PRIORS, UNTRAINED), strict=True):
            grid = found[0].grids[name]
            ax.plot(grid[:, ::2, 0], grid[:, ::2, 1], color=colours[name], lw=0.7)
            ax.plot(grid[::2, :, 0].T, grid[::2, :, 1].T, color=colours[name], lw=0.7)
            ax.set_title(name, loc="left", fontsize=9)
            ax.set_xticks([])
            ax.set_yticks([])
        fig.savefig(path, dpi=150)


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--starts", type=int, default=Settings.starts)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in range(options.seeds):
        found.append(run(seed, Settings(steps=options.steps, starts=options.starts)))
        print(f"seed {seed}\n{found[-1].compared}\n{found[-1].scores}\n", flush=True)
    print(tables(found))
    if options.out:
        draw(found, options.out)


if __name__ == "__main__":
    main()
