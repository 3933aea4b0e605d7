"""`rp.choose_latent_dim` on recordings whose number of latents is known, with the rules that were compared.

    python benchmarks/latent_dims.py CASES [--only rat arena track track_1 few_cells ...] [--out FILE]
    python benchmarks/latent_dims.py CASES --only arena_1 ring_1 chaos room_1 track_2 cart_2 few_cells_1

CASES holds the public cases. Those of the second line decided nothing; the rule was chosen on the others. For each
number of latents: the held-out bound, the predicted share, how far it is behind the best with the standard error of
that difference, and R2 of the truth on the held-out end by least squares and by 20 neighbours, fitted on the rows
before. Labels are used for R2 alone. `rules` are

    worth       the library's: the last number whose latents add 15 % each of the nats that the best latent adds
    largest     the same, but the largest such number, after others that add less
    information the same of -log(1 - share) / 2 of the predicted share
    nine tenths the smallest number with nine tenths of the best bound
    of share    the same of the predicted share
    one error   the smallest number whose share is within one standard error of the best
    gain        the smallest number after which a latent gains less than a tenth of what the best bound gains over the
                smallest number's
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from worlds import cart_video, head_cells, lorenz, place_cells, room_cells, track_cells  # of this folder

import recparam as rp
from recparam.comparison.knee import DimScore, LatentDims, knee
from recparam.estimator.inputs import split_off
from recparam.evaluation.series import mean_error

Case = tuple[np.ndarray, np.ndarray, tuple[int, ...]]


def rat(cases: Path) -> Case:
    file = np.load(cases / "rat_place_cells.npz")
    return np.sqrt(file["counts"].astype(np.float32)), file["position_m"], (2,)


def walk(cases: Path) -> Case:
    file = np.load(cases / "walk.npz")
    return file["x"].astype(np.float32), file["z"], (2,)


CASES: dict[str, Callable[[Path], Case]] = {
    "rat": rat,
    "arena": lambda _: (*place_cells(), (2,)),
    "track": lambda _: (*track_cells(), (1,)),
    "ring": lambda _: (*head_cells(), (2,)),
    "room": lambda _: (*room_cells(), (3,)),
    "cart": lambda _: (*cart_video(), (3, 4)),
    "walk": walk,
    "arena_1": lambda _: (*place_cells(1), (2,)),
    "few_cells": lambda _: (*place_cells(2, cells=40, peak=0.5, width=0.2), (2,)),
    "few_cells_1": lambda _: (*place_cells(5, cells=40, peak=0.5, width=0.2), (2,)),
    "ring_1": lambda _: (*head_cells(1), (2,)),
    "chaos": lambda _: (*lorenz(), (3,)),
    "track_1": lambda _: (*track_cells(1), (1,)),
    "cart_2": lambda _: (*cart_video(2), (3, 4)),
    "track_2": lambda _: (*track_cells(2), (1,)),
    "room_1": lambda _: (*room_cells(1), (3,)),
    "cart_1": lambda _: (*cart_video(1), (3, 4)),
}
"""Each with the numbers of latents that its world has; a line and a circle fit in three, a cylinder, or in four."""


def behind(scores: Sequence[DimScore]) -> list[tuple[float, float]]:
    """How far each share is behind the best, and the standard error of that."""
    best = max(scores, key=lambda score: score.share or -np.inf)
    found = []
    for score in scores:
        assert score.left is not None and score.over is not None and best.left is not None
        more, scale = score.left - best.left, float(score.over.mean())
        found.append((float(more.mean()) / scale, mean_error(more).standard_error / scale))
    return found


def rules(dims: Sequence[int], bounds: Sequence[float], scores: Sequence[DimScore]) -> dict[str, int]:
    shares = [score.share or 0.0 for score in scores]
    gains = np.diff(bounds) / np.diff(dims)
    least = 0.1 * (max(bounds) - bounds[0])

    def enough(values: Sequence[float]) -> int:
        return next(d for d, value in zip(dims, values, strict=True) if value >= 0.9 * max(values))

    adds = np.array(knee(dims, bounds).gains) / max(knee(dims, bounds).gains)
    return {
        "largest": max(d for d, part in zip(dims, adds, strict=True) if part >= 0.15),
        "worth": knee(dims, bounds).chosen,
        "information": knee(dims, [-0.5 * math.log(1 - share) for share in shares]).chosen,
        "nine tenths": enough(bounds),
        "of share": enough(shares),
        "one error": next(d for d, (gap, error) in zip(dims, behind(scores), strict=True) if gap <= error),
        "gain": next((d for d, gain in zip(dims, gains, strict=False) if gain < least), dims[-1]),
    }


def r2s(found: LatentDims, x: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    """Of each number: by least squares, and by neighbours."""
    pairs = split_off(found.best_estimator.pairs_of(x), found.best_estimator.validation_fraction)
    rows, r2 = [np.unique(part.first) for part in pairs], []
    for dim in found.dims:
        z, each = found.estimators[dim].transform(x), []
        for model in (LinearRegression(), KNeighborsRegressor(20)):
            told = model.fit(z[rows[0]], truth[rows[0]]).predict(z[rows[1]]).reshape(-1, truth.shape[1])
            true = truth[rows[1]]
            each.append(float(np.mean(1 - ((told - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0))))
        r2.append(each)
    return r2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--only", nargs="+", default=list(CASES))
    parser.add_argument("--dims", nargs="+", type=int, default=[1, 2, 3, 4, 6])
    parser.add_argument("--max-steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    every: list[dict[str, Any]] = []
    for name in options.only:
        x, truth, right = CASES[name](options.cases)
        start = time.process_time()
        est = rp.RPMEstimator(random_state=options.seed, accelerator="cpu", max_steps=options.max_steps)
        found = rp.choose_latent_dim(est, x, dims=options.dims)
        spent = time.process_time() - start
        print(f"{name}: {' or '.join(map(str, right))} latents, {spent:.0f} CPU s\n{found}", flush=True)
        chosen = rules(found.dims, [score.nats for score in found.scores], found.scores)
        print("  rules:", ", ".join(f"{rule} {dim}{'' if dim in right else ' (!)'}" for rule, dim in chosen.items()))
        linear = r2s(found, x, truth)
        for dim, (least, near), (gap, error) in zip(found.dims, linear, behind(found.scores), strict=True):
            print(f"  {dim}: R2 {least:.3f} linear, {near:.3f} neighbours; share behind {gap:.4f} +- {error:.4f}")
        facts = {"name": name, "right": right, "cpu_s": spent, "rules": chosen, "r2": linear, **found.facts()}
        every.append(facts)
        if options.out:
            options.out.write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
