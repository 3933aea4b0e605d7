"""Angles that the estimator found, by its priors on circles and spheres and by others, against the true ones.

    python benchmarks/circles.py [--only ring torus sphere mouse] [--cases CASES] [--seeds 0 1 2]

ring, torus and sphere are simulations: counts of cells with von Mises-Fisher tuning whose preferred directions are
drawn evenly, square roots of which are encoded; the truth is a random walk of one angle, of two, or of a point on the
sphere. mouse is CASES/hd_ring_mouse.npz: 19 head-direction cells (`wake_counts` per 50 ms, `wake_segment`,
`wake_angle_rad`), the rows as they are and in windows of 11. Everything is fitted on the first three quarters in time
and scored on the last.

Median errors in degrees. "alone": a sign and an offset are fitted (on the sphere a rotation or reflection), of latents
less their mean for priors that know no circle. "neighbours": the mean direction of the 25 nearest training rows.
"""

import argparse
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import KNeighborsRegressor

import recparam as rp
from recparam.data.recording import Recording
from recparam.data.windows import windowed
from recparam.estimator import FitWarning
from recparam.evaluation import AngleError, angle_error, direction_error


@dataclass
class World:
    """Rows to encode, the rows of the first part, and the truth: angles (N, K), or points on the sphere (N, 3)."""

    rows: Recording
    first: Recording
    truth: np.ndarray
    priors: tuple[tuple[str, int], ...]
    sphere: bool = False
    lag: int = 1


def simulated(kind: str, seed: int, *, rows: int = 4000, cells: int = 60) -> World:
    """Counts of 30 cells (ring) or 60, with at most 3 in a row on average, of a walk with steps of .2 radians."""
    rng = np.random.default_rng(seed)
    if kind == "sphere":
        truth = np.zeros((rows, 3))
        truth[0] = [1, 0, 0]
        for t in range(1, rows):
            step = truth[t - 1] + 0.2 * rng.normal(size=3)
            truth[t] = step / np.linalg.norm(step)
        preferred = rng.normal(size=(cells, 3))
        log_tuning = 4 * (truth @ (preferred / np.linalg.norm(preferred, axis=1, keepdims=True)).T - 1)
        priors = (("sphere", 3), ("gaussian", 3))
    else:
        angles, cells = (1, cells // 2) if kind == "ring" else (2, cells)
        truth = np.cumsum(0.2 * rng.normal(size=(rows, angles)), axis=0)
        preferred = rng.uniform(-np.pi, np.pi, size=(cells, angles))
        log_tuning = 4 / angles * (np.cos(truth[:, None] - preferred) - 1).sum(-1)
        priors = (("circle", 2), ("gaussian", 2), ("gaussian", 3))
        if kind == "torus":
            priors = (("torus", 4), ("gaussian", 3), ("gaussian", 4))
    counts = np.sqrt(rng.poisson(3 * np.exp(log_tuning))).astype(np.float32)
    train = rows * 3 // 4
    return World(Recording.of(counts), Recording.of(counts[:train]), truth, priors, sphere=kind == "sphere")


def mouse(cases: Path, *, beside: int, lag: int) -> World:
    """The recorded head-direction cells, with so many rows on either side of each."""
    file = np.load(cases / "hd_ring_mouse.npz")
    counts, segment = np.sqrt(file["wake_counts"]).astype(np.float32), file["wake_segment"]
    train = len(counts) * 3 // 4
    parts = [Recording.of(counts[:stop], sessions=segment[:stop]) for stop in (len(counts), train)]
    rows, first = (windowed(part, before=beside, after=beside) if beside else part for part in parts)
    priors = (("circle", 2), ("gaussian", 2), ("gaussian", 3))
    return World(rows, first, file["wake_angle_rad"][:, None], priors, lag=lag)


def units(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], -1).reshape(len(angles), -1)


def errors(world: World, z: np.ndarray, *, centred: bool) -> tuple[str, str, str]:
    """Errors of latents alone and by neighbours, and chance, as texts."""
    train, truth = len(world.first), world.truth
    score = direction_error if world.sphere else angle_error
    points = truth if world.sphere else units(truth)
    by_neighbours = KNeighborsRegressor(25).fit(z[:train], points[:train]).predict(z)
    neighbours = score(by_neighbours[:train], truth[:train], by_neighbours[train:], truth[train:])
    alone = None
    if z.shape[1] == points.shape[1]:
        z = z - z[:train].mean(0) if centred else z
        alone = score(z[:train], truth[:train], z[train:], truth[train:])
    return text(alone), text(neighbours), " / ".join(f"{value:.0f}" for value in neighbours.chance)


def text(found: AngleError | None) -> str:
    return "-" if found is None else " / ".join(f"{value:.1f}" for value in found.median)


def report(name: str, world: World, seed: int) -> None:
    for prior, dim in world.priors:
        settings = {"prior": prior, "latent_dim": dim, "lag": world.lag, "random_state": seed}
        nothing = {"max_steps": 1, "restarts": 1, "learning_rate": 1e-9}
        for what, more in (("untrained", nothing), ("fitted", {})):
            cpu = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                est = rp.RPMEstimator(**settings | more).fit(world.first)
            cpu = time.process_time() - cpu
            alone, neighbours, chance = errors(world, est.transform(world.rows), centred=prior == "gaussian")
            print(
                f"{name:<16} seed {seed}  {prior:>8}-{dim} {what:<9}  alone {alone:>12}  neighbours {neighbours:>12}  "
                f"chance {chance}  held out {est.validation_nats_:.3f} nats  {cpu:.0f} CPU s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["ring", "torus", "sphere"])
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for kind in options.only:
            if kind != "mouse":
                report(kind, simulated(kind, seed), seed)
                continue
            for beside, lag in ((0, 1), (5, 5), (5, 11)):
                report(f"mouse {2 * beside + 1} rows lag {lag}", mouse(options.cases, beside=beside, lag=lag), seed)


if __name__ == "__main__":
    main()
